"""Importable dataset builders. `datasets` runs no scripts any more; these are ordinary classes."""

from .crema_d import SAMPLE_DIR, CremaD, load_crema_d

__all__ = ["SAMPLE_DIR", "CremaD", "load_crema_d"]
