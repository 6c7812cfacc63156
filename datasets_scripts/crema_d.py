"""CREMA-D (Cao et al. 2014) from its official folders, with action units and the published splits."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets

from modeling_aver.io.media import MediaError, read_audio

from .crema_d_tables import (
    DEMOGRAPHICS,
    SUMMARY,
    demographics_features,
    find_table,
    perceived_features,
    read_demographics,
    read_perceived,
)
from .downloads import download_crema_d
from .schema import ClipBuilder, ClipConfig, load, stream_columns
from .splits import load_splits

SAMPLE_DIR = Path(__file__).parent / "sample"
NUM_CLIPS = 7_442
EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = {
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
KNOWN_BAD_CLIPS = {
    "1040_ITH_SAD_XX": "named 1040_ITH_SAD_X in AudioWAV until 2022, so older copies and lists miss it; sound and "
    "picture are fine",
    "1064_IEO_DIS_MD": "the .flv and .mp3 run a minute, over all emotions of the sentence; the .wav is one clip",
    "1064_TIE_SAD_XX": "the .flv and .mp3 break off after a fraction of a second (18 frames); the .wav is whole",
    "1076_MTI_NEU_XX": "the .flv and .mp3 break off at once (3 frames); the .wav is whole",
    "1076_MTI_SAD_XX": "the .wav is silent",
}
AUDIO_FOLDERS = {"AudioWAV": ".wav", "AudioMP3": ".mp3", "VideoFlash": ".flv"}
UTTERANCE_ID = re.compile(r"(?P<speaker>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<intensity>[A-Z]{2})")


@dataclass
class CremaDConfig(ClipConfig):
    """
    A [`ClipConfig`] and

    Args:
        audio_folder (`str`, *optional*):
            AudioWAV, AudioMP3 or VideoFlash. Defaults to the first of them that is there.
        leave_out_known_bad (`bool`, *optional*, defaults to `False`):
            Leave out `KNOWN_BAD_CLIPS`. Published splits keep most of them, so sizes differ then.
    """

    version: str = "1.0.0"
    audio_folder: str | None = None
    leave_out_known_bad: bool = False


class CremaD(ClipBuilder):
    """
    CREMA-D: 7,442 clips, 91 actors, 12 sentences, six emotions. `data_dir` is a folder of the official layout:

    ```
    data_dir/
    ├── AudioWAV/1001_DFA_ANG_XX.wav     (or AudioMP3/*.mp3, or the sound of VideoFlash/*.flv)
    ├── OpenFace/1001_DFA_ANG_XX.csv     (or `action_units_folder`: what `aver extract VideoFlash --out …` writes)
    ├── VideoDemographics.csv            (optional: age, sex, race and ethnicity of the actors)
    └── processedResults/summaryTable.csv    (optional, or beside the other: what the crowd perceived)
    ```

    Configurations: `all` (one part), `emobox` (the paper's; speakers are in train *and* test), `speaker_5fold_1` to
    `_5`, `speaker_holdout` (with a validation part).

    Columns: see [`schema.clip_features`], and `sentence` (three letters), `transcript`, `intensity`; with the optional
    tables also [`crema_d_tables.demographics_features`] and [`crema_d_tables.perceived_features`].
    """

    SPLITS = load_splits("crema_d")
    BUILDER_CONFIG_CLASS = CremaDConfig
    BUILDER_CONFIGS = [
        CremaDConfig(name="all", description="every clip of the folder, as one part"),
        *(CremaDConfig(name=name, description=split.warning or split.source) for name, split in SPLITS.items()),
    ]
    DEFAULT_CONFIG_NAME = "all"

    def _info(self):
        return datasets.DatasetInfo(
            description="Acted emotions in speech and face, with action units of each video frame.",
            features=self._clip_features(
                EMOTIONS.values(),
                sentence=datasets.Value("string"),
                transcript=datasets.Value("string"),
                intensity=datasets.ClassLabel(names=list(INTENSITIES.values())),
                **(demographics_features() if self._table(DEMOGRAPHICS) else {}),
                **(perceived_features() if self._table(*SUMMARY) else {}),
            ),
            homepage="https://github.com/CheyneyComputerScience/CREMA-D",
            license="ODbL-1.0 (database), DbCL-1.0 (contents)",
        )

    def _table(self, *names):
        return find_table(self.config.data_dir, *names) if self.config.data_dir else None

    @cached_property
    def _demographics(self):
        path = self._table(DEMOGRAPHICS)
        return read_demographics(path) if path else None

    @cached_property
    def _perceived(self):
        path = self._table(*SUMMARY)
        return read_perceived(path) if path else None

    @cached_property
    def _audio_paths(self):
        """Sound file of each name in the folder, whatever the names are."""
        folder, suffix = self._audio_folder()
        paths = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() == suffix}
        paths = {stem: path for stem, path in paths.items() if not stem.startswith(".")}
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
            "OpenFace/."
        )

    def _clips(self):
        _ = self._demographics, self._perceived  # a broken table is told at once, not clip by clip
        clips = {}
        for utterance_id in self._audio_paths:
            try:
                clips[utterance_id] = parse_utterance_id(utterance_id)["speaker"]
                if self.config.leave_out_known_bad and utterance_id in KNOWN_BAD_CLIPS:
                    del clips[utterance_id]
            except MediaError as error:
                self._leave_out(utterance_id, error)
        return clips

    def _clip(self, utterance_id):
        parts = parse_utterance_id(utterance_id)
        waveform = read_audio(self._audio_paths[utterance_id])
        return {
            **stream_columns(utterance_id, waveform, self._track(utterance_id)),
            "label": EMOTIONS[parts["emotion"]],
            "speaker_id": parts["speaker"],
            "utterance_id": utterance_id,
            "sentence": parts["sentence"],
            "transcript": SENTENCES[parts["sentence"]],
            "intensity": INTENSITIES[parts["intensity"]],
            **_row_of(self._demographics, parts["speaker"], utterance_id, DEMOGRAPHICS),
            **_row_of(self._perceived, utterance_id, utterance_id, SUMMARY[0]),
        }


def parse_utterance_id(utterance_id):
    """
    Speaker, sentence, emotion and intensity (as spelled) out of a name such as 1001_DFA_ANG_XX.

    Raises:
        `MediaError`: if it is no name of CREMA-D.
    """
    parts = UTTERANCE_ID.fullmatch(utterance_id)
    known = {"sentence": SENTENCES, "emotion": EMOTIONS, "intensity": INTENSITIES}
    if parts is None or any(parts[part] not in words for part, words in known.items()):
        raise MediaError(
            f"{utterance_id} is not a name of CREMA-D such as 1001_DFA_ANG_XX."
            + (" It is 1040_ITH_SAD_XX, cut short in older copies: rename it." if utterance_id.endswith("_X") else "")
        )
    return parts


def _row_of(table, key, utterance_id, name):
    if table is None:
        return {}
    if key not in table:
        raise MediaError(f"{name} has no row for {key}, the {'actor' if key != utterance_id else 'clip'}.")
    return table[key]


def load_crema_d(
    data_dir=SAMPLE_DIR, *, name="all", split=None, num_proc=None, cache_dir=None, download=False, **config
):
    """
    CREMA-D as a `datasets.DatasetDict` (or the `Dataset` of one `split`).

    Args:
        data_dir (`str` or `Path`, *optional*): A folder of the official layout. Defaults to the six clips that the
            project carries.
        name (`str`, *optional*, defaults to `"all"`): Configuration, see [`CremaD`].
        split (`str`, *optional*): Such as `"train"`.
        num_proc (`int`, *optional*): Processes that read clips.
        cache_dir (`str`, *optional*): Of `datasets`.
        download (`bool`, *optional*, defaults to `False`):
            First fetch into `data_dir` what is missing of AudioWAV and the tables, see [`downloads.download_crema_d`].
            OpenFace's tables are published nowhere: `aver extract` makes them of VideoFlash.
        config: Further fields of [`CremaDConfig`].
    """
    if download:
        download_crema_d(data_dir)
    builder = CremaD(config_name=name, data_dir=str(Path(data_dir).resolve()), cache_dir=cache_dir, **config)
    return load(builder, split=split, num_proc=num_proc)
