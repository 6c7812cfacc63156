"""
The whole model against its own audio encoder and against transformers' audio classifier: what the second stream
costs.

    python benchmarks/whole_model.py [--rounds 9] [--small] [--out benchmarks/results]

`AverForEmotionClassification` as in the paper (an encoder of xlsr's shape, two MSA layers, CTM), `Wav2Vec2Model` and
`Wav2Vec2ForSequenceClassification` of the same configuration; the encoders share one set of random weights. Each gets
the same 4 × 3 s of sound with the same attention mask; ours gets 30 rows of action units a second besides. Inference
is under `inference_mode`; a training step is forward and backward, without an optimizer, the convolutional front
frozen in all three. The bare encoder's loss is the mean of its frames. `--small` takes an encoder of 2 layers, to try
it out.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from rich.progress import track
from side_by_side import RESULTS, Ratio, draw_ratios, interleave, markdown_table, peak_mebibytes, publish
from torch.utils.flop_counter import FlopCounterMode
from transformers import Wav2Vec2ForSequenceClassification, Wav2Vec2Model

from modeling_aver import AverConfig, AverForEmotionClassification

GOAL, FLOOR = 1.04, 1.06
BATCH, SECONDS, SAMPLING_RATE, VIDEO_RATE = 4, 3, 16_000, 30
CONTENDERS = ("ours", "audio encoder", "audio classifier")
WORKS = ("inference", "training")
SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}


def config(small):
    values = {**AverConfig().audio_config.to_dict(), **(SMALL if small else {})}
    return AverConfig(audio_config=values, fusion_layers=["msa", "msa"])


def build_model(name, small, encoder=None):
    """A contender; it shares the weights of an audio encoder, if one is given."""
    torch.manual_seed(0)
    shape = config(small)
    if name == "ours":
        model = AverForEmotionClassification(shape)
        its_encoder = model.aver.audio_encoder
    else:
        shape.audio_config.num_labels = shape.num_labels
        kinds = {"audio encoder": Wav2Vec2Model, "audio classifier": Wav2Vec2ForSequenceClassification}
        model = kinds[name](shape.audio_config)
        its_encoder = model if name == "audio encoder" else model.wav2vec2
    if encoder is not None:
        for mine, given in zip(its_encoder.parameters(), encoder.parameters(), strict=True):
            mine.data = given.data
    model.freeze_feature_encoder()
    return model


def build_models(small):
    ours = build_model("ours", small)
    encoder = ours.aver.audio_encoder
    return {"ours": ours, **{name: build_model(name, small, encoder) for name in CONTENDERS[1:]}}


def batch_of(name):
    """Keyword arguments of a contender's call; the sound is the same for all."""
    generator = torch.Generator().manual_seed(0)
    sound = torch.randn(BATCH, SECONDS * SAMPLING_RATE, generator=generator)
    batch = {"input_values": sound, "attention_mask": torch.ones(sound.shape, dtype=torch.long)}
    if name == "ours":
        rows = (BATCH, SECONDS * VIDEO_RATE)
        batch["action_units"] = torch.rand(*rows, 35, generator=generator)
        batch["action_units_mask"] = torch.ones(rows, dtype=torch.long)
    if name != "audio encoder":
        batch["labels"] = torch.arange(BATCH)
    return batch


def call_of(name, model, work):
    """Inference or a training step of a contender, as a call."""
    batch = batch_of(name)
    if work == "training":
        return partial(train, model.train(), batch)
    batch.pop("labels", None)
    return partial(infer, model.eval(), batch)


def build(name, work, small):
    return call_of(name, build_model(name, small), work)


@torch.inference_mode()
def infer(model, batch):
    return model(**batch)


def train(model, batch):
    output = model(**batch)
    loss = output.loss if "labels" in batch else output.last_hidden_state.mean()
    loss.backward()
    model.zero_grad()  # within the measured call, so that contenders of shared weights never hold two sets


def gigaflops(name, model):
    """Of inference, by torch's counter, which knows eager attention on every machine."""
    chosen = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:  # it knows no inference mode
        model.eval()(**batch_of(name))
    model.set_attn_implementation(chosen)
    return counter.get_total_flops() / 1e9


def measure(rounds, small):
    models = build_models(small)
    results = {
        "goal": GOAL,
        "floor": FLOOR,
        "parameters": {name: sum(value.numel() for value in model.parameters()) for name, model in models.items()},
        "gigaflops": {name: gigaflops(name, model) for name, model in models.items()},
        "seconds_a_call": {},
        "peak_mebibytes": {work: {} for work in WORKS},
    }
    for work, share in track(zip(WORKS, (1.0, 0.5), strict=True), "times", total=len(WORKS)):
        calls = {name: call_of(name, model, work) for name, model in models.items()}
        times = interleave(calls, max(2, round(rounds * share)))
        results["seconds_a_call"][work] = {name: values.tolist() for name, values in times.items()}
    del models, calls  # or the processes that memory is measured in would stand beside them
    for name in track(CONTENDERS, "memory"):
        for work in WORKS:
            results["peak_mebibytes"][work][name] = peak_mebibytes(build, name, work, small)
    return results


def ratios_of(results):
    """`dict[str, Ratio]` by work and opponent, from the seconds."""
    return {
        f"{work}, ours / {name}": Ratio.of(times["ours"], times[name])
        for work, times in results["seconds_a_call"].items()
        for name in CONTENDERS[1:]
    }


def tables(results):
    times = [
        {"": label, "time, median (middle half)": ratio, "limit": f"goal {GOAL:.2f}, floor {FLOOR:.2f}"}
        for label, ratio in ratios_of(results).items()
    ]
    rows = []
    for name in CONTENDERS:
        row = {"": name, "parameters": f"{results['parameters'][name] / 1e6:.1f} M"}
        row["GFLOP, inference"] = f"{results['gigaflops'][name]:.1f}"
        for work in WORKS:
            seconds = sorted(results["seconds_a_call"][work][name])
            row[f"{work}, s"] = f"{seconds[len(seconds) // 2]:.3g}"
            row[f"{work}, peak MiB"] = f"{results['peak_mebibytes'][work][name]:.0f}"
        rows.append(row)
    return markdown_table(times), markdown_table(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = measure(arguments.rounds, arguments.small)
    flops = results["gigaflops"]
    arithmetic = flops["ours"] / flops["audio encoder"]
    publish(
        "whole_model",
        "The whole model beside its audio encoder",
        command=" ".join(["python benchmarks/whole_model.py", *sys.argv[1:]]),
        sections=[
            *tables(results),
            f"By arithmetic alone ours costs {arithmetic:.3f} of its encoder. Peaks are beyond the weights, in a "
            "process of its own each; a training step's holds its gradients.",
        ],
        numbers=results,
        draw=lambda figure: draw_ratios(figure.subplots(), ratios_of(results), goal=GOAL, floor=FLOOR),
        out=arguments.out,
    )


if __name__ == "__main__":
    main()
