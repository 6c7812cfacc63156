"""Whether a video shows several people: the features follow one face only, which its viewers should know."""

import tempfile
from pathlib import Path

from ..features.mediapipe import MediaPipeExtractor
from ..io.media import MediaError, read_frames

MOST_PICTURES = 12  # checked, at equal distances
SEVERAL = "Several faces are in the picture; only one of them is analysed. Crop the video to one person."


def shows_several_faces(extractor, video: bytes, seconds: float) -> bool:
    """
    Looks for a second face in a few pictures of a video, by MediaPipe.

    Args:
        extractor ([`Extractor`]): Other extractors than [`MediaPipeExtractor`] cannot tell: `False`.
        video (`bytes`): Content of a video file.
        seconds (`float`): Its length.

    Returns:
        `bool`: whether at least a quarter of the pictures have a second face.
    """
    if not isinstance(extractor, MediaPipeExtractor):
        return False
    counts = [len(faces) for faces in _faces(extractor, _pictures(video, seconds))]
    return bool(counts) and sum(count > 1 for count in counts) * 4 >= len(counts)


def _pictures(video, seconds):
    with tempfile.TemporaryDirectory(prefix="aver-") as folder:
        path = Path(folder) / "video.mp4"
        path.write_bytes(video)
        due = 0.0
        try:
            for second, pixels in read_frames(path):
                if second >= due:
                    due += seconds / MOST_PICTURES
                    yield pixels
        except MediaError:
            return


def _faces(extractor, pictures):
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceLandmarkerOptions(base_options=BaseOptions(model_asset_path=extractor.model), num_faces=2)
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for pixels in pictures:
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            yield landmarker.detect(image).face_landmarks
