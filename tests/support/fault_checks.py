"""Contents of folders, and commands that must be refused."""

from typer.testing import CliRunner

from modeling_aver.cli.main import app


def refused(*arguments):
    """What a command says that ends with a user's mistake or a fault of the machine: `run` prints it as one line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, ValueError | OSError | ImportError), repr(result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def done(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def contents(folder):
    """Bytes of every file below a folder but hidden ones and the ballast of a full disk, by name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "ballast")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
