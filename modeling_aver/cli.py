"""`aver …`: each command a few lines over the floors beneath. Heavy imports wait for the command that needs them."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__.split(":")[0])
data_app = typer.Typer(no_args_is_help=True, help="Build, check and push datasets.")
app.add_typer(data_app, name="data")


def _print_version(wanted: bool):
    if wanted:
        from . import __version__

        typer.echo(f"modeling-aver {__version__}")
        raise typer.Exit


@app.callback()
def main(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False):
    """Audio-visual emotion recognition with TaRoPE and CTM."""
