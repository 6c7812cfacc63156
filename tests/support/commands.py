"""Runs the command `aver` in this process."""

from typer.testing import CliRunner

from modeling_aver.cli.main import app


def aver(*arguments):
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output
