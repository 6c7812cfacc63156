"""Videos of one's own in, emotions out: what the pipeline needs of media files, many clips, and tracks to look at.

The pipeline itself, and the windows of a recording, travel with every checkpoint: `pipeline_aver.py` and `windows.py`.
"""

from .faces import FacesOfExtractor, FacesOfTables, find_faces
from .formats import FORMATS, write_timeline
from .predict import Predictions, check_request, load_pipeline, load_settings, predict_clips
from .recordings import open_recording

__all__ = [
    "FORMATS",
    "FacesOfExtractor",
    "FacesOfTables",
    "Predictions",
    "check_request",
    "find_faces",
    "load_pipeline",
    "load_settings",
    "open_recording",
    "predict_clips",
    "write_timeline",
]
