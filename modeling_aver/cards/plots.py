"""Pictures of a run for its card: what was taken for what, and how the loss fell. They need the extra `plot`."""

import numpy as np

LOSSES = {
    "loss": ("training", "#1f6f8b"),
    "classification_loss": ("training: classification", "#7fb2c4"),
    "ctm_loss": ("training: CTM", "#b9b9b9"),
    "eval_loss": ("evaluation", "#e07a2f"),
}


def plot_confusion(counts, labels, path):
    """
    Draws a confusion matrix; colours are shares of a row, so that rare emotions are as readable as frequent ones.

    Args:
        counts (`list[list[int]]`): Row = true emotion, column = predicted emotion.
        labels (`list[str]`): Names of the emotions.
        path (`str` or `Path`): PNG to write.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.8 + 0.55 * len(labels)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize="small")
    labels = [label.replace("$", r"\$") for label in labels]  # no formulas
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="answer of the model", ylabel="acted emotion")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the row")
    figure.savefig(path, dpi=150)


def plot_losses(log, path):
    """
    Draws the losses of a training log over its steps.

    Args:
        log (`pd.DataFrame`): With `step` and any of `loss`, `classification_loss`, `ctm_loss`, `eval_loss` (nats).
        path (`str` or `Path`): PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for name, (label, color) in LOSSES.items():
        points = log[["step", name]].dropna() if name in log else ()
        if len(points):
            marker = "o" if len(points) < 3 else None  # one point draws no line
            axes.plot(points["step"], points[name], color=color, label=label, linewidth=1.6, marker=marker)
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
