"""RAVDESS (Livingstone and Russo 2018) from its official zips or folders, with action units and its splits."""

import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import datasets

from modeling_aver.io.archives import by_stem, find_members
from modeling_aver.io.media import MediaError, read_audio

from .downloads import download_ravdess
from .schema import ClipBuilder, ClipConfig, load, stream_columns
from .splits import load_splits

logger = logging.getLogger(__name__)

NUM_CLIPS = {"speech": 1_440, "song": 1_012}
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # codes 01 to 08
INTENSITIES = ("normal", "strong")
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
CHANNELS = {"speech": "01", "song": "02"}
SEXES = ("female", "male")  # even actors, odd actors
TRIAL = re.compile(
    r"(?P<modality>0[123])-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])-(?P<statement>0[12])"
    r"-(?P<repetition>0[12])-(?P<actor>0[1-9]|1\d|2[0-4])"
)
# In the order in which they are preferred: audio-only files (03) are the full sound, the sound of a film (01) is AAC.
SOUND = {"03": (".wav", ".flac"), "01": (".mp4",)}
MEDIA = (".wav", ".flac", ".mp4")


@dataclass
class RavdessConfig(ClipConfig):
    """
    A [`ClipConfig`] and

    Args:
        channel (`str`, *optional*, defaults to `"speech"`): speech or song.
        action_units_folder (`str`, *optional*):
            Defaults to FacialTracking_Actors_01-24 or OpenFace, whichever is there; with neither, sound alone. Tables
            are named like one of the trial's files: 01-01-….csv or 02-01-….csv.
        require_action_units (`bool`, *optional*, defaults to `False`): Clips without a table stay.
    """

    version: str = "1.0.0"
    channel: str = "speech"
    require_action_units: bool = False


class Ravdess(ClipBuilder):
    """
    RAVDESS: 24 actors, two statements, 1,440 clips of speech in eight emotions, 1,012 of song in six. `data_dir` holds
    the official archives as they were downloaded, or unpacked, or both:

    ```
    data_dir/
    ├── Audio_Speech_Actors_01-24[.zip]      Actor_NN/03-01-….wav    (or .flac)
    ├── Audio_Song_Actors_01-24[.zip]        Actor_NN/03-02-….wav
    ├── Video_Speech_Actor_NN[.zip]          Actor_NN/01-01-….mp4    (02-01-….mp4 have no sound)
    └── FacialTracking_Actors_01-24[.zip]    01-01-….csv             (or OpenFace/)
    ```

    `action_units_folder="raw_motion_speech"` reads the same authors' Py-Feat tracking instead, see [`felt.read_felt`].

    The audio-only, video-only and audio-visual files of a trial are one clip, named like its audio-visual file.

    Configurations: `all` (speech, one part), `song`, `luna_jimenez_5fold_1` to `_5` (the paper's), `emobox_6fold_1` to
    `_6`.

    Columns: see [`schema.clip_features`], and `intensity`, `statement`, `repetition` (1 or 2), `actor_sex`.
    """

    SPLITS = load_splits("ravdess")
    TRACKING = {"FacialTracking_Actors_01-24": "2.1.0", "OpenFace": None}  # the first as its authors say
    BUILDER_CONFIG_CLASS = RavdessConfig
    BUILDER_CONFIGS = [
        RavdessConfig(name="all", description="every clip of speech, as one part"),
        RavdessConfig(name="song", channel="song", description="every clip of song, as one part"),
        *(RavdessConfig(name=name, description=split.source) for name, split in SPLITS.items()),
    ]
    DEFAULT_CONFIG_NAME = "all"

    def _info(self):
        if self.config.channel not in CHANNELS:
            raise ValueError(f"`channel` ({self.config.channel!r}) must be one of {', '.join(CHANNELS)}.")
        return datasets.DatasetInfo(
            description="Acted emotions in speech and song, with action units of each video frame.",
            features=self._clip_features(
                EMOTIONS,
                intensity=datasets.ClassLabel(names=list(INTENSITIES)),
                statement=datasets.ClassLabel(names=list(STATEMENTS)),
                repetition=datasets.Value("int32"),
                actor_sex=datasets.ClassLabel(names=list(SEXES)),
            ),
            homepage="https://zenodo.org/records/1188976",
            license="CC-BY-NC-SA-4.0",
        )

    @cached_property
    def _sound(self):
        """`dict[str, Member]`: the best sound file of each trial of this channel."""
        members = by_stem(self._media())
        found = {}
        for modality, suffixes in SOUND.items():
            for stem, member in members.items():
                parts = TRIAL.fullmatch(stem)
                if parts and parts["modality"] == modality and member.suffix in suffixes:
                    found.setdefault(trial_of(stem), member)
        return {trial: member for trial, member in found.items() if trial[3:5] == CHANNELS[self.config.channel]}

    def _media(self):
        if not self.config.data_dir or not Path(self.config.data_dir).is_dir():
            raise MediaError(f"`data_dir` ({self.config.data_dir}) is no folder. {_WHAT_IT_HOLDS}")
        return find_members(self.config.data_dir, MEDIA)

    def has_sound(self):
        """Whether there is any sound of this channel."""
        return bool(self._sound)

    def _name_of(self, name):
        return trial_of(PurePosixPath(name).name)

    def _say_who_has_no_table(self):
        if self._tracks is None:
            logger.warning("No %s under %s: sound alone.", " or ".join(self.TRACKING), self.config.data_dir)
            return
        bare = sum(trial not in self._tracks for trial in self._sound)
        if bare:
            logger.warning("%d of %d clips have no table in %s.", bare, len(self._sound), self._tracks.path.name)

    def _clips(self):
        self._refuse_strangers()
        if not self._sound:
            raise MediaError(f"No sound of {self.config.channel} under {self.config.data_dir}. {_WHAT_IT_HOLDS}")
        self._say_who_has_no_table()
        return {trial: trial[-2:] for trial in self._sound}

    def _refuse_strangers(self):
        for member in self._media():
            if TRIAL.fullmatch(member.stem) is None:
                self._leave_out(member.name, MediaError(f"{member.name} is not a name such as 03-01-05-02-01-02-14."))

    def _clip(self, utterance_id):
        member = self._sound[utterance_id]
        waveform = read_audio(member.read(), name=member.name)
        parts = TRIAL.fullmatch(utterance_id)
        return {
            **stream_columns(utterance_id, waveform, self._track(utterance_id)),
            "label": EMOTIONS[int(parts["emotion"]) - 1],
            "speaker_id": parts["actor"],
            "utterance_id": utterance_id,
            "intensity": INTENSITIES[int(parts["intensity"]) - 1],
            "statement": STATEMENTS[int(parts["statement"]) - 1],
            "repetition": int(parts["repetition"]),
            "actor_sex": SEXES[int(parts["actor"]) % 2],
        }


_WHAT_IT_HOLDS = (
    "Give `data_dir` the folder with Audio_Speech_Actors_01-24.zip of zenodo.org/records/1188976, and "
    "FacialTracking_Actors_01-24.zip of zenodo.org/records/3255102 for action units; zipped or unpacked."
)


def trial_of(stem):
    """The clip that a file belongs to, whichever of its three modalities the file is: 03-01-… is 01-01-…"""
    return f"01{stem[2:]}"


def load_ravdess(data_dir, *, name="all", split=None, num_proc=None, cache_dir=None, download=False, **config):
    """
    RAVDESS as a `datasets.DatasetDict` (or the `Dataset` of one `split`).

    Args:
        data_dir (`str` or `Path`): A folder with the official archives, zipped or not; see [`Ravdess`].
        name (`str`, *optional*, defaults to `"all"`): Configuration, see [`Ravdess`].
        split (`str`, *optional*): Such as `"train"`.
        num_proc (`int`, *optional*): Processes that read clips.
        cache_dir (`str`, *optional*): Of `datasets`.
        download (`bool`, *optional*, defaults to `False`):
            First fetch into `data_dir` what is missing of sound and tracking, see [`downloads.download_ravdess`].
        config: Further fields of [`RavdessConfig`].
    """
    if download:
        download_ravdess(data_dir, "song" if name == "song" else "speech")
    builder = Ravdess(config_name=name, data_dir=str(Path(data_dir).resolve()), cache_dir=cache_dir, **config)
    return load(builder, split=split, num_proc=num_proc)
