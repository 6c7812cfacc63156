"""What the web page does when it is used, free of Gradio: uploads in, HTML out, nothing kept."""

import logging
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

import av

from datasets_scripts import SAMPLE_DIR

from ..features import Clip, ExtractorUnavailableError, MediaError
from ..features.media import LOCAL_ONLY
from .clip_report import Limits, report_clip
from .enrollment import ENOUGH, enroll_speaker
from .faces import find_faces
from .report_html import error_html, notes_html, report_html

logger = logging.getLogger(__name__)

EXAMPLES = sorted((SAMPLE_DIR / "VideoFlash").glob("*.flv"))
MOODS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
MOST_CLIPS = 50  # of a person


class PageSession:
    """
    The page's answers.

    Args:
        recognize ([`EmotionPipeline`])
        limits ([`Limits`], *optional*)
        options: Of [`find_faces`], such as `openface`.
    """

    def __init__(self, recognize, limits=None, **options):
        self.recognize, self.limits = recognize, limits or Limits()
        self.extractor = recognize.processor.feature_extractor
        self.faces, self.notes = self._faces(options)

    def _faces(self, options):
        """(where features of the face come from or `None`, what visitors should know of it)."""
        if options:  # asked for by name: then it should be there
            return find_faces(self.extractor, **options), []
        try:
            return find_faces(self.extractor), []
        except (ExtractorUnavailableError, ValueError) as error:
            logger.warning("The page goes by the sound alone: %s", error)
            made_by = (self.extractor.feature_identity or {}).get("name")
            reason = (
                f"was trained on features of {made_by}" if made_by else "does not say whose features it was trained on"
            )
            return None, [
                f"This model {reason}, which cannot be made here. Clips are answered by their sound alone, unless you "
                "give a table of such features beside the video."
            ]

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
        trained = (self.extractor.feature_identity or {}).get("name")
        return self._report(clip, table if trained == "openface" else None, profile)

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
                return None, error_html(_sentence(error, [Path(clip) for clip in clips]))

    def _report(self, clip, table, profile):
        try:
            with _faces_of(table, clip, self.extractor, self.faces) as faces:
                return report_html(report_clip(self.recognize, clip, faces, self.limits, profile))
        except Exception as error:  # whatever a decoder may do on broken material is one sentence on the page
            return error_html(_sentence(error, [clip, *([Path(table)] if table else [])]))

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
        notes += [f"{Path(path).name} is left out: {_plain(reason, clips)}" for path, reason in failed.items()]
        return profile, notes_html(notes)


@contextmanager
def _faces_of(table, clip, extractor, otherwise):
    """Features of one clip by the table given beside it, whatever that is called; or as without one."""
    if table is None:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(prefix="aver-") as folder:
        (Path(folder) / f"{clip.stem}{Path(table).suffix}").write_bytes(Path(table).read_bytes())
        yield find_faces(extractor, folder)


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


def _sentence(error, paths):
    """One plain line of an error, without the places of this machine."""
    if isinstance(error, (ValueError, OSError, ImportError, RuntimeError)) and str(error):
        return _plain(str(error), paths)
    logger.warning("%s", paths, exc_info=error)
    return f"{paths[0].name} cannot be used ({type(error).__name__})."


def _plain(text, paths):
    text = re.sub(r"\[Errno \d+\] |: '[^']*'(?=\))", "", text)  # what ffmpeg adds
    for path in paths:
        text = text.replace(str(path), path.name).replace(f"({path.name})", "").replace(" .", ".")
    return " ".join(text.split())
