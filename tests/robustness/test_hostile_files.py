"""Archives, model folders, recipes and names that somebody else made, and that mean harm: one line, or no harm."""

import csv
import io
import json
import re
import shutil
import struct
import warnings
import zipfile

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from support.fake_extractor import BrightnessInPassing
from support.reencoded_media import CLIPS
from support.runs import made_up_run
from support.saved_models import BRIGHTNESS, saved
from transformers import AutoModel

from modeling_aver import AverForEmotionClassification
from modeling_aver.app.report import Limits, report_clip
from modeling_aver.app.report_html import report_html, result_files
from modeling_aver.cards.model_card import render_card
from modeling_aver.cli.main import _load as load_as_commands_do
from modeling_aver.evaluation.run_folder import FinishedRun
from modeling_aver.features import tables as table
from modeling_aver.features.tables import read_features
from modeling_aver.inference.faces import FacesOfExtractor
from modeling_aver.inference.predict import load_pipeline
from modeling_aver.io import archives as media_tree
from modeling_aver.io.archives import find_members
from modeling_aver.io.media import MediaError
from modeling_aver.training.arguments import parse_arguments

PWNED = "from pathlib import Path\nPath({path!r}).touch()\nclass Evil: pass\n"

# ── archives ────────────────────────────────────────────────────────────────────────────────────────────────────────

ELSEWHERE = ["../evil.wav", "/tmp/evil.wav", "a/../../evil.wav", "C:\\evil.wav", "a\\..\\evil.wav", f"{'n' * 300}.wav"]


def zipped(path, *members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for member in members:
            archive.writestr(*member)
    return path


def patched(path, offset_here, offset_in_list, kind, value):
    """Overwrites a field of the first member, in its own header and in the list of members at the end."""
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", offset_here), (b"PK\x01\x02", offset_in_list)):
        struct.pack_into(kind, content, content.index(mark) + offset, value)
    path.write_bytes(content)
    return path


def test_a_zip_s_files_are_read_in_memory_whatever_they_are_called(tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    zipped(root / "audio.zip", *((name, b"sound") for name in ELSEWHERE))
    link = zipfile.ZipInfo("link.wav")
    link.external_attr = 0o120777 << 16  # a symbolic link
    zipped(root / "links.zip", (link, "/etc/passwd"))
    before = sorted(tmp_path.rglob("*"))
    contents = [member.read() for member in find_members(root, {".wav"})]
    assert sorted(contents) == [b"/etc/passwd"] + [b"sound"] * len(
        ELSEWHERE
    )  # where the link leads, not what is there
    assert sorted(tmp_path.rglob("*")) == before


def test_of_two_files_of_one_name_in_a_zip_one_is_read(tmp_path):
    zipped(tmp_path / "audio.zip", ("a.wav", b"first"), ("a.wav", b"second"))
    assert {member.read() for member in find_members(tmp_path, {".wav"})} == {b"second"}


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(media_tree, "MAX_UNPACKED", 10_000)
    zipped(tmp_path / "audio.zip", ("a.wav", bytes(10_001)))
    with pytest.raises(MediaError, match=r"^a.wav cannot be read out of audio.zip: it is over 10,000 bytes once unp"):
        find_members(tmp_path, {".wav"})[0].read()


def test_a_zip_bomb_that_lies_about_its_size_yields_no_byte_more_than_it_says(tmp_path):
    path = patched(zipped(tmp_path / "audio.zip", ("a.wav", bytes(2**20))), 22, 24, "<I", 10)
    with pytest.raises(MediaError, match=r"^a.wav cannot be read out of audio.zip: Bad CRC-32"):
        find_members(path, {".wav"})[0].read()


@pytest.mark.parametrize(
    "here, in_list, kind, value, reason",
    [(6, 8, "<H", 1, "is encrypted"), (8, 10, "<H", 99, "not supported"), (4, 6, "<H", 99, "version")],
    ids=["encrypted", "packed in an unknown way", "of a future version"],
)
def test_a_zip_that_cannot_be_unpacked_is_named_with_the_reason(tmp_path, here, in_list, kind, value, reason):
    path = patched(zipped(tmp_path / "audio.zip", ("a.wav", b"sound")), here, in_list, kind, value)
    with pytest.raises(MediaError, match=f"audio.zip.*{reason}") as error:
        [member.read() for member in find_members(path, {".wav"})]
    assert "\n" not in str(error.value)


def test_an_npz_bomb_and_an_npz_of_objects_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "clip.npz"
    np.savez(path, timestamps=np.zeros(1), features=np.array([{"a": 1}], object))
    with pytest.raises(MediaError, match="clip.npz is not a whole npz of plain arrays: Object arrays cannot be load"):
        read_features(path)
    monkeypatch.setattr(table, "MAX_UNPACKED", 10_000)
    np.savez_compressed(path, timestamps=np.zeros(9), features=np.zeros((9, 1000)))
    with pytest.raises(MediaError, match="clip.npz is not a whole npz of plain arrays: it is over 10,000 bytes"):
        read_features(path)


# ── a model's folder ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def sound_folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound_folder, tmp_path, monkeypatch):
    """A model's folder with code in it that must not run, and nobody to answer questions."""
    copy = tmp_path / "model"
    shutil.copytree(sound_folder, copy)
    (copy / "evil.py").write_text(PWNED.format(path=str(tmp_path / "pwned")))
    monkeypatch.chdir(copy)
    monkeypatch.syspath_prepend(copy)  # as `python -m modeling_aver` has it
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked whether to run code"))
    yield copy
    assert not (tmp_path / "pwned").exists()


def change(path, *keys, **values):
    """Sets values of a JSON file, of the part that `keys` lead to."""
    whole = part = json.loads(path.read_text())
    for key in keys:
        part = part[key]
    part.update(values)
    path.write_text(json.dumps(whole))


KERNEL = "org/x:fn"
REFUSED_CONFIGS = [
    ([], {"attn_implementation": KERNEL}, "`attn_implementation` .*are code from elsewhere"),
    (
        [],
        {"_attn_implementation": "kernels-community/flash-attn2"},
        "`_attn_implementation` .*are code from elsewhere",
    ),
    ([], {"attn_implementation": {"": "sdpa", "audio_config": KERNEL}}, "`attn_implementation` .*code from elsewhere"),
    (["audio_config"], {"attn_implementation": KERNEL}, "`attn_implementation` .*are code from elsewhere"),
    (["audio_config"], {"model_type": "evil"}, r"`audio_config.model_type` \('evil'\) must be one of wav2vec2"),
    (["audio_config"], {"hidden_act": "os.system"}, r"`hidden_act` \('os.system'\) must be one of"),
    (["audio_config"], {"feat_extract_activation": "org/x"}, r"`feat_extract_activation` \('org/x'\) must be one of"),
    (["audio_config"], {"hidden_size": "1; import os"}, "The configuration cannot be read: .*hidden_size"),
    ([], {"hidden_act": "os.system"}, r"`hidden_act` \('os.system'\) must be one of"),
    ([], {"dtype": "os.system"}, r"`dtype` \('os.system'\) must be one of float32"),
    ([], {"dtype": "save"}, r"`dtype` \('save'\) must be one of float32"),  # torch.save is no type
    ([], {"dtype": None, "torch_dtype": "hub.load"}, r"`torch_dtype` \('hub.load'\) must be one of float32"),
    (["audio_config"], {"dtype": "os.system"}, r"`dtype` \('os.system'\) must be one of float32"),
]


@pytest.mark.parametrize("keys, values, message", REFUSED_CONFIGS)
def test_a_configuration_that_names_code_is_refused(folder, keys, values, message):
    change(folder / "config.json", *keys, **values)
    for model in (AutoModel, AverForEmotionClassification):
        with pytest.raises(ValueError, match=message) as error:
            model.from_pretrained(folder)
        assert "\n" not in str(error.value)


EVIL = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}


@pytest.mark.parametrize(
    "keys, values",
    [
        ([], {"auto_map": EVIL}),
        ([], {"auto_map": {name: f"org/x--{code}" for name, code in EVIL.items()}}),
        ([], {"custom_pipelines": {"evil": {"impl": "evil.Evil", "pt": ["AutoModel"]}}}),
        ([], {"architectures": ["Evil"], "_name_or_path": "org/x", "use_kernels": True}),
        ([], {"quantization_config": {"quant_method": "evil"}}),
        ([], {"_attn_implementation_internal": KERNEL}),
        (["audio_config"], {"auto_map": EVIL, "_name_or_path": "org/x", "architectures": ["Evil"]}),
        (["audio_config"], {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}),
    ],
)
def test_a_configuration_that_names_code_otherwise_loads_as_if_it_did_not(folder, keys, values):
    change(folder / "config.json", *keys, **values)
    network, _ = load_as_commands_do(str(folder))
    assert type(network) is AverForEmotionClassification
    assert {network.config._attn_implementation, network.config.audio_config._attn_implementation} == {"sdpa"}


@pytest.mark.parametrize(
    "keys, values, message",
    [
        (
            [],
            {"audio_tokenizer": {"audio_tokenizer_class": "Evil", "audio_tokenizer_name_or_path": "org/x"}},
            "no such",
        ),
        ([], {"audio_tokenizer": {"audio_tokenizer_class": "AutoModel", "audio_tokenizer_name_or_path": "."}}, "no s"),
        (["feature_extractor"], {"feature_extractor_type": "Evil"}, "custom code"),
        (["feature_extractor"], {"feature_extractor_type": "CLIPFeatureExtractor"}, "custom code"),
        (["feature_extractor", "audio_feature_extractor"], {"feature_extractor_type": "Evil"}, "must be one of Wav2"),
        (["feature_extractor", "audio_feature_extractor"], {"feature_extractor_type": ["Evil"]}, "must be one of Wav"),
    ],
)
def test_a_processor_that_names_other_classes_is_refused_without_a_question(folder, keys, values, message):
    change(folder / "processor_config.json", *keys, **values)
    for load in (load_as_commands_do, load_pipeline):
        with pytest.raises(ValueError, match=message):
            load(str(folder))


def test_a_processor_s_own_code_is_left_alone(folder):
    change(folder / "processor_config.json", auto_map={"AutoProcessor": "evil.Evil"}, processor_class="Evil")
    change(folder / "processor_config.json", "feature_extractor", auto_map={"AutoFeatureExtractor": "evil.Evil"})
    change(
        folder / "processor_config.json", chat_template="{{ cycler.__init__.__globals__.os.system('touch pwned') }}"
    )
    assert type(load_as_commands_do(str(folder))[1]).__name__ == "AverProcessor"


def test_pickled_weights_are_never_unpickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch ../pwned'\ntR.")
    for load in (AutoModel.from_pretrained, load_as_commands_do):
        with pytest.raises(OSError, match="no file named model.safetensors"):
            load(str(folder))
    with pytest.raises(Exception, match="[Ww]eights.only"):
        AutoModel.from_pretrained(folder, use_safetensors=False)


def test_an_adapter_in_the_folder_imports_nothing(folder, tmp_path):
    """PEFT makes the adapter: transformers 5.24's `add_adapter` refuses the newest PEFT of its day."""
    peft = pytest.importorskip("peft")
    network = AverForEmotionClassification.from_pretrained(folder)
    adapted = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, folder)
    change(folder / "adapter_config.json", megatron_core="evil", megatron_config={"a": 1})
    with pytest.raises(ValueError, match="megatron_core"):
        load_as_commands_do(str(folder))
    change(folder / "adapter_config.json", megatron_config=None, megatron_core="megatron.core")
    change(folder / "adapter_config.json", auto_mapping={"base_model_class": "Evil", "parent_library": "evil"})
    load_as_commands_do(str(folder))


@pytest.mark.parametrize(
    "code", ['!!python/object/apply:os.system ["touch pwned"]', "!!python/name:os.system", "a: &a *a"]
)
def test_a_recipe_makes_no_objects(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(f"output_dir: {code}\n" if code[0] == "!" else code)
    with pytest.raises(ValueError, match="evil.yaml cannot be read"):
        parse_arguments(["evil.yaml"])
    assert not (tmp_path / "pwned").exists()


# ── names, where they are shown ─────────────────────────────────────────────────────────────────────────────────────

LABELS = {
    0: '<script>alert("0")</script>',
    1: "=cmd|'/c calc'!A0",
    2: "a\n\n00:00.000 --> 00:09.000\nfake",
    3: '$\\frac{"$',
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of a model whose labels mean harm, on a clip whose name does."""
    folder = tmp_path_factory.mktemp("labels")
    recognize = load_pipeline(saved(folder, num_action_units=2, feature_identity=BRIGHTNESS, id2label=LABELS))
    clip = shutil.copy(CLIPS[3], folder / '"><img src=x onerror=alert(1)> $\\x$.flv')
    faces = FacesOfExtractor(BrightnessInPassing(folder / "calls.txt"))
    return report_clip(recognize, clip, faces, Limits())


def test_labels_and_names_are_text_in_the_page(report):
    html = report_html(report)
    assert "<script>alert" not in html and "<img src=x" not in html
    assert "&lt;script&gt;alert" in html and "&lt;img src=x" in html


def test_labels_and_names_are_text_in_every_file(report):
    files = {suffix: content for suffix, (_, content) in result_files(report).items()}
    cues = files["vtt"].decode().split("\n\n")
    assert cues[0] == "WEBVTT" and all(re.match(r"\d\d:\d\d:\d\d\.\d{3} --> ", cue) for cue in cues[1:])
    assert "<script>" not in files["vtt"].decode()
    rows = list(csv.reader(io.StringIO(files["csv"].decode())))
    assert {len(row) for row in rows} == {len(rows[0])} and rows[0][3:7] == [f"p_{label}" for label in LABELS.values()]
    assert json.loads(files["json"]) and files["png"].startswith(b"\x89PNG")


def test_names_cannot_add_to_the_metadata_of_a_card(tmp_path):
    name = 'run\nlicense: mit\ntags: ["x"]'
    run = made_up_run(tmp_path / name, config={"id2label": dict(enumerate([*LABELS.values(), "e", "f"]))})
    card = render_card(FinishedRun.read(run))
    metadata = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert metadata["model-index"][0]["name"] == name and metadata["license"] != "mit" and "x" not in metadata["tags"]
    assert ModelCard(card).data.to_dict() == metadata


# ── the page's server ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "config.json", "/proc/self/environ"]
)
def test_the_page_serves_no_file_of_the_server(sound_folder, monkeypatch, path):
    gradio = pytest.importorskip("gradio", reason='needs Gradio: pip install ".[app]"')
    from starlette.testclient import TestClient

    from modeling_aver.app.page import build_page
    from modeling_aver.app.session import PageSession

    monkeypatch.chdir(sound_folder)
    page = build_page(PageSession(load_pipeline(sound_folder)))
    assert page.analytics_enabled is False
    with TestClient(gradio.routes.App.create_app(page)) as visitor:
        for route in ("/gradio_api/file=", "/file="):
            answer = visitor.get(f"{route}{path}")
            assert answer.status_code in (400, 403, 404) and "root:" not in answer.text
