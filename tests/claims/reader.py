"""What a reader of the documentation has at hand: a clone, an activated environment, and the files that lines name."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from support.corpora import tiny_openface, tiny_sound
from support.fake_openface import write_models, write_openface
from support.models import SHARED, audio_config
from support.reencoded_media import CLIPS, clip, joined, remake
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
    WhisperFeatureExtractor,
    WhisperModel,
)

from modeling_aver import __version__
from modeling_aver.features.mediapipe import MODEL_SHA256, MODEL_VARIABLE

from .documented import ROOT
from .stand_in_pip import extras

CLONED = (
    *("modeling_aver", "datasets_scripts", "benchmarks", "tests", "model_cards"),
    *("train_hf.py", "pyproject.toml", "Makefile", "README.md"),
)
PUSHES = r"aver (data )?push"
TIMEOUT = 600  # seconds for a block, several times what the slowest takes on one core

XLSR = "facebook/wav2vec2-large-xlsr-53"

# Everything that the harness sets and a reader does not: no network but the loopback Hub, and no crowd of threads.
OFFLINE = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_TOKEN": "any",
    "GRADIO_ANALYTICS_ENABLED": "0",
}
THREADS = {"OMP_NUM_THREADS": "1"}
KEPT = ("LANG", "LC_ALL", "TZ", "TMPDIR")  # of the environment of the tests; PATH is that of the system

# Whose model does not need what the paper's does: a mean over six clips, an encoder that starts from nothing.
RECIPE = {
    "dataset_name": "crema_d",
    "train_split": "train",
    "eval_split": "train",
    "audio_config": {
        **{"model_type": "wav2vec2", "conv_dim": [32] * 7, "hidden_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "intermediate_size": 64, "num_conv_pos_embeddings": 16},
        **{"feat_extract_norm": "layer", "do_stable_layer_norm": True},
    },
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 3,
    "learning_rate": 1e-3,
    "save_strategy": "no",
    "report_to": "none",
    "output_dir": "runs/of_recipe",
}


class Reader:
    """
    Runs blocks of commands as a reader would.

    Args:
        root (`Path`): An empty folder, in which things are made once and copied to each block's own clone.
        hub ([`LoopbackHub`]): Holds the encoders that lines name.
        writable: The Hub for pushes, or `None` where there is none.
    """

    def __init__(self, root, hub, writable=None):
        self.root, self.hub, self.writable = root, hub, writable
        self.home = root / "home"
        self.home.mkdir()
        if model := face_landmarker():
            cache = self.home / ".cache" / "modeling-aver"  # as if it had been downloaded by an earlier command
            cache.mkdir(parents=True)
            (cache / f"face_landmarker-{MODEL_SHA256[:12]}.task").symlink_to(model)
        self.environment = root / "environment"
        write_environment(self.environment)
        self.things = {
            "interview.mp4": self._interview,
            "clip.mp4": self._clip,
            **dict.fromkeys(("holiday", "videos", "recordings", "clips_of_anna", "more_of_anna"), self._videos),
            "my_clips": self._my_clips,
            "my_clips.csv": self._my_clips_table,
            "CREMA-D": self._crema_d,
            "RAVDESS": self._ravdess,
            "RECIPE.yaml": self._recipe,
            "path/to/OpenFace": write_openface,
            "path/to/models": write_models,
            "tables": self._tables,
            "runs/demo": self._demo,
            "runs/a": self._demo,
            **dict.fromkeys(("MODEL", "runs/b", "runs/calibrated"), self._model),
        }

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def clone(self, folder, text=""):
        """A fresh clone with `.venv` in it, and whatever `text` names of the reader's own things."""
        folder.mkdir(parents=True)
        for name in CLONED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(".pytest_cache"))
            else:
                shutil.copy(source, folder / name)
        (folder / ".venv").symlink_to(self.environment)
        for name in self.named_in(text):
            self._hand_over(name, folder / name)
        if "org/name" in text:
            self.hub.commit("org/name", {path.name: path.read_bytes() for path in self._made("MODEL").iterdir()})
        return folder

    def named_in(self, text):
        """`list[str]`: the things that lines of text name as existing, `my_clips/` with its table."""
        made = set(re.findall(r"--(?:output_dir|out) (\S+)", text))
        text = re.sub(r"(^| )#.*", "", text, flags=re.MULTILINE)
        names = [name for name in self.things if re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.-])", text)]
        if "my_clips.csv" in names:
            names.append("my_clips")
        return [name for name in dict.fromkeys(names) if name not in made]

    def run(self, text, folder):
        """Output of the commands of a block, run in `folder`; the test fails where they do."""
        shell = self._start(text, folder)
        try:
            output, _ = shell.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            output, _ = shell.communicate()
            pytest.fail(f"not done after {TIMEOUT} s:\n{text}\n{output[-3000:]}")
        assert shell.returncode == 0, f"exit code {shell.returncode} of\n{text}\n{output[-4000:]}"
        return output

    def run_until_interrupted(self, text, folder):
        """As [`Reader.run`], of a block that serves a page until Ctrl-C: the page is fetched first."""
        shell = self._start(text, folder)
        output, address = "", None
        try:
            for line in shell.stdout:
                output += line
                if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                    page = urlopen(address[0], timeout=30).read()
                    assert b"<html" in page.lower()
                    os.killpg(shell.pid, signal.SIGINT)
                    break
            output += shell.communicate(timeout=60)[0]
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
        assert address, f"no address of a page was printed by\n{text}\n{output[-4000:]}"
        assert "Traceback" not in output, output[-4000:]

    def _start(self, text, folder):
        script = f"source .venv/bin/activate\n{text}"
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            **{"cwd": folder, "env": self.variables(text), "text": True, "start_new_session": True},
            preexec_fn=_heed_ctrl_c,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
        )

    def variables(self, text):
        """The environment of the commands: what a login has, and `OFFLINE`, `THREADS` and the loopback Hub."""
        login = {"HOME": str(self.home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
        login |= {name: os.environ[name] for name in KEPT if name in os.environ}
        hub = self.writable if re.search(PUSHES, text) else self.hub
        return {**login, **OFFLINE, **THREADS, "HF_ENDPOINT": hub.endpoint}

    def skip_unless_ready(self, text):
        """Skips the test where extras that the block installs are not installed, or where it pushes to the Hub."""
        for extra in re.findall(r"\[([\w,-]+)\]", " ".join(re.findall(r"pip install .*", text))):
            for name in extra.split(","):
                skip_unless_installed(name)
        if re.search(PUSHES, text) and self.writable is None:
            pytest.skip("waits for the Hub for pushes in ../shared")

    # ── the reader's things ─────────────────────────────────────────────────────────────────────────────────────────

    def _made(self, name):
        """`Path` of a thing that is made once."""
        make = self.things[name]
        made = self.root / "things" / make.__name__
        if not made.exists():
            made.parent.mkdir(exist_ok=True)
            make(made)
        return made

    def _hand_over(self, name, target):
        made = self._made(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if made.is_dir():
            shutil.copytree(made, target, symlinks=True)
        else:
            shutil.copy(made, target)

    @staticmethod
    def _interview(path):
        remake(path.with_suffix(".mp4"), *joined(6.0)).rename(path)

    @staticmethod
    def _clip(path):
        remake(path.with_suffix(".mp4"), *clip()).rename(path)

    @staticmethod
    def _videos(folder):
        folder.mkdir()
        for path in CLIPS[:2]:
            shutil.copy(path, folder)

    @staticmethod
    def _tables(folder):
        shutil.copytree(ROOT / "datasets_scripts" / "sample" / "OpenFace", folder)

    @staticmethod
    def _my_clips(folder):
        folder.mkdir()
        for path in CLIPS:
            shutil.copy(path, folder)

    @staticmethod
    def _my_clips_table(path):
        # Speakers are made up: one person acts in all six.
        parts = ["train", "train", "train", "train", "test", "test"]
        rows = [
            f"my_clips/{c.name},{c.stem[9:12].lower()},{part}er,{part}" for c, part in zip(CLIPS, parts, strict=True)
        ]
        path.write_text("\n".join(["file,label,speaker,split", *rows]) + "\n")

    @staticmethod
    def _crema_d(folder):
        shutil.copytree(ROOT / "datasets_scripts" / "sample", folder)

    @staticmethod
    def _ravdess(folder):
        """Two clips of one actor of each fold, in the official archives."""
        folder.mkdir()
        names = [f"01-01-{code}-01-01-01-{actor}" for actor in ("01", "02", "03", "08", "10") for code in ("03", "05")]
        sound = tiny_sound(sampling_rate=48_000, seconds=0.6)
        archives = {
            "Audio_Speech_Actors_01-24": {f"Actor_{name[-2:]}/03{name[2:]}.wav": sound for name in names},
            "FacialTracking_Actors_01-24": {f"{name}.csv": tiny_openface(18) for name in names},
        }
        for archive, files in archives.items():
            unzipped = folder / archive
            for name, content in files.items():
                (unzipped / name).parent.mkdir(parents=True, exist_ok=True)
                (unzipped / name).write_bytes(content)
            shutil.make_archive(str(unzipped), "zip", unzipped)
            shutil.rmtree(unzipped)

    @staticmethod
    def _recipe(path):
        path.write_text(yaml.safe_dump(RECIPE))

    def _demo(self, folder):
        """What `make demo` leaves: its own line, run."""
        line = re.search(r"train_hf\.py .*recipes/demo\.yaml.*", (ROOT / "Makefile").read_text())[0]
        clone = self.clone(self.root / "clone_of_demo")
        self.run(f"python {line}\n", clone)
        (clone / "runs" / "demo").rename(folder)

    def _model(self, folder):
        """A model of MediaPipe's features of the six clips, whose sound is standardized too."""
        skip_unless_installed("mediapipe")
        clone = self.clone(self.root / "clone_of_model", "RECIPE.yaml")
        self.run(
            "aver extract datasets_scripts/sample/VideoFlash --out features\n"
            'python train_hf.py RECIPE.yaml --action_units_folder "$PWD/features" --freeze_audio_encoder true '
            "--audio_normalization standardize --output_dir MODEL\n",
            clone,
        )
        (clone / "MODEL").rename(folder)


def _heed_ctrl_c():
    """A shell that starts the tests in its background makes them, and what they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def write_environment(folder):
    """A `.venv` as `make demo` leaves it, without the minutes: it shares the packages of the running Python."""
    venv.EnvBuilder(symlinks=True).create(folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    places = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "shared.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in places))
    installed = site / f"modeling_aver-{__version__}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: modeling-aver\nVersion: {__version__}\n")
    python = folder / "bin" / "python"
    starts = {
        "aver": ("modeling_aver.cli.main", "run"),
        "torchrun": ("torch.distributed.run", "main"),
        "accelerate": ("accelerate.commands.accelerate_cli", "main"),
    }
    for name, (module, start) in starts.items():
        _write_script(
            folder / "bin" / name,
            f"#!{python}\nfrom {module} import {start}\n\nif __name__ == '__main__':\n    {start}()\n",
        )
    pip = Path(__file__).with_name("stand_in_pip.py")
    _write_script(folder / "bin" / "pip", f'#!/bin/sh\nexec "{python}" "{pip}" "$@"\n')


def _write_script(path, text):
    path.write_text(text)
    path.chmod(0o755)


def skip_unless_installed(extra):
    """Skips the test unless every package of an extra is here, and for mediapipe the model file that it downloads."""
    requirements = map(Requirement, extras((ROOT / "pyproject.toml").read_text())[extra])
    for requirement in requirements:
        if requirement.name == "modeling-aver" or requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f'waits for pip install ".[{extra}]": {requirement.name} is not here')
    if extra == "mediapipe" and face_landmarker() is None:
        pytest.skip(f"waits for the model file of MediaPipe: {MODEL_VARIABLE}, or in ../shared")


def face_landmarker():
    """`Path` of MediaPipe's model file, or `None`."""
    places = [os.environ.get(MODEL_VARIABLE), SHARED / "models" / "face_landmarker.task"]
    return next((Path(place).resolve() for place in places if place and Path(place).is_file()), None)


def open_writable_hub():
    """The context of a loopback Hub that takes pushes, or `None` without the development material."""
    path = SHARED / "tools" / "minihub.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("minihub", path)
    minihub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minihub)
    return minihub.MiniHub()


def publish_encoders(hub, folder):
    """Tiny audio encoders of random weights on the Hub, under the names that the documentation and recipes print."""
    whisper = audio_config("whisper")
    whisper.encoder_layers = 4  # as whisper-tiny has
    xlsr = Wav2Vec2Config(**RECIPE["audio_config"])
    models = {
        XLSR: (Wav2Vec2ForPreTraining(xlsr), Wav2Vec2FeatureExtractor(return_attention_mask=True)),
        "openai/whisper-tiny": (WhisperModel(whisper), WhisperFeatureExtractor()),
    }
    for name, (model, extractor) in models.items():
        model.save_pretrained(folder / name)
        extractor.save_pretrained(folder / name)
    _store_as_xlsr(models[XLSR][0], folder / XLSR)
    for name in models:
        contents = {path.name: path.read_bytes() for path in (folder / name).iterdir()}
        hub.commit(name, contents)


def _store_as_xlsr(model, folder):
    """The files of the real xlsr-53: a `pytorch_model.bin` with the names of torch's old weight normalization."""
    (folder / "model.safetensors").unlink()
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, tensor in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        state[name] = tensor
    torch.save(state, folder / "pytorch_model.bin")
