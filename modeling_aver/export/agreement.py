"""How far the answers of a quantized model are from the model's, on clips that it was not trained on."""

import csv
import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from datasets_scripts import SAMPLE_DIR

from ..features.base import ExtractionError, ExtractorUnavailableError
from ..features.clips import find_clips
from ..inference.faces import find_faces
from ..inference.recordings import open_recording
from ..io.media import MediaError, one_line, read_bytes
from ..pipeline_aver import TASK, EmotionPipeline
from ..windows import LONGEST, Recording, cut

BATCH_SIZE = 8  # of `aver predict`
MOST_CLIPS = 64  # of a folder that are compared, evenly spaced
MIN_AGREEMENT = 0.9  # share of clips whose label must stay
MIX_SECONDS = (0.8, 2.2)  # the shortest and the longest mix
SPEEDS, VOLUMES, DELAYS = (0.9, 1.0, 1.1), (0.5, 1.0), (0.0, 0.1, 0.2, 0.3)  # of mixes, in turn; delays in seconds
SAMPLES_SEEN = {
    True: "The model was trained on the six clips, but on none of these mixes",
    False: "The model was not trained on the six clips",
    None: "Whether the model was trained on the six clips is not known, but it was on none of these mixes",
}


@dataclass(frozen=True)
class Material:
    """
    Clips to compare two models on.

    Args:
        windows (`list[Window]`): A clip of up to 30 s each.
        clips (`str`): What they are, in words.
        seen (`str`): Whether the model was trained on them, in words.
        skipped (`dict[str, str]`): By path: the reason why a clip could not be read.
    """

    windows: list
    clips: str
    seen: str
    skipped: dict[str, str]


def own_material(extractor, sources, action_units_folder=None, streams="both"):
    """
    The user's own clips.

    Args:
        extractor ([`AverFeatureExtractor`]): The model's.
        sources (`list[str | Path]`): Videos, and folders of them; of more than 64, every n-th is taken.
        action_units_folder (`str` or `Path`, *optional*): See [`find_faces`].
        streams (`str`, *optional*, defaults to `"both"`): Or `"audio"` or `"video"` alone.

    Returns:
        [`Material`]: of clips longer than 30 s, the first 30 s.

    Raises:
        `ValueError`: if no clip can be read. See also [`find_faces`].
    """
    found, outcomes = find_clips(sources)
    faces = None if streams == "audio" else find_faces(extractor, action_units_folder)
    skipped, windows = {outcome.clip: outcome.reason for outcome in outcomes}, []
    rates = {"sampling_rate": extractor.sampling_rate, "frame_rate": extractor.video_frame_rate}
    for clip in found[:: -(-len(found) // MOST_CLIPS)]:
        try:
            recording = open_recording(clip.path, faces, streams=streams, name=clip.name, **rates)
            windows.append(next(cut(recording, LONGEST, LONGEST)))
        except (MediaError, ExtractionError, ValueError) as error:
            skipped[str(clip.path)] = one_line(error)
    places = ", ".join(map(str, sources))
    if not windows:
        raise ValueError(f"No clip under {places} can be read. {next(iter(skipped.values()))}")
    return Material(
        windows,
        f"{len(windows)} of {len(found)} clips in {places}",
        "Whether the model was trained on them is not known here.",
        skipped,
    )


def sample_material(extractor, model_folder=None):
    """
    Mixes of the six clips in the package: the sound of one, at another speed and volume, with the face of another.

    The face's features are those of the model's kind where they are there or can be made here, and random otherwise.

    Args:
        extractor ([`AverFeatureExtractor`]): The model's.
        model_folder (`str` or `Path`, *optional*):
            Of the model. With `results.json` of its training, it says whether the six clips were in it.

    Returns:
        [`Material`]: 30 clips of 0.8 to 2.2 s.
    """
    sounds = sorted((SAMPLE_DIR / "AudioWAV").glob("*.wav"))
    faces, kind = _sample_faces(extractor)
    pairs = [(sound, face) for sound, face in product(sounds, sounds) if sound != face]
    lengths = np.random.default_rng(0).permutation(np.linspace(*MIX_SECONDS, len(pairs)))
    windows = [
        _mix(extractor, sound, faces[face.stem], index, float(seconds))
        for index, ((sound, face), seconds) in enumerate(zip(pairs, lengths, strict=True))
    ]
    clips = f"{len(windows)} mixes of the six sample clips, the sound of one with {kind}"
    seen = f"{SAMPLES_SEEN[samples_were_trained_on(model_folder)]}. --agreement-clips FOLDER takes clips of your own."
    return Material(windows, clips, seen, {})


def samples_were_trained_on(model_folder):
    """`bool`, or `None` where it is not known: whether the run in a folder trained on the package's six clips."""
    folder = Path(model_folder or "")
    try:
        results = json.loads(read_bytes(folder / "results.json"))
        corpus, scored = results["dataset"]["dataset_name"], results["scored_clips_were_trained_on"]
        rows = csv.DictReader((folder / "predictions.csv").read_text(encoding="utf-8").splitlines())
        names = {row["utterance_id"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if corpus == "ravdess":
        return False
    are_scored = {path.stem for path in (SAMPLE_DIR / "AudioWAV").glob("*.wav")} <= names
    return bool(scored) if corpus == "crema_d" and are_scored else None


def measure_agreement(model, quantized, processor, material):
    """
    Compares a quantized model with the model, clip by clip.

    Args:
        model ([`AverForEmotionClassification`]), quantized ([`OnnxModel`]), processor ([`AverProcessor`])
        material ([`Material`])

    Returns:
        `dict`: `clips` and `seen` (words), `num_clips`, `skipped`, `batch_size`, `changed_labels` (clips whose label
        is another in batches of `batch_size`), `same_answer` (the share of the others), `mean_change` and `max_change`
        (of probabilities, likewise), `batch_change` (largest difference between a clip alone and in its batch) and
        `worst` (the clip of `max_change`: `clip`, `label`, `before`, `after`).
    """
    before = _probabilities(model, processor, material.windows, 1)
    after = _probabilities(quantized, processor, material.windows, BATCH_SIZE)
    alone = _probabilities(quantized, processor, material.windows, 1)
    change, same = np.abs(before - after), before.argmax(axis=1) == after.argmax(axis=1)
    clip, label = np.unravel_index(change.argmax(), change.shape)
    return {
        "clips": material.clips,
        "seen": material.seen,
        "num_clips": len(material.windows),
        "skipped": material.skipped,
        "batch_size": BATCH_SIZE,
        "changed_labels": int((~same).sum()),
        "same_answer": float(same.mean()),
        "mean_change": float(change.mean()),
        "max_change": float(change.max()),
        "batch_change": float(np.abs(after - alone).max()),
        "worst": {
            "clip": material.windows[clip].recording,
            "label": model.config.id2label[int(label)],
            "before": float(before[clip, label]),
            "after": float(after[clip, label]),
        },
    }


def check_agreement(agreement, least=MIN_AGREEMENT):
    """Refuses a quantized model that keeps the label of less than a share `least` of the clips."""
    if agreement["same_answer"] < least:
        raise ValueError(
            f"int8 changes the label of {agreement['changed_labels']} of {agreement['num_clips']} clips "
            f"({agreement['clips']}): {agreement['same_answer']:.1%} agree, less than --min-agreement ({least:.0%}). "
            "Nothing was written. Export without --quantize, or compare on your own clips (--agreement-clips FOLDER)."
        )


def print_agreement(console, agreement):
    """Prints how far a quantized model agrees, and on what."""
    worst = agreement["worst"]
    lines = [
        f"int8 was compared on {agreement['clips']}, in batches of {agreement['batch_size']}. {agreement['seen']}",
        f"int8: the same label for {agreement['num_clips'] - agreement['changed_labels']} of {agreement['num_clips']} "
        f"clips; probabilities change by {agreement['mean_change']:.3f} on average and {agreement['max_change']:.3f} "
        f"at most ({worst['clip']}: {worst['label']} {worst['before']:.3f}, now {worst['after']:.3f}). Alone and in a "
        f"batch, a clip's probabilities differ by {agreement['batch_change']:.3f} at most.",
    ]
    if agreement["changed_labels"]:
        lines.append(f"Warning: int8 changes {agreement['changed_labels']} of {agreement['num_clips']} labels.")
    lines += [f"{path} was not compared: {reason}" for path, reason in sorted(agreement["skipped"].items())]
    for line in lines:
        console.print(line, markup=False)


def _probabilities(model, processor, windows, batch_size):
    """`(num_clips, num_labels)`, as the pipeline gives them."""
    recognize = EmotionPipeline(model, processor=processor, task=TASK, device=torch.device("cpu"))
    answers = recognize(windows, batch_size=batch_size)
    scores = [{one["label"]: one["score"] for one in answer["emotions"]} for answer in answers]
    return np.array([[score[label] for label in model.config.id2label.values()] for score in scores])


def _sample_faces(extractor):
    """`{name: [(seconds, features, success), …]}` of the six clips, and what the features are, in words."""
    videos = sorted((SAMPLE_DIR / "VideoFlash").glob("*.flv"))
    for folder in (SAMPLE_DIR / "OpenFace", None):  # tables, then the extractor that the model names
        try:
            faces = find_faces(extractor, folder)
            rows = {path.stem: list(faces.frames(path, path.stem)) for path in videos}
        except (
            ValueError,
            ExtractionError,
            ExtractorUnavailableError,
        ):  # of another kind, or not to be made on this machine
            continue
        return rows, f"the face ({faces.identity.name}) of another"
    generator = np.random.default_rng(0)
    return {path.stem: _random_face(extractor, generator) for path in videos}, "random features of the face"


def _random_face(extractor, generator):
    """Rows of 3 s: a random expression of the training clips' mean and deviation, and small changes around it."""
    seconds = np.arange(0, 3, 1 / extractor.video_frame_rate)
    features = generator.normal(size=extractor.num_action_units) + 0.3 * generator.normal(
        size=(len(seconds), extractor.num_action_units)
    )
    if extractor.action_unit_mean is not None:
        features = features * extractor.action_unit_std + extractor.action_unit_mean
    return [(second, row, True) for second, row in zip(seconds.tolist(), features.astype(np.float32), strict=True)]


def _mix(extractor, sound, face, index, seconds):
    """A window of the sound in one file with the rows of a face, both cut to `seconds`."""
    rate, delay = extractor.sampling_rate, DELAYS[index % len(DELAYS)]
    samples = np.concatenate(list(open_recording(sound, None, rate, "audio").sound))
    places = round(delay * rate) + np.arange(round(seconds * rate)) * SPEEDS[index % len(SPEEDS)]
    heard = VOLUMES[index % len(VOLUMES)] * np.interp(places[places < len(samples)], np.arange(len(samples)), samples)
    rows = [(second - delay, *rest) for second, *rest in face if 0 <= second - delay < seconds]
    recording = Recording(f"mix {index + 1}", rate, [heard.astype(np.float32)], rows)
    return next(cut(recording, LONGEST, LONGEST))
