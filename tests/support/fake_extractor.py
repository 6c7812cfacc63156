"""An extractor that needs nothing but the pictures, and does what a clip's name asks for. Processes can import it."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_aver.features.base import ExtractionError, ExtractorUnavailableError, FaceTrack, FeatureIdentity
from modeling_aver.io.media import read_frames


@dataclass(frozen=True)
class Brightness:
    """How bright a picture and its corner are; a dark picture has no face. Each call leaves a line in `log`."""

    log: Path
    version: str = "1"
    pause: float = 0.0

    @property
    def identity(self):
        return FeatureIdentity("brightness", self.version, {"corner": 4}, ("mean", "corner"))

    def extract(self, video):
        video = Path(video)
        with open(self.log, "a", errors="backslashreplace") as log:
            print(video.name, file=log)
        time.sleep(self.pause)
        if video.stem.startswith("kills"):
            os.kill(os.getpid(), signal.SIGKILL)
        if video.stem.startswith("odd"):
            raise ZeroDivisionError("a decoder's mood")
        if video.stem.startswith("fails"):
            raise ExtractionError(f"the program crashed at {video.name}")
        if video.stem.startswith("absent"):
            raise ExtractorUnavailableError("the program is not installed")
        frames = [(seconds, pixels.mean(), pixels[:4, :4].mean()) for seconds, pixels in read_frames(video)]
        timestamps, *columns = np.array(frames).T
        success = columns[0] > 20
        features = np.where(success[:, None], np.stack(columns, axis=1), 0).astype(np.float32)
        return FaceTrack(timestamps, features, success, self.identity)


class BrightnessInPassing(Brightness):
    """The same, frame by frame while the video is read."""

    def frames(self, video):
        for seconds, pixels in read_frames(video):
            found = pixels.mean() > 20
            yield seconds, np.array([pixels.mean(), pixels[:4, :4].mean()], np.float32) * found, bool(found)


def calls(extractor):
    """Names of the clips that were extracted, in order."""
    return extractor.log.read_text().split("\n")[:-1] if extractor.log.exists() else []
