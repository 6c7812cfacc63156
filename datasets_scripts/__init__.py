"""Importable dataset builders. `datasets` runs no scripts any more; these are ordinary classes."""

from .check import SchemaError, check_columns, find_problems
from .crema_d import SAMPLE_DIR, CremaD, load_crema_d
from .folder import Clips, load_clips
from .ravdess import Ravdess, load_ravdess
from .schema import clip_features, identities_of, identity_of
from .splits import Split, SplitError, load_splits
from .streams import keep_streams

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
