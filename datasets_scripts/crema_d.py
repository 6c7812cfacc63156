"""CREMA-D (Cao et al. 2014) from its official folders, with OpenFace action units."""

import io
import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import soundfile

from modeling_aver.features import MediaError, read_audio, read_openface

from .schema import ClipBuilder, ClipConfig, clip_features

SAMPLE_DIR = Path(__file__).parent / "sample"
EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
AUDIO_FOLDERS = {"AudioWAV": ".wav", "AudioMP3": ".mp3", "VideoFlash": ".flv"}
UTTERANCE_ID = re.compile(r"(?P<speaker>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<intensity>[A-Z]{1,2})")


@dataclass
class CremaDConfig(ClipConfig):
    """
    A [`ClipConfig`] and

    Args:
        audio_folder (`str`, *optional*): AudioWAV, AudioMP3 or VideoFlash. Defaults to the first of them that is there.
        action_units_folder (`str`, *optional*, defaults to `"OpenFace"`): Tables of OpenFace, one a clip.
    """

    version: str = "1.0.0"
    audio_folder: str | None = None
    action_units_folder: str = "OpenFace"


class CremaD(ClipBuilder):
    """
    CREMA-D: 7,442 clips, 91 actors, 12 sentences, six emotions. `data_dir` is a folder of the official layout:

    ```
    data_dir/
    ├── AudioWAV/1001_DFA_ANG_XX.wav     (or AudioMP3/*.mp3, or the sound of VideoFlash/*.flv)
    └── OpenFace/1001_DFA_ANG_XX.csv     (FeatureExtraction -aus -f VideoFlash/1001_DFA_ANG_XX.flv -out_dir OpenFace)
    ```

    Columns: see [`schema.clip_features`], and `sentence` (three letters) and `intensity`.
    """

    BUILDER_CONFIG_CLASS = CremaDConfig
    BUILDER_CONFIGS = [CremaDConfig(name="all", description="every clip of the folder, as one split")]
    DEFAULT_CONFIG_NAME = "all"

    def _info(self):
        return datasets.DatasetInfo(
            description="Acted emotions in speech and face, with action units of each video frame.",
            features=clip_features(
                EMOTIONS.values(),
                sentence=datasets.Value("string"),
                intensity=datasets.ClassLabel(names=list(INTENSITIES.values())),
            ),
            homepage="https://github.com/CheyneyComputerScience/CREMA-D",
            license="ODbL-1.0 (database), DbCL-1.0 (contents)",
        )

    def _split_generators(self, dl_manager):
        utterance_ids = sorted(path.stem for path in self._audio_paths())
        return [datasets.SplitGenerator("train", gen_kwargs={"utterance_ids": utterance_ids})]

    def _audio_paths(self):
        folder, suffix = self._audio_folder()
        paths = [path for path in folder.iterdir() if path.suffix == suffix]
        if not paths:
            raise MediaError(f"No {suffix} file under {folder}.")
        return paths

    def _audio_folder(self):
        """The folder that holds the sound, and its files' suffix."""
        names = AUDIO_FOLDERS if self.config.audio_folder is None else [self.config.audio_folder]
        unknown = [name for name in names if name not in AUDIO_FOLDERS]
        if unknown:
            raise ValueError(f"`audio_folder` ({unknown[0]!r}) must be one of {', '.join(AUDIO_FOLDERS)}.")
        root = Path(self.config.data_dir or "")
        for name in names:
            if self.config.data_dir and (root / name).is_dir():
                return root / name, AUDIO_FOLDERS[name]
        raise MediaError(
            f"No audio under {self.config.data_dir}. Give `data_dir` the folder that holds {' or '.join(names)}, and "
            f"{self.config.action_units_folder}/."
        )

    def _clip(self, utterance_id):
        parts = UTTERANCE_ID.fullmatch(utterance_id)
        if parts is None or parts["emotion"] not in EMOTIONS or parts["intensity"].ljust(2, "X") not in INTENSITIES:
            raise MediaError(f"{utterance_id} is not a name of CREMA-D such as 1001_DFA_ANG_XX.")
        folder, suffix = self._audio_folder()
        track = read_openface(Path(self.config.data_dir) / self.config.action_units_folder / f"{utterance_id}.csv")
        return {
            "audio": {"bytes": _wav(read_audio(folder / f"{utterance_id}{suffix}")), "path": f"{utterance_id}.wav"},
            "action_units": track.action_units,
            "action_units_success": track.success,
            "video_timestamps": track.timestamps,
            "label": EMOTIONS[parts["emotion"]],
            "speaker_id": parts["speaker"],
            "utterance_id": utterance_id,
            "sentence": parts["sentence"],
            "intensity": INTENSITIES[parts["intensity"].ljust(2, "X")],
        }


def _wav(waveform, sampling_rate=16_000):
    file = io.BytesIO()
    soundfile.write(file, waveform, sampling_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def load_crema_d(data_dir=SAMPLE_DIR, *, name="all", split=None, num_proc=None, cache_dir=None, **config):
    """
    CREMA-D as a `datasets.DatasetDict` (or the `Dataset` of one `split`).

    Args:
        data_dir (`str` or `Path`, *optional*): A folder of the official layout. Defaults to the six clips that the
            project carries.
        name (`str`, *optional*, defaults to `"all"`): Configuration.
        split (`str`, *optional*): Such as `"train"`.
        num_proc (`int`, *optional*): Processes that read clips.
        cache_dir (`str`, *optional*): Of `datasets`.
        config: Further fields of [`CremaDConfig`].
    """
    builder = CremaD(config_name=name, data_dir=str(Path(data_dir).resolve()), cache_dir=cache_dir, **config)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)
