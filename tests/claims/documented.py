"""Shell blocks of the documentation: where they are, and which of them state why they are not run."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PATTERNS = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "tests/outside/README.md"),
    *("docs/**/*.md", "model_cards/*/README.md"),
)
SHELLS = ("bash", "sh", "shell", "console")
RECIPES = "modeling_aver/training/recipes/*.yaml"
# A comment directly above a fence applies to that block.
FENCED = re.compile(
    r"(?:^<!-- (?P<comment>(?:(?!-->).)*?) -->\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"`([^`]+)`")
PROGRAMS = ("aver", "pip", "python", "torchrun", "accelerate", "make", "train_hf.py")
NOT_RUN, UNTIL_CTRL_C = "not run:", "runs until Ctrl-C"


@dataclass(frozen=True)
class Block:
    """
    A fenced block.

    Args:
        source (`str`): The document, relative to the repository.
        line (`int`): Of its first line of text, from 1.
        language (`str`): What stands behind the fence.
        text (`str`): What is between the fences.
        comment (`str`): The HTML comment directly above it, or nothing.
    """

    source: str
    line: int
    language: str
    text: str
    comment: str = ""

    @property
    def name(self):
        """`str`: document, line and first command."""
        return f"{self.source}:{self.line} {self.text.splitlines()[0].partition(' # ')[0].strip()[:50]}"

    @property
    def is_shell(self):
        return self.language.split(" ")[0] in SHELLS

    @property
    def is_not_run(self):
        return self.comment.startswith(NOT_RUN.rstrip(":")) or "norun" in self.language

    @property
    def reason(self):
        """`str`: why the block is not run; empty where nothing is said."""
        _, _, reason = self.comment.partition(NOT_RUN)
        return " ".join(reason.split())

    @property
    def runs_until_interrupted(self):
        return self.comment == UNTIL_CTRL_C

    def commands(self):
        """`list[str]`: its commands, each on one line; comments and assignments are left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not re.match(r"\s*(#|[A-Z]+=)", line)]


def documents():
    """`list[Path]`: every document whose blocks are run."""
    return sorted({path for pattern in PATTERNS for path in ROOT.glob(pattern)})


def blocks_of(path):
    """`list[Block]`: the fenced blocks of a document."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            source=path.relative_to(ROOT).as_posix(),
            line=text.count("\n", 0, match.start("text")) + 1,
            language=match["language"].strip(),
            text=match["text"],
            comment=match["comment"] or "",
        )
        for match in FENCED.finditer(text)
    ]


def shell_blocks():
    """`list[Block]`: those of every document, and the installation lines in the comments of recipes."""
    fenced = [block for path in documents() for block in blocks_of(path) if block.is_shell]
    installations = [span for span in inline_commands() if span.text.startswith("pip install ")]
    return fenced + installations


def inline_commands():
    """`list[Block]`: commands with arguments between backticks, in prose of documents and in comments of recipes."""
    found = []
    for path in [*documents(), *sorted(ROOT.glob(RECIPES))]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            text = "".join(f"{line.partition('#')[2]}\n" for line in text.splitlines())
        else:
            text = FENCED.sub(lambda match: "\n" * match[0].count("\n"), text)
        found += commands_in(text, path.relative_to(ROOT).as_posix())
    return found


def commands_in(text, source):
    """`list[Block]`: the commands between backticks of a text."""
    found = []
    for match in INLINE.finditer(text):
        command = " ".join(match[1].split())
        if command.partition(" ")[0] in PROGRAMS and " " in command and "…" not in command:
            found.append(Block(source, text.count("\n", 0, match.start()) + 1, "inline", f"{command}\n"))
    return found


if __name__ == "__main__":
    for block in shell_blocks():
        print(f"{block.name}: {f'not run: {block.reason}' if block.is_not_run else 'run'}")  # noqa: T201
