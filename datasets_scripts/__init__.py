"""Importable dataset builders. `datasets` runs no scripts any more; these are ordinary classes."""

from .crema_d import SAMPLE_DIR, CremaD, load_crema_d
from .ravdess import Ravdess, load_ravdess
from .splits import Split, SplitError, load_splits

__all__ = ["SAMPLE_DIR", "CremaD", "Ravdess", "Split", "SplitError", "load_crema_d", "load_ravdess", "load_splits"]
