"""What the web page does when it is used, free of Gradio: uploads in, HTML out, nothing kept."""

import logging
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

import av

from datasets_scripts import SAMPLE_DIR
from datasets_scripts.crema_d import EMOTIONS
from modeling_aver.features.track_folder import TrackFolder

from ..features.base import ExtractorUnavailableError
from ..features.clips import Clip
from ..features.tables import FORMATS
from ..inference.enrollment import ENOUGH, enroll_speaker
from ..inference.faces import find_faces
from ..inference.predict import WINDOW
from ..io.media import LOCAL_ONLY, MediaError
from .model_info import read_model_info
from .report import Limits, report_clip
from .report_html import error_html, model_html, notes_html, report_html

logger = logging.getLogger(__name__)

EXAMPLES = sorted((SAMPLE_DIR / "VideoFlash").glob("*.flv"))
MOST_CLIPS = 50  # of a person
TITLES = {"openface": "OpenFace", "mediapipe": "MediaPipe"}
INVALID_MEDIA = "Invalid data found when processing input"  # of ffmpeg, where a file is of no format that it knows


class PageSession:
    """
    The page's answers.

    Args:
        recognize ([`EmotionPipeline`])
        limits ([`Limits`], *optional*)
        info ([`ModelInfo`], *optional*): Defaults to what is saved with the model.
        options: Of [`find_faces`], such as `openface`; `None` stands for the default.

    Raises:
        `ExtractorUnavailableError`: if `openface` names no OpenFace. `ValueError`: if it is given for a model that
        was not trained on OpenFace's features.
    """

    def __init__(self, recognize, limits=None, info=None, **options):
        self.recognize, self.limits = recognize, limits or Limits()
        self.extractor = recognize.processor.feature_extractor
        self.labels = tuple(recognize.model.config.id2label.values())
        self.info = info or read_model_info(recognize.model.name_or_path, self.labels)
        self.trained = (self.extractor.feature_identity or {}).get("name")
        self.faces, self.notes = self._faces({name: value for name, value in options.items() if value is not None})

    def _faces(self, options):
        """(source of the features of the face or `None`, what visitors should know about it)."""
        stray = next((name for name in ("openface", "openface_models", "timeout") if name in options), None)
        if stray is not None and self.trained != "openface":
            raise ValueError(
                f"{_flag(stray)} {options[stray]} is of no use here: the model was trained on features of "
                f"{self.trained or 'an unknown extractor'}. Leave it out."
            )
        try:
            return find_faces(self.extractor, calibration_window=WINDOW, **options), []
        except (ExtractorUnavailableError, ValueError) as error:
            reason = error.__cause__ or error  # without the remedies of other commands
            if options:
                flags = " and ".join(map(_flag, options))
                raise type(error)(f"{reason} Without {flags}, clips are answered by their sound alone.") from error
            logger.warning("Clips are answered by their sound alone: %s", reason)
            return None, [self._missing_faces()]

    def _missing_faces(self):
        if self.trained is None:
            return (
                "Clips are answered by their sound alone: this model does not record which extractor made the face "
                "features of its training clips."
            )
        title = TITLES.get(self.trained, self.trained)
        return (
            f"This model was trained on {title} features of the face, and {title} is not available on this server. "
            "Clips are answered by their sound alone, unless you upload a table of such features beside the video."
        )

    @property
    def examples(self):
        """`list[str]`: the emotion of each example clip, as the model names it."""
        return [_label_of(clip.stem.split("_")[2], self.labels) for clip in EXAMPLES]

    @property
    def examples_caption(self):
        """Sentence over the example clips."""
        seen = (
            " The model was trained on this corpus, perhaps on these clips." if "CREMA-D" in self.info.corpus else ""
        )
        return f"Or one of six clips of CREMA-D, by the emotion that was acted.{seen}"

    def model_html(self):
        """HTML about the model."""
        return model_html(self.info)

    @property
    def can_calibrate(self):
        """Whether a person's profile would change anything, and can be made here."""
        hears = self.recognize.model.config.audio_normalization == "standardize"
        return hears or (self.faces is not None and self.extractor.action_unit_mean is not None)

    def notes_html(self):
        """HTML of what visitors should know first; may be empty."""
        return notes_html(self.notes) if self.notes else ""

    def answer_upload(self, clip, table=None, profile=None):
        """
        A clip's report. Both files are deleted afterwards.

        Args:
            clip, table (`str`, *optional*): Paths of uploads; `table` holds features of the clip's face.
            profile ([`SpeakerProfile`], *optional*): Of the person in it.

        Returns:
            `str`: HTML, of a report or of one sentence that says why there is none.
        """
        if clip is None:
            return error_html("Upload a video first, or record one.")
        with _deleted_after([clip, table]):
            return self._report(Path(clip), table, profile)

    def answer_example(self, index, profile=None):
        """The report of one of the clips carried along, with its table where the model was trained on such."""
        clip = EXAMPLES[index]
        table = SAMPLE_DIR / "OpenFace" / f"{clip.stem}.csv"
        return self._report(clip, table if self.trained == "openface" else None, profile)

    def calibrate(self, clips):
        """
        The profile of the one person in some clips, which are deleted afterwards.

        Returns:
            `tuple[SpeakerProfile, str]`: the profile, `None` where none can be made, and HTML that says so.
        """
        if not clips:
            return None, error_html("Give some clips of one person first.")
        with _deleted_after(clips):
            try:
                return self._profile([Path(clip) for clip in clips])
            except Exception as error:
                return None, error_html(_sentence(error, {Path(clip): Path(clip).name for clip in clips}))

    def _report(self, clip, table, profile):
        names = {clip: clip.name}
        try:
            with _faces_of(table, clip, self.extractor, self.faces, names) as faces:
                return report_html(report_clip(self.recognize, clip, faces, self.limits, profile))
        except Exception as error:  # whatever a decoder may do on broken material is one sentence on the page
            return error_html(_sentence(error, names))

    def _profile(self, clips):
        if len(clips) > MOST_CLIPS:
            raise MediaError(f"{len(clips)} clips are more than the {MOST_CLIPS} that this page takes.")
        for clip in clips:
            self.limits.check_file(clip, clip.name)
            self.limits.check_seconds(_seconds(clip), clip.name)
        named = [Clip(clip, f"{index}/{clip.stem}") for index, clip in enumerate(clips)]
        streams = "audio" if self.faces is None or self.extractor.action_unit_mean is None else "both"
        profile, failed = enroll_speaker(self.recognize.model, self.recognize.processor, named, self.faces, streams)
        count = f"{profile.num_clips} clip{'' if profile.num_clips == 1 else 's'}"
        notes = [f"Calibrated on {count}; the answers that follow are for this person."]
        if profile.num_clips < ENOUGH:
            notes.append(f"Less than {ENOUGH} clips say little: give more, in many moods.")
        notes += [
            f"{Path(path).name} is left out: {_plain(reason, {clip: clip.name for clip in clips})}"
            for path, reason in failed.items()
        ]
        return profile, notes_html(notes)


def _label_of(code, labels):
    """The model's own label for an emotion of CREMA-D, such as `ANG`; CREMA-D's where the model has none."""
    return next((label for label in labels if label.upper().startswith(code)), EMOTIONS[code])


@contextmanager
def _faces_of(table, clip, extractor, otherwise, names):
    """Features of one clip by the table uploaded beside it, whatever its name; `otherwise` without a table."""
    if table is None:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(prefix="aver-") as folder:
        copy = Path(folder) / f"{clip.stem}{Path(table).suffix}"
        copy.write_bytes(Path(table).read_bytes())
        names.update({copy: Path(table).name, copy.name: Path(table).name})
        yield _faces_of_table(folder, extractor, Path(table).name)


def _flag(name):
    return f"--{name.replace('_', '-')}"


def _faces_of_table(folder, extractor, name):
    trained = (extractor.feature_identity or {}).get("name")
    try:
        made_by = TrackFolder(folder).identity.name
    except MediaError as error:
        raise MediaError(str(error.__cause__ or f"{name} is no table ({', '.join(FORMATS)})")) from error
    if trained in TITLES and made_by != trained:
        raise ValueError(
            f"{name} holds features of {TITLES.get(made_by, 'another extractor')}, but this model was trained on "
            f"features of {TITLES[trained]}. Upload a table of {TITLES[trained]} features."
        )
    return find_faces(extractor, folder)


@contextmanager
def _deleted_after(paths):
    """Uploads, as long as the block runs."""
    try:
        yield
    finally:
        for path in paths:
            if path is not None:
                Path(path).unlink(missing_ok=True)


def _seconds(path):
    """When a media file ends, by its packets: headers may promise anything."""
    try:
        with av.open(str(path), container_options=LOCAL_ONLY, metadata_errors="replace") as container:
            start = (container.start_time or 0) / av.time_base
            ends = (packet.pts * packet.time_base for packet in container.demux() if packet.pts is not None)
            return float(max(ends, default=0)) - start
    except av.FFmpegError as error:
        raise MediaError(f"{path.name} cannot be decoded ({error.strerror}). Is it damaged?") from error


def _sentence(error, names):
    """One plain line about an error, without paths of this machine."""
    if isinstance(error, (ValueError, OSError, ImportError, RuntimeError)) and str(error):
        return _plain(str(error), names)
    logger.warning("%s", names, exc_info=error)
    return f"{next(iter(names.values()))} cannot be used ({type(error).__name__})."


def _plain(text, names):
    """`text` with the names that uploads had, by `names`: temporary path or name to the uploaded name."""
    text = re.sub(r"\[Errno \d+\] |: '[^']*'(?=\))", "", text)  # what ffmpeg adds
    for path, name in names.items():
        text = text.replace(str(path), name)
        text = re.sub(rf" *\({re.escape(name)}\)", "", text)
    text = text.replace(f"({INVALID_MEDIA})", "as video or audio")
    return " ".join(text.split())
