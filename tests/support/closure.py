"""The files that travel with a checkpoint: the `.py` files directly under `modeling_aver/`."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "modeling_aver"
CLOSURE = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
