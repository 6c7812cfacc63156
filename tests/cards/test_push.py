"""What a push uploads, what it refuses, and that a stranger loads it back by the lines on the card."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from support.closure import CLOSURE
from support.hub import PIECES, ROOT, aver, content, elsewhere, here, hub  # noqa: F401 (fixtures)
from support.runs import change_json, made_up_run
from support.training import TINY

from modeling_aver import AverForEmotionClassification
from modeling_aver.cards.push import CODE, push_run
from modeling_aver.io.uploads import UploadError

JUNK = ("checkpoint-2/optimizer.pt", "training_args.bin", "optimizer.pt", "notes.pkl", "cache/frames.npy", "runs/log")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is never changed, with what a push must leave behind."""
    folder = made_up_run(tmp_path_factory.mktemp("runs") / "aver-holdout")
    for name in JUNK:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"junk")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "aver-holdout"))


def made_private(hub):
    """Of each repository: whether the client asked for a private one when it came to be; `None` if it did not say."""
    asked = [json.loads(body) for path, body in reversed(hub.asked) if path == "/api/repos/create"]
    wishes = {"private": True, "public": False, None: None}
    return {each["name"]: each.get("private", wishes[each.get("visibility")]) for each in asked}


def test_exactly_the_pieces_are_uploaded(run, here):
    outcome = aver("push", run, "org/aver")
    assert outcome.exit_code == 0, outcome.exception
    files = content(here)
    assert set(files) == PIECES
    for name in PIECES - {"README.md", "results.json"}:
        assert files[name] == (run / name).read_bytes()
    assert f"{here.endpoint}/org/aver/commit/{here.state.get('model', 'org/aver')['refs']['main']}" in outcome.output


def test_the_code_is_the_closure_of_the_model():
    assert set(CODE) == CLOSURE


def test_the_pushed_card_names_its_repository_and_a_commit_that_holds_the_weights(run, here):
    push_run(run, "org/aver")
    card = content(here)["README.md"].decode()
    repository, commit = re.search(r'repository, revision = "(.*?)", "(.*?)"', card).groups()
    assert repository == "org/aver" and "model.safetensors" in content(here, commit=commit)
    assert ("POST", "/api/validate-yaml", 200) in here.state.log, "the Hub was asked about the metadata"


@pytest.mark.skipif(
    "https://huggingface.co/api" in inspect.getsource(ModelCard.validate),
    reason="this huggingface_hub asks the Hub itself, not the stand-in",
)
def test_the_card_passes_the_hub_s_validation(run, here):
    push_run(run, "org/aver")
    card = ModelCard(content(here)["README.md"].decode())
    here.state.log.clear()
    card.validate()
    assert here.state.log == [("POST", "/api/validate-yaml", 200)]
    assert len(card.data.eval_results) == 3


def test_results_go_without_paths_of_the_machine_and_are_else_unchanged(run, here):
    push_run(run, "org/aver")
    here_results = json.loads((run / "results.json").read_text())
    there = json.loads(content(here)["results.json"])
    assert there == {**here_results, "command": "train_hf.py a.yaml --data_dir .../CREMA-D --bf16"}
    assert not [name for name, data in content(here).items() if b"anna" in data]


def test_private_makes_a_private_repository(run, here):
    aver("push", run, "org/hidden", "--private")
    aver("push", run, "org/open")
    assert made_private(here) == {"hidden": True, "open": None}


def test_what_an_earlier_push_left_goes_and_what_somebody_wrote_stays(run, here):
    api = huggingface_hub.HfApi()
    api.create_repo("org/aver")
    left = ("training_args.bin", "last-checkpoint/optimizer.pt", "model-00001-of-00002.safetensors")
    for name in (*left, "LICENSE.md"):
        api.upload_file(path_or_fileobj=b"left", path_in_repo=name, repo_id="org/aver")
    push_run(run, "org/aver")
    assert set(content(here)) == {*PIECES, "LICENSE.md"}


def test_pushing_again_doubles_nothing(run, here):
    push_run(run, "org/aver")
    push_run(run, "org/aver")
    assert set(content(here)) == PIECES


def test_a_branch_can_be_pushed_to(run, here):
    api = huggingface_hub.HfApi()
    api.create_repo("org/aver")
    api.create_branch("org/aver", branch="fold2")
    push_run(run, "org/aver", revision="fold2")
    repository = here.state.get("model", "org/aver")
    assert set(content(here, commit=repository["refs"]["fold2"])) == PIECES
    assert not content(here)


@pytest.mark.parametrize("name", sorted(PIECES - {"README.md", "training_log.csv", "confusion.png", "loss.png"}))
def test_a_folder_that_lacks_a_piece_is_refused_by_its_name(name, run, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *_, **__: pytest.fail("the Hub was asked"))
    (run / name).unlink()
    outcome = aver("push", run, "org/aver")
    assert outcome.exit_code == 1 and name in str(outcome.exception)


def test_all_missing_pieces_are_named_at_once(run):
    for name in ("model.safetensors", "encoder.py"):
        (run / name).unlink()
    (run / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=r"lacks model.safetensors, encoder.py: not a whole run. .* another format"):
        push_run(run, "org/aver")


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\n"], ids=["empty", "pointer"])
def test_weights_that_cannot_be_read_are_refused(data, run):
    (run / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read .* a pointer of Git-LFS\?"):
        push_run(run, "org/aver")


def test_weights_that_were_cut_short_are_refused(run):
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        push_run(run, "org/aver")


def test_weights_in_several_files_are_pushed_with_their_index(run, here):
    model = AverForEmotionClassification.from_pretrained(run)
    (run / "model.safetensors").unlink()
    model.save_pretrained(run, max_shard_size="60KB")
    shards = {path.name for path in run.glob("model-*.safetensors")}
    push_run(run, "org/aver")
    assert len(shards) > 1
    assert set(content(here)) == PIECES - {"model.safetensors"} | {*shards, "model.safetensors.index.json"}
    (run / sorted(shards)[1]).unlink()
    with pytest.raises(ValueError, match=f"lacks {sorted(shards)[1]}: not a whole run"):
        push_run(run, "org/aver")


def test_an_edited_text_is_kept_and_an_edited_number_refused(run, here):
    push_run(run, "org/aver")
    card = run / "README.md"
    card.write_text(card.read_text().replace("## Limits\n", "## Limits\n\nIt fears the dark.\n"))
    push_run(run, "org/aver")
    assert b"It fears the dark." in content(here)["README.md"]
    change_json(run / "results.json", metrics={"eval_war": 10 / 14, "eval_uar": 0.5})
    with pytest.raises(ValueError, match="README.md claims UAR 0.7333.* which results.json does not give"):
        push_run(run, "org/aver")


def test_a_hub_that_refuses_is_heard(run, here):
    with pytest.raises(UploadError, match="org/aver was not pushed: the Hub answers 404 .*Invalid rev id: nowhere"):
        push_run(run, "org/aver", revision="nowhere")


def python(*arguments, **options):
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=240, **options)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended


# A stranger follows the card: the lines on how to load, then those on how to ask.
STRANGER = """
import re, sys
sys.modules["modeling_aver"] = None  # not installed there
import torch
from huggingface_hub import HfApi, ModelCard
card = ModelCard.load("org/aver")
load, ask = re.findall(r"```python\\n(.*?)```", card.text, flags=re.DOTALL)
exec(load)
assert revision in [commit.commit_id for commit in HfApi().list_repo_commits(repository)]
speech, face = torch.load(sys.argv[1], weights_only=True)
exec(ask)
torch.save(model(**batch).logits.detach(), sys.argv[2])
"""


def logits_of_stranger(hub, folder, num_features):
    generator = torch.Generator().manual_seed(0)
    clip = [torch.randn(4000, generator=generator), torch.rand(8, num_features, generator=generator)]
    torch.save(clip, folder / "clip.pt")
    python("-c", STRANGER, "clip.pt", "logits.pt", env=elsewhere(hub, folder), cwd=folder)
    return clip, torch.load(folder / "logits.pt", weights_only=True)


def logits_here(folder, clip):
    from modeling_aver import AverProcessor

    model, processor = AverForEmotionClassification.from_pretrained(folder), AverProcessor.from_pretrained(folder)
    batch = processor(audio=[clip[0]], action_units=[clip[1]], sampling_rate=16_000, video_frame_rate=30.0)
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.slow
def test_a_stranger_loads_a_pushed_run_by_the_lines_on_its_card(run, hub, tmp_path):
    push = "import sys; from modeling_aver.cards.push import push_run; push_run(*sys.argv[1:])"
    python("-c", push, str(run), "org/aver", env=elsewhere(hub, tmp_path), cwd=ROOT)
    clip, logits = logits_of_stranger(hub, tmp_path, num_features=7)
    # Not bit by bit: matrix kernels choose their order of summation by where weights lie in memory.
    torch.testing.assert_close(logits, logits_here(run, clip), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_training_with_push_to_hub_ends_with_the_same_repository(hub, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    push = {"push_to_hub": True, "hub_model_id": "org/aver", "hub_private_repo": True}
    saving = {"save_strategy": "steps", "save_steps": 1}
    recipe.write_text(yaml.safe_dump({**TINY, **push, **saving, "output_dir": str(tmp_path / "run")}))
    python(str(ROOT / "train_hf.py"), str(recipe), env=elsewhere(hub, tmp_path), cwd=ROOT)
    assert set(content(hub)) == PIECES and made_private(hub) == {"aver": True}
    messages = [commit["title"] for commit in hub.state.get("model", "org/aver")["commits"].values()]
    assert messages == ["initial commit", "Model, code, results and card", "The card names the commit to pin"]
    card = ModelCard(content(hub)["README.md"].decode())
    assert card.data.eval_results is None and "those that the model was trained on" in card.text
    clip, logits = logits_of_stranger(hub, tmp_path, num_features=35)
    torch.testing.assert_close(logits, logits_here(tmp_path / "run", clip), atol=1e-6, rtol=0)
