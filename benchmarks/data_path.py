"""
What our way from media to batches costs beside the plainest loop that does the same, and where `aver predict` spends
its time.

- *Training*: rows of a built dataset by `AverDataCollator`, against a loop over the same clips' files: soundfile,
  pandas' `read_csv`, zero mean and unit variance, padding, masks.
- *Files*: the same files by our `read_audio` and `read_openface` to `AverProcessor`, against that loop.
- *Video's sound*: 44.1 kHz MP3 in .flv by `read_audio`, against a PyAV loop that decodes, resamples and averages.
- *Frames*: all pictures of the .flv by `read_frames`, against a PyAV loop that decodes and converts them.
- *Extraction*: `aver extract` by MediaPipe with 1 and 2 workers, in frames a second, the start of the processes
  included; left out where MediaPipe or its model is not installed.
- *aver predict* of a clip and of a minute: seconds of each stage, by clocks around its functions.

Both sides read the same six CREMA-D clips on one thread, and their batches are compared before they are measured.
Throughput is ours / bare; the floor is 0.90 for training.

    python benchmarks/data_path.py        # about three minutes
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import pandas as pd
import predict_stages
import soundfile
import torch
import typer
from rich.progress import track
from side_by_side import RESULTS, Ratio, draw_ratios, interleave, markdown_table, publish

from datasets_scripts import SAMPLE_DIR, load_crema_d
from modeling_aver import AverFeatureExtractor, AverProcessor
from modeling_aver.features.base import ExtractorUnavailableError
from modeling_aver.features.clips import Clip
from modeling_aver.features.extraction import extract_clips, find_extractor
from modeling_aver.features.openface_csv import ACTION_UNITS, read_openface
from modeling_aver.io.media import read_audio, read_frames
from modeling_aver.training.collation import AverDataCollator

NAME = "data_path"
FLOOR = 0.90
LEAST = 0.3  # seconds of a measurement: the six clips again and again
WAVES = sorted((SAMPLE_DIR / "AudioWAV").glob("*.wav"))
TABLES = sorted((SAMPLE_DIR / "OpenFace").glob("*.csv"))
VIDEOS = sorted((SAMPLE_DIR / "VideoFlash").glob("*.flv"))


def bare_batch(waves, tables):
    """
    What `AverDataCollator` makes of clips, in the fewest words.

    Returns:
        `dict[str, torch.Tensor]`: `input_values`, `attention_mask`, `action_units`, `action_units_mask`,
        `video_timestamps`.
    """
    sounds, units, found, times = [], [], [], []
    for wave, path in zip(waves, tables, strict=True):
        samples, _ = soundfile.read(wave, dtype="float32")
        sounds.append((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7))
        table = pd.read_csv(path, skipinitialspace=True)
        success = table["success"].to_numpy() > 0
        units.append(table[list(ACTION_UNITS)].to_numpy(np.float32) * success[:, None])
        found.append(success)
        times.append(table["timestamp"].to_numpy(np.float32))
    return {
        "input_values": padded(sounds),
        "attention_mask": padded([np.ones(len(sound), np.int64) for sound in sounds]),
        "action_units": padded(units),
        "action_units_mask": padded([flags.astype(np.int64) for flags in found]),
        "video_timestamps": padded(times),
    }


def padded(clips):
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)


def bare_sound(path, sampling_rate=16_000):
    """Mono sound of a media file by PyAV alone."""
    resampler, pieces = av.AudioResampler(format="fltp", rate=sampling_rate), []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            frame.pts = None
            pieces += resampler.resample(frame)
        pieces += resampler.resample(None)
    return np.concatenate([piece.to_ndarray().mean(axis=0) for piece in pieces])


def bare_frames(path):
    """Number of pictures, each decoded and made RGB, by PyAV alone."""
    with av.open(str(path)) as container:
        return sum(frame.to_ndarray(format="rgb24").ndim == 3 for frame in container.decode(video=0))


def contenders():
    """`dict[str, tuple]`: calls (ours, bare) by what they do, each over the six clips."""
    processor = AverProcessor(AverFeatureExtractor())
    rows, collate = load_crema_d(split="train"), AverDataCollator(processor)

    def training():
        return collate(rows.__getitems__(list(range(len(rows)))))

    def files():
        tracks = [read_openface(path) for path in TABLES]
        return processor(
            audio=[read_audio(path) for path in WAVES],
            action_units=[track.features for track in tracks],
            action_units_success=[track.success for track in tracks],
            video_timestamps=[track.timestamps for track in tracks],
            sampling_rate=16_000,
        )

    def bare():
        return bare_batch(WAVES, TABLES)

    return {
        "training: rows to batches": (training, bare),
        "files to batches": (files, bare),
        "video's sound": (
            lambda: [read_audio(path) for path in VIDEOS],
            lambda: [bare_sound(path) for path in VIDEOS],
        ),
        "frames of video": (
            lambda: [sum(1 for _ in read_frames(path)) for path in VIDEOS],
            lambda: [bare_frames(path) for path in VIDEOS],
        ),
    }


def differences(ours, bare):
    """Largest difference between two batches, or lists of waveforms or counts."""
    if isinstance(bare, dict):
        ours, bare = [ours[name].numpy() for name in bare], [values.numpy() for values in bare.values()]
    return max(float(np.abs(np.subtract(*pair, dtype=float)).max()) for pair in zip(ours, bare, strict=True))


def compare(rounds):
    """`list[dict]`: raw seconds of both sides over the six clips, and how far their results are apart."""
    rows = []
    for name, (ours, bare) in track(contenders().items(), "ours and the bare loop"):
        apart = differences(ours(), bare())
        times = interleave({"ours": ours, "bare": bare}, rounds, seconds=LEAST)
        rows.append({"what": name, "apart": apart, **{side: values.tolist() for side, values in times.items()}})
    return rows


def extraction(rounds):
    """`list[dict]` of seconds and frames by number of workers, or the reason why there is none."""
    try:
        extractor = find_extractor("mediapipe")
    except ExtractorUnavailableError as error:
        return str(error)
    clips = [Clip(path, path.stem) for path in VIDEOS]
    rows = []
    for workers in track((1, 2), "extraction"):
        with tempfile.TemporaryDirectory() as folder:
            places = iter(range(99))

            def extract(workers=workers, folder=folder, places=places):
                extract_clips(extractor, (clips, []), Path(folder) / str(next(places)), workers=workers)

            seconds = interleave({"extract": extract}, rounds)["extract"]
        rows.append({"workers": workers, "seconds": seconds.tolist()})
    return rows


def throughput(row):
    """[`Ratio`] of ours over bare, in clips a second."""
    return Ratio.of(row["bare"], row["ours"])


def tables(rows, extracted, stages):
    """Sections of the Markdown."""
    count, frames = len(WAVES), sum(map(bare_frames, VIDEOS))
    compared = [
        {
            "what": row["what"],
            "ours, clips/s": f"{count / np.median(row['ours']):.0f}",
            "bare, clips/s": f"{count / np.median(row['bare']):.0f}",
            "throughput": str(throughput(row)),
            "apart by": f"{row['apart']:.0e}",
        }
        for row in rows
    ]
    if isinstance(extracted, str):
        extraction_table = f"Extraction is left out: {extracted}"
    else:
        extraction_table = markdown_table(
            [
                {"workers": row["workers"], "MediaPipe, frames/s": f"{frames / np.median(row['seconds']):.0f}"}
                for row in extracted
            ]
        )
    return [markdown_table(compared), extraction_table, markdown_table(predict_stages.table(stages))]


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 10,
    out: Annotated[Path, typer.Option(help="Folder for table, picture and numbers.")] = RESULTS,
):
    """Measures the data path on this machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = compare(rounds)
    torch.set_num_threads(threads)
    extracted = extraction(max(1, rounds // 5))
    stages = predict_stages.measure()
    publish(
        NAME,
        "From media to batches",
        command=f"python benchmarks/{NAME}.py {' '.join(sys.argv[1:])}".strip(),
        sections=tables(rows, extracted, stages),
        numbers={"clips": len(WAVES), "rows": rows, "extraction": extracted, "predict": stages},
        draw=lambda figure: draw_ratios(
            figure.subplots(), {row["what"]: Ratio.of(row["ours"], row["bare"]) for row in rows}, goal=1.0,
            floor=1 / FLOOR,
        ),
        out=out,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
