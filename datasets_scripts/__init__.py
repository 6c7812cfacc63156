"""Importable dataset builders. `datasets` runs no scripts any more; these are ordinary classes."""

from .clips import Clips, load_clips
from .crema_d import SAMPLE_DIR, CremaD, load_crema_d
from .modalities import keep_streams
from .ravdess import Ravdess, load_ravdess
from .schema import clip_features, identities_of, identity_of
from .splits import Split, SplitError, load_splits
from .validation import SchemaError, check_columns, find_problems

__all__ = [
    "SAMPLE_DIR",
    "Clips",
    "CremaD",
    "Ravdess",
    "SchemaError",
    "Split",
    "SplitError",
    "check_columns",
    "clip_features",
    "find_problems",
    "identities_of",
    "identity_of",
    "keep_streams",
    "load_clips",
    "load_crema_d",
    "load_ravdess",
    "load_splits",
]
