"""Do the commands that are printed exist, with these options? For those that are not run."""

import re
import shlex
from pathlib import Path

import typer
from transformers import HfArgumentParser

from modeling_aver.cli.main import app
from modeling_aver.training.arguments import AverTrainingArguments, DataArguments, ModelArguments

from .documented import ROOT, commands_in


def find_problem(command):
    """`str` or `None`: what a printed command names that does not exist."""
    words = shlex.split(command, comments=True)
    if "train_hf.py" in words:
        return _of_options(words[words.index("train_hf.py") + 1 :], _training_options(), "train_hf.py")
    if words[0] == "aver":
        return _of_aver(words[1:])
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        unknown = [word for word in words[1:] if word not in targets and "=" not in word]
        return f"make {unknown[0]}: no such target" if unknown else None
    if words[0] == "python" and words[1].endswith(".py") and not _is_file(words[1]):
        return f"there is no file {words[1]}"
    return None


def commands_in_help(command=None, name="aver"):
    """`list[Block]`: the commands that the help of `aver` and of each of its commands names."""
    command = command or typer.main.get_command(app)
    texts = [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
    found = [block for text in texts for block in commands_in(text, f"{name} --help")]
    for word, child in getattr(command, "commands", {}).items():
        found += commands_in_help(child, f"{name} {word}")
    return found


def _of_aver(words):
    command = typer.main.get_command(app)
    path = ["aver"]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        path.append(words[0])
        command = command.commands.get(words.pop(0))
        if command is None:
            return f"{' '.join(path)}: no such command"
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    if command.name == "reproduce":  # passes what it does not know on to train_hf.py
        known |= _training_options()
    return _of_options(words, known, " ".join(path))


def _training_options():
    parser = HfArgumentParser((ModelArguments, DataArguments, AverTrainingArguments))
    return {name for action in parser._actions for name in action.option_strings}


def _of_options(words, known, command):
    for word in words:
        if word.startswith("--") and word.partition("=")[0] not in known:
            return f"{command} {word}: no such option"
        if word.startswith("modeling_aver/") and not Path(ROOT, word).is_file():
            return f"there is no file {word}"
    return None


def _is_file(name):
    """Whether the repository has a file; capitals, as in NAME.py, are for the reader to replace."""
    return Path(name).stem.isupper() or (ROOT / name).is_file()
