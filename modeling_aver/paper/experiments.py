"""The paper's experiments as data: what each row trains, what the paper prints beside it, what its fusion costs."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..configuration_aver import AverConfig
from ..encoder import FusionEncoder
from ..modeling_aver import AverForEmotionClassification
from ..positions import frame_timestamps

CTM_LOSS_WEIGHT = 0.5  # section 3.2
# What the rows differ in, and nothing else: a recipe and flags decide the rest for all of them alike.
VARIED = ("fusion_layers", "position_embedding_type", "ctm_loss_weight")
# What decides the cost of the fusion layers beside the row.
SIZES = ("hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
SECONDS = 2  # section 3.4: "for a 2-second input"


@dataclass(frozen=True)
class Row:
    """
    One configuration that an experiment trains.

    Args:
        name (`str`): Short, for the command line.
        title (`str`): As the paper names it.
        fusion_layers (`tuple[str]`), position_embedding_type (`str`), ctm_loss_weight (`float`):
            See [`AverConfig`].
        paper (`dict[str, float]`): Accuracy that the paper prints, in %, by corpus: `crema_d`, `ravdess`.
    """

    name: str
    title: str
    fusion_layers: tuple
    position_embedding_type: str
    ctm_loss_weight: float
    paper: dict

    @property
    def folder(self):
        """Named by the configuration, not by the row: a run serves every table that it is a row of."""
        fusion = "+".join(self.fusion_layers) or "concat"
        return f"{fusion}_{self.position_embedding_type}_{'ctm' if self.ctm_loss_weight else 'no-ctm'}"

    def values(self, ctm_loss_weight=None):
        """`dict`: its values of AverConfig. `ctm_loss_weight` takes the place of the paper's where CTM is on."""
        weight = self.ctm_loss_weight and (ctm_loss_weight or self.ctm_loss_weight)
        values = (list(self.fusion_layers), self.position_embedding_type, weight)
        return dict(zip(VARIED, values, strict=True))


@dataclass(frozen=True)
class Published:
    """What the paper cites of others: `title`, `year`, and accuracies in % by corpus."""

    title: str
    year: int
    paper: dict


@dataclass(frozen=True)
class Experiment:
    """
    A table or figure of the paper.

    Args:
        name (`str`), title (`str`)
        rows (`tuple[Row]`): What is trained.
        reference (`str`, *optional*): Name of the row that the paper chose: each other row is compared with it.
        earlier (`tuple[Published]`, *optional*): Listed above the rows.
    """

    name: str
    title: str
    rows: tuple
    reference: str | None = None
    earlier: tuple = ()


def _fusion(name, layers, accuracy, title=None):
    """A row of Table 2: TaRoPE in all, and without CTM, as its 88.95 is Table 3's cell without."""
    return Row(name, title or name.replace("+", " + ").upper(), layers, "tarope", 0.0, {"crema_d": accuracy})


def _positions(title, without, with_ctm):
    """Both cells of a row of Table 3."""
    name = title.lower()
    return (
        Row(name, f"{title}, without CTM", ("msa", "msa"), name, 0.0, {"crema_d": without}),
        Row(f"{name}+ctm", f"{title}, with CTM", ("msa", "msa"), name, CTM_LOSS_WEIGHT, {"crema_d": with_ctm}),
    )


def _published(title, year, crema_d, ravdess):
    found = {"crema_d": crema_d, "ravdess": ravdess}
    return Published(title, year, {corpus: value for corpus, value in found.items() if value is not None})


_OURS = {"crema_d": 89.49, "ravdess": 89.25}
_CELLS = (
    *_positions("Sinusoidal", 88.09, 88.79),
    *_positions("Learnable", 87.44, 88.79),
    *_positions("RoPE", 87.76, 89.00),
    *_positions("TaRoPE", 88.95, 89.49),
)
EXPERIMENTS = {
    "table1": Experiment(
        "table1",
        "Table 1: audio-visual emotion recognition, accuracy in %",
        rows=(Row("ours", "Ours", ("msa", "msa"), "tarope", CTM_LOSS_WEIGHT, _OURS),),
        earlier=(
            _published("Ghaleb et al. [20]", 2019, 74.00, 67.70),
            _published("MATER [21]", 2020, 67.20, 76.30),
            _published("TA-AVN [4]", 2021, 84.00, 78.70),
            _published("Luna-Jiménez et al. [2]", 2021, None, 80.08),
            _published("Luna-Jiménez et al. [5]", 2021, None, 86.70),
            _published("V8 + A4 [6]", 2022, None, 86.00),
            _published("Mocanu et al. [8]", 2023, 84.57, 87.85),
            _published("Lei et al. [3]", 2023, 85.06, None),
            _published("AttA-Net [7]", 2024, None, 88.00),
            _published("HiCMAE [9]", 2024, 84.91, 87.96),
            _published("VQ-MAE-AV [10]", 2025, 80.40, 84.80),
            _published("ATTSE-Net [12]", 2025, None, 88.67),
        ),
    ),
    "table2": Experiment(
        "table2",
        "Table 2: fusion strategies, accuracy in %",
        rows=(
            _fusion("concat", (), 85.71, title="Concat."),
            _fusion("isa+isa", ("isa", "isa"), 87.98),
            _fusion("ica+ica", ("ica", "ica"), 87.49),
            _fusion("isa+ica", ("isa", "ica"), 87.71),
            _fusion("ica+isa", ("ica", "isa"), 88.31),
            _fusion("msa+msa", ("msa", "msa"), 88.95, title="MSA + MSA (Ours)"),
        ),
        reference="msa+msa",
    ),
    "table3": Experiment(
        "table3",
        "Table 3: positional encodings and CTM loss, accuracy in %",
        rows=_CELLS,
        reference="tarope+ctm",
    ),
    "figure3": Experiment(
        "figure3",
        "Figure 3: with and without CTM loss, accuracy in %",
        rows=_CELLS[-2:],
        reference="tarope+ctm",
    ),
}


def find_experiment(name):
    """One of [`EXPERIMENTS`]; `ValueError` that lists them for another name."""
    if name not in EXPERIMENTS:
        raise ValueError(f"The paper's experiments are {', '.join(EXPERIMENTS)}; got {name}.")
    return EXPERIMENTS[name]


@dataclass(frozen=True)
class FusionCost:
    """
    Args:
        parameters (`int`): Of the fusion layers, and of a learnable table of positions.
        gflops (`float`): 10⁹ multiply-adds that they take for one clip of 2 s, 100 audio and 60 video frames. The
            paper's "0.5 GFLOPs" a layer are multiply-adds too.
    """

    parameters: int
    gflops: float


def fusion_cost(row, **sizes):
    """
    What the fusion layers of a row cost.

    Args:
        row ([`Row`])
        sizes: Those of [`SIZES`] that are not the paper's.

    Returns:
        [`FusionCost`]
    """
    # "eager" attends by plain products, each of which is counted.
    config = AverConfig(**row.values(), **sizes, attn_implementation="eager")
    with torch.device("meta"):  # shapes are all that counting takes
        encoder = FusionEncoder(config).eval()
        streams = []
        for rate in (config.audio_frame_rate, config.video_frame_rate):
            length = round(SECONDS * rate)
            streams.append((torch.empty(1, length, config.hidden_size), frame_timestamps(length, rate)))
    (audio, audio_seconds), (video, video_seconds) = streams
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        encoder(audio, video, audio_seconds, video_seconds)
    return FusionCost(encoder.num_parameters(), counter.get_total_flops() / 2 / 1e9)


def parameter_note():
    """How the counts at the paper's size stand to those that Table 2 prints, counted anew."""
    rows = {row.name: row for row in EXPERIMENTS["table2"].rows}
    stacked, msa = (fusion_cost(rows[name]).parameters for name in ("isa+ica", "msa+msa"))
    with torch.device("meta"):
        model = AverForEmotionClassification(AverConfig())
    projection = model.aver.audio_projection
    extra = sum(parameter.numel() for parameter in projection.parameters())
    return (
        f"At the paper's size the stacked rows have {stacked:,} parameters, {_millions(stacked)} as the paper prints. "
        f"MSA + MSA has {msa:,} ({_millions(msa)}), where the paper prints 6.83M: with the {extra:,} of the linear "
        f"layer that takes audio frames from {projection.in_features:,} to {projection.out_features} channels they "
        f"are {msa + extra:,} ({_millions(msa + extra)})."
    )


def _millions(count):
    return f"{count / 1e6:.2f}M"
