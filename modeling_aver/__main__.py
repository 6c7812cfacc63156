"""`python -m modeling_aver …` is the command `aver …`, for launchers that start modules."""

from .cli.main import run

run()
