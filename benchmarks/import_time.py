"""
What `import modeling_aver` costs beside what any model of transformers costs, in fresh processes that take turns.

- *names alone*: `import torch, transformers` loads no model's code, for transformers fetches what is asked for;
- *any model*: the classes that every model class, `AutoModel` and `AutoProcessor` stand on, which is the floor of any
  package with a model in it;
- *modeling_aver*: the same, our model, its registration and the pipeline. Goal: at most 1.10 times *any model*.

`aver --help` and the interpreter alone are measured beside them. The share of our own files, and of what they ask of
transformers beyond *any model*, is what `-X importtime` reports.

    python benchmarks/import_time.py        # about two minutes
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from side_by_side import RESULTS, Ratio, draw_ratios, interleave, markdown_table, publish

NAME = "import_time"
GOAL = 1.10
ANY_MODEL = "import torch; from transformers import PreTrainedModel, AutoModel, AutoProcessor"
COMMANDS = {
    "interpreter": ["-c", ""],
    "names alone": ["-c", "import torch, transformers"],
    "any model": ["-c", ANY_MODEL],
    "modeling_aver": ["-c", "import modeling_aver"],
    "aver --help": ["-m", "modeling_aver", "--help"],
}


def call(arguments):
    """Runs a fresh interpreter to its end."""
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)


def own_milliseconds(report):
    """
    Milliseconds of what a process imports, by file, as `-X importtime` tells it.

    Args:
        report (`str`): Lines of `import time: self [us] | cumulative | name`.

    Returns:
        `dict[str, float]`: by module, without what it imports in turn.
    """
    rows = [line.removeprefix("import time:").split("|") for line in report.splitlines() if line.count("|") == 2]
    return {name.strip(): int(own) / 1000 for own, _, name in rows if own.strip().isdigit()}


def shares():
    """(milliseconds of our files, of what they load of others beyond *any model*), alone in one process."""
    loaded = own_milliseconds(call(["-X", "importtime", "-c", f"{ANY_MODEL}; import modeling_aver"]).stderr)
    before = own_milliseconds(call(["-X", "importtime", "-c", ANY_MODEL]).stderr)
    ours = sum(value for name, value in loaded.items() if name.startswith("modeling_aver"))
    return ours, sum(value for name, value in loaded.items() if name not in before) - ours


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 10,
    out: Annotated[Path, typer.Option(help="Folder for table, picture and numbers.")] = RESULTS,
):
    """Measures imports in fresh processes."""
    contenders = {name: lambda arguments=arguments: call(arguments) for name, arguments in COMMANDS.items()}
    with Console(stderr=True).status(f"{rounds} rounds of {len(COMMANDS)} processes"):
        seconds = interleave(contenders, rounds)
        ours, others = shares()
    ratios = {name: Ratio.of(seconds[name], seconds["any model"]) for name in ("names alone", "modeling_aver")}
    table = [
        {"process": name, "median, s": f"{np.median(values):.2f}"}
        | {"of any model": str(Ratio.of(values, seconds["any model"]))}
        for name, values in seconds.items()
    ]
    publish(
        NAME,
        "What the import costs",
        command=f"python benchmarks/{NAME}.py {' '.join(sys.argv[1:])}".strip(),
        sections=[
            markdown_table(table),
            f"`import modeling_aver` takes {ratios['modeling_aver']} times what any model of transformers takes; the "
            f"goal is {GOAL:.2f}. Once that is loaded, our own files take {ours:.0f} ms, and what they load besides "
            f"{others:.0f} ms.",
        ],
        numbers={
            "seconds": {name: values.tolist() for name, values in seconds.items()},
            "own_files_ms": ours,
            "loaded_beyond_any_model_ms": others,
        },
        draw=lambda figure: draw_ratios(figure.subplots(), ratios, goal=1.0, floor=GOAL),
        out=out,
    )


if __name__ == "__main__":
    typer.run(main)
