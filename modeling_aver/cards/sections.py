"""What the cards of a run and of an experiment share: pieces of their templates, tables, licences."""

import re
from collections.abc import Callable
from pathlib import Path

import jinja2

# By their names in results.json: in the table, and the metric's id on the Hub with its arguments.
SCORES = {
    "eval_war": ("WAR", "accuracy", None),
    "eval_uar": ("UAR", "recall", {"average": "macro"}),
    "eval_macro_f1": ("macro F1", "f1", {"average": "macro"}),
}
PAPER = """@misc{koo-tarope,
  title  = {Multimodal Self-Attention Network with Temporal Alignment for Audio-Visual Emotion Recognition},
  author = {Koo, Inyong and Seong, Yeeun and Son, Minseok and Jang, Jaehyuk and Kim, Changick}
}"""


def render(template, **values):
    """Text of a template beside this file; a value that it names and is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def citations(data):
    """BibTeX of the paper and, where it is known, of the corpus."""
    return [PAPER, *([data.head["citation"]] if data.head and data.head["citation"] else [])]


def scored_results(results):
    """`dict`: what the section Results shows of `results.json`; everything empty where no clip was counted."""
    if "confusion" not in results:
        return dict.fromkeys(("scores", "intervals", "num_clips", "frequent", "recalls"))
    metrics, intervals = results["metrics"], results.get("intervals")
    counts = results["confusion"]
    sizes = [sum(row) for row in counts]
    labels = [cell(label) for label in results["labels"]]
    return {
        "num_clips": f"{sum(sizes):,} clips",
        "intervals": bool(intervals),
        "scores": [
            {
                "name": name,
                "value": percent(metrics[key]),
                "clips": interval(intervals, "clips", key),
                "speakers": interval(intervals, "speakers", key),
            }
            for key, (name, _, _) in SCORES.items()
            if key in metrics
        ],
        "frequent": {"label": labels[sizes.index(max(sizes))], "war": percent(max(sizes) / sum(sizes))},
        "recalls": [
            {"label": label, "clips": size, "recall": percent(row[index] / size) if size else "—", "counts": row}
            for index, (label, size, row) in enumerate(zip(labels, sizes, counts, strict=True))
        ],
    }


def interval(intervals, over, key):
    """Such as `61.2 to 70.3`; a dash where there is none."""
    found = ((intervals or {}).get(over) or {}).get(key.removeprefix("eval_"))
    return "—" if found is None else f"{percent(found[0])} to {percent(found[1])}"


def circumstances(results, training):
    """Rows of the table of how it was made; entries that the run did not record are left out."""
    metrics = results["metrics"]
    rows = {
        "date": results.get("date"),
        "hardware": results.get("hardware"),
        "processes": results.get("num_processes"),
        "seed": results.get("seed"),
        "epochs": _shown(metrics.get("epoch"), lambda value: f"{value:g}"),
        "clips a step and process": training.get("per_device_train_batch_size"),
        "accumulated steps": training.get("gradient_accumulation_steps"),
        "learning rate": _shown(training.get("learning_rate"), lambda value: f"{value:g}"),
        "training time": _shown(metrics.get("train_runtime"), lambda value: f"{value:,.0f} s"),
        "training loss": _shown(metrics.get("train_loss"), lambda value: f"{value:.4f} (mean of all steps)"),
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    }
    return {name: cell(value) for name, value in rows.items() if value is not None}


def _shown(value, form: Callable):
    return None if value is None else form(value)


def licence_id(data):
    """Apache-2.0, unless clips that may not be used commercially were trained on: then theirs."""
    head = data.head or {}
    return head["license"] if "-nc-" in head.get("license", "") else "apache-2.0"


def licences(data, base):
    """Sentences; `base` is the Hub id of the audio encoder, or `None`."""
    notes = ["Code: Apache-2.0."]
    notes.append(f"Training clips ({data.name}): {data.head['licence'] if data.head else 'ask whoever offers them.'}")
    if "-nc-" in licence_id(data):
        notes.append("So this model, which was trained on them, is not for commerce.")
    if base:
        notes.append(f"Audio encoder: as [{base}](https://huggingface.co/{base}) says.")
    return notes


def percent(value):
    """Such as `61.24`."""
    return f"{100 * value:.2f}"


def cell(value):
    """Text that cannot end a cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")
