"""A model as a file that runs without this package: ONNX, or torch's own export; checked against the model itself."""

import inspect
import io
import json
import logging
import os
import re
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from ..configuration_aver import SPECTROGRAM_ENCODERS
from ..inference.onnx_model import (
    FILE,
    QUANTIZE_KEY,
    TORCH_FILE,
    UNQUANTIZED,
    OnnxModel,
    check_installed,
    complete,
    input_names,
    spectrogram_channels,
)
from ..io.atomic import clear_stale, write_whole, writing
from .agreement import MIN_AGREEMENT, check_agreement, measure_agreement, print_agreement, sample_material

TOLERANCE = 1e-4  # of logits
QUANTIZATIONS = ("int8",)
BLOCK = 32  # weights, and activations, to one scale
INT8_PRODUCTS = 4  # `accuracy_level` of ONNX Runtime's MatMulNBits: activations are rounded to 8 bits too
WORK = ".export-"  # how folders of what is not finished begin
LARGE = 1_500_000_000  # bytes of weights; a file of protocol buffers ends at 2 GB, so they then lie beside it
CASES = (  # clips, seconds of sound (0: none), frames of video (0: none)
    *((1, 0.3, 2), (1, 0.51, 17), (2, 1.0, 30), (3, 2.03, 50), (5, 0.7, 90)),
    *((1, 1.1, 0), (2, 0.0, 25)),
)


class ExportedModel(torch.nn.Module):
    """The model with its tensors by place and its logits alone: what an exporter can follow."""

    def __init__(self, model):
        super().__init__()
        self.model, self.names = model, input_names(model.config)

    def forward(self, *tensors):
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def export_onnx(model, processor, out, quantize=None, material=None, min_agreement=MIN_AGREEMENT):
    """
    Writes `model.onnx`, `config.json`, the processor and `export.json` (what was checked, and how it went).

    Args:
        model ([`AverForEmotionClassification`]), processor ([`AverProcessor`])
        out (`Path`): Folder.
        quantize (`str`, *optional*): `"int8"`: weights of matrix products as whole numbers, activations likewise while
            it runs. How far the answers then agree with the model's is in `export.json`.
        material ([`Material`], *optional*):
            Clips to measure the agreement on. Defaults to mixes of the six clips in the package.
        min_agreement (`float`, *optional*, defaults to 0.9): Share of the clips whose label `int8` must keep.

    Returns:
        `dict`: what `export.json` holds.

    Raises:
        `ImportError`: without the extra `onnx`. `ValueError`: for an unknown `quantize`, an encoder that the exporter
        cannot follow, logits that differ by more than 1e-4, or labels that `int8` changes in too many clips; then
        nothing is written.
    """
    check_quantize(quantize)
    import onnx
    import onnxruntime

    model = model.float().eval()
    if quantize is not None and material is None:
        material = sample_material(processor.feature_extractor, model.name_or_path)
    versions = {module.__name__: module.__version__ for module in (torch, onnx, onnxruntime)}
    with _whole_folder(Path(out)) as folder:
        _save_beside(model, processor, folder)
        is_large = sum(one.numel() * one.element_size() for one in model.parameters()) > LARGE
        with _quiet(), _failing_plainly(model.config):
            names = input_names(model.config)
            program = torch.onnx.export(
                _traced(model), dynamo=True, input_names=names, output_names=["logits"], verbose=False
            )
            program.model.metadata_props[QUANTIZE_KEY] = UNQUANTIZED
            program.save(str(folder / FILE), external_data=is_large)
        exported = OnnxModel(folder)
        report = {"format": "onnx", "quantize": quantize, "inputs": names, "versions": versions}
        report["parity"] = _parity(model, lambda **inputs: exported(**inputs).logits)
        if quantize is not None:
            with _quiet():
                _quantize(folder, is_large)
            report["agreement"] = measure_agreement(model, OnnxModel(folder), processor, material)
            check_agreement(report["agreement"], min_agreement)
        _finish(report, folder, f"{FILE}*")
    return report


def check_quantize(quantize):
    """Refuses an unknown quantization, and an environment that lacks the packages of an ONNX export."""
    if quantize not in (None, *QUANTIZATIONS):
        raise ValueError(f"`quantize` ({quantize!r}) may be {', '.join(QUANTIZATIONS)}, or left out.")
    check_installed("onnx", "onnxscript", "onnxruntime")


def export_torch(model, processor, out):
    """
    Writes `model.pt2` (`torch.export.save`), `config.json`, the processor and `export.json`.

    The file is a zip without pickles that `torch.export.load` reads, in the same version of torch or a newer one;
    nothing here does. Take its `.module(check_guards=False)`: some guards only say which lengths differed from each
    other in the example, such as those of batch and tokens, and the numbers are right where they are equal too.

    See [`export_onnx`] for arguments, result and errors.
    """
    model = model.float().eval()
    with _whole_folder(Path(out)) as folder:
        _save_beside(model, processor, folder)
        with _quiet(), _failing_plainly(model.config):
            program = _traced(model)
            module = _unguarded(program)
            program.example_inputs = None  # they alone would be pickled
            content = io.BytesIO()  # straight to a file, a full disk would end the process without a word
            torch.export.save(program, content)
            (folder / TORCH_FILE).write_bytes(content.getbuffer())
            parity = _parity(model, lambda **inputs: module(*_in_order(model.config, inputs)))
        report = {"format": "torch", "inputs": input_names(model.config), "versions": {"torch": torch.__version__}}
        report["parity"] = parity
        _finish(report, folder, TORCH_FILE)
    return report


def print_export(report, out):
    """Prints what was written and how well it agrees."""
    console, parity = Console(highlight=False, soft_wrap=True), report["parity"]
    console.print(f"{out}: {report['format']}, {report['bytes'] / 1e6:.1f} MB.", markup=False)
    console.print(
        f"Logits differ by {parity['max_difference']:.1e} at most over {parity['batches']} batches of other lengths "
        f"and masks (allowed: {parity['tolerance']:.0e})."
    )
    if agreement := report.get("agreement"):
        print_agreement(console, agreement)


def _traced(model):
    """`torch.export.ExportedProgram` with free batch size, length of sound and number of frames."""
    inputs = _example(model.config, 2, 1.0, 30)
    free = torch.export.Dim.DYNAMIC
    time = {"input_features": 2 if model.config.audio_config.model_type == "whisper" else 1}
    axes = {name: {0: free} | ({} if "speaker" in name else {time.get(name, 1): free}) for name in inputs}
    return torch.export.export(
        ExportedModel(model), tuple(inputs.values()), dynamic_shapes=(tuple(axes.values()),), strict=False
    )


def _unguarded(program):
    """The exported module without its guards, which older versions of torch do not have."""
    known = "check_guards" in inspect.signature(program.module).parameters
    return program.module(**({"check_guards": False} if known else {}))


def _in_order(config, inputs):
    """Tensors of the types that the example had."""
    return [
        values.long() if name.endswith("mask") else values.float() for name, values in complete(config, inputs).items()
    ]


def _example(config, num_clips, seconds, num_frames):
    """Made-up inputs; the last clip of several is shorter, has failed frames, and its video begins late."""
    generator = torch.Generator().manual_seed(num_clips)
    inputs = {}
    if seconds:
        rate, channels = config.sampling_rate, ()
        if config.audio_input_name == "input_features":
            rate = SPECTROGRAM_ENCODERS[config.audio_config.model_type][0]
            channels = (spectrogram_channels(config),)
        sound = torch.randn(num_clips, round(seconds * rate), *channels, generator=generator)
        is_mel_first = config.audio_config.model_type == "whisper"
        inputs[config.audio_input_name] = sound.mT.contiguous() if is_mel_first else sound
        inputs["attention_mask"] = torch.ones(sound.shape[:2], dtype=torch.long)
    if num_frames:
        inputs["action_units"] = torch.rand(num_clips, num_frames, config.num_action_units, generator=generator)
        inputs["action_units_mask"] = torch.ones(num_clips, num_frames, dtype=torch.long)
        inputs["video_timestamps"] = torch.arange(num_frames).repeat(num_clips, 1) / config.video_frame_rate
    if config.audio_normalization == "standardize" and seconds:
        shape = (num_clips, config.num_audio_layers, config.audio_config.hidden_size)
        inputs["speaker_audio_mean"] = torch.randn(shape, generator=generator)
        inputs["speaker_audio_std"] = torch.rand(shape, generator=generator)
        inputs["speaker_audio_std"][0] = 0.0  # nobody known
    return _uneven(inputs) if num_clips > 1 else inputs


def _uneven(inputs):
    if "attention_mask" in inputs:
        inputs["attention_mask"][-1, -(inputs["attention_mask"].shape[1] // 3) :] = 0
    if "action_units" in inputs:
        inputs["action_units_mask"][-1, 1::4] = 0
        inputs["video_timestamps"][-1] = 0.21 + 1.3 * inputs["video_timestamps"][-1]
    if len({"attention_mask", "action_units"} & set(inputs)) == 2 and len(inputs["action_units"]) > 2:
        inputs["attention_mask"][1], inputs["action_units_mask"][0] = 0, 0  # one clip lacks sound, another the face
    return inputs


def _cases(config):
    """Those of `CASES` whose streams a table of positions reaches."""
    if config.position_embedding_type != "learnable":
        return CASES
    longest = config.max_position_embeddings
    return [case for case in CASES if max(case[1] * config.audio_frame_rate, case[2]) <= longest]


@torch.inference_mode()
def _parity(model, answer):
    """Refuses an export whose logits (`answer`) are others than the model's; how much they differ."""
    differences, cases = [], _cases(model.config)
    for case in cases:
        inputs = _example(model.config, *case)
        differences.append(float((model(**inputs).logits - answer(**inputs)).abs().max()))
    if not max(differences) <= TOLERANCE:  # NaN too
        raise ValueError(
            f"The exported model's logits differ from the model's by {max(differences):.1e}, more than the allowed "
            f"{TOLERANCE:.0e}: nothing was written."
        )
    return {"max_difference": max(differences), "tolerance": TOLERANCE, "batches": len(cases)}


def _quantize(folder, is_large):
    """
    Weights of matrix products as 8-bit numbers with a scale for each 32 of a column. ONNX Runtime rounds activations
    likewise while it runs, with a range for each 32 of a frame: the range of a frame depends on no other frame.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(folder / FILE)
    onnx.helper.set_model_props(model, {QUANTIZE_KEY: "int8"})
    quantizer = MatMulNBitsQuantizer(model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=INT8_PRODUCTS)
    quantizer.process()
    for path in folder.glob(f"{FILE}*"):
        path.unlink()
    quantizer.model.save_model_to_file(str(folder / FILE), use_external_data_format=is_large)


def _save_beside(model, processor, folder):
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)


def _finish(report, folder, pattern):
    report["bytes"] = sum(path.stat().st_size for path in folder.glob(pattern))
    write_whole(folder / "export.json", json.dumps(report, indent=1) + "\n")


@contextmanager
def _whole_folder(out):
    """A folder to write to whose files are moved to `out` if all goes well."""
    with writing(out):
        clear_stale(out, f"{WORK}*")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=WORK, dir=out) as folder:
            yield Path(folder)
            for path in Path(folder).iterdir():
                os.replace(path, out / path.name)


@contextmanager
def _quiet():
    """What exporters say on their way concerns their authors."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(level)


@contextmanager
def _failing_plainly(config):
    try:
        yield
    except OSError:  # of the disk
        raise
    except Exception as error:  # exporters have many, with pages of text
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        lines = [line for line in plain.splitlines() if line.strip()] or [""]
        raise ValueError(
            f"torch {torch.__version__} cannot export this {config.audio_config.model_type} model: "
            f"{type(error).__name__}: {lines[0]}"
        ) from error
