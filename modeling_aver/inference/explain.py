"""Why this answer: which second of which stream moved it (occlusion), and who heard whom (attention)."""

import json
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console

from ..analysis.dynamics import Alignment, alignments
from ..features.base import ExtractionError
from ..features.report import missing_reasons
from ..io.atomic import write_whole
from ..io.media import MediaError
from .explain_plots import STREAM_WORDS, alignment_picture, attention_picture, occlusion_picture
from .onnx_model import check_installed
from .recordings import is_longer, log_notes, longest_at_once, open_recording, read_at_once
from .sync import estimate_offset

OCCLUDED = 0.5  # seconds that are hidden at a time
HOP = 0.25  # seconds from one hidden stretch to the next
COPIES = 32  # of the clip, at a time


@dataclass
class CrossAttention:
    """
    Who heard whom across the streams, mean over heads.

    Args:
        audio_timestamps, video_timestamps (`np.ndarray` of shape `(num_frames,)`): Seconds, of the real frames.
        audio_to_video (`dict[str, np.ndarray]` of shape `(num_audio_frames, num_video_frames)`):
            What each frame of sound heard of each picture: `last` in the last layer that crosses the streams,
            `rollout` through all layers with their residuals (Abnar & Zuidema 2020). A row's sum is the share that
            the pictures have of all that the frame heard.
        video_to_audio (`dict[str, np.ndarray]` of shape `(num_video_frames, num_audio_frames)`): The other way round.
    """

    audio_timestamps: np.ndarray
    video_timestamps: np.ndarray
    audio_to_video: dict[str, np.ndarray]
    video_to_audio: dict[str, np.ndarray]

    def to_dict(self):
        """What each frame got of the other stream's attention (mean over those who asked), and the shares."""
        ways = {"audio_to_video": self.video_timestamps, "video_to_audio": self.audio_timestamps}
        facts = {}
        for way, seconds in ways.items():
            facts[way] = {"seconds": _rounded(seconds)}
            for kind, weights in getattr(self, way).items():
                facts[way][kind] = {
                    "share": round(float(weights.sum(axis=1).mean()), 4),
                    "received": _rounded(weights.mean(axis=0), 6),
                }
        return facts


@dataclass
class Explanation:
    """
    Args:
        label (`str`), probability (`float`): The answer.
        streams (`dict[str, float]`): The probability of `label` by `both` streams and by `audio` or `video` alone.
        starts, ends (`np.ndarray` of shape `(num_stretches,)`): Of the hidden stretches, in seconds.
        occlusion (`dict[str, np.ndarray]` of shape `(num_stretches,)`):
            By stream: how much less probable `label` becomes where the stretch is hidden, -1 to 1; NaN where nothing
            else would be left. Above 0, the stretch spoke for the answer.
        attention ([`CrossAttention`], *optional*): `None` where no layer crosses the streams, or one is missing.
        alignment ([`Alignment`], *optional*): `None` for a model without CTM, or where a stream is missing.
        offset ([`Offset`], *optional*): Of the video, likewise, and `None` in clips of less than 1 s.
    """

    label: str
    probability: float
    streams: dict[str, float]
    starts: np.ndarray
    ends: np.ndarray
    occlusion: dict[str, np.ndarray]
    attention: CrossAttention | None = None
    alignment: Alignment | None = None
    offset: object | None = None

    def to_dict(self):
        """For JSON; matrices are summed up."""
        stretches = [
            {"start": round(start, 3), "end": round(end, 3)}
            | {stream: _or_none(drops[at]) for stream, drops in self.occlusion.items()}
            for at, (start, end) in enumerate(zip(self.starts.tolist(), self.ends.tolist(), strict=True))
        ]
        facts = {"label": self.label, "probability": self.probability, "streams": self.streams, "occlusion": stretches}
        facts["attention"] = self.attention and self.attention.to_dict()
        offset = self.offset and self.offset.to_dict()
        facts["offset"] = offset and {"seconds": offset["seconds"], "confidence": offset["confidence"]}
        return facts


@torch.inference_mode()
def explain_window(recognize, window, occluded=OCCLUDED, hop=HOP):
    """
    Explains the answer for one clip.

    Frames are hidden by the masks, from fusion and mean; of the sound, the neighbours of a hidden stretch were encoded
    with it around them.

    Args:
        recognize ([`EmotionPipeline`])
        window ([`Window`]): With at least one stream.
        occluded, hop (`float`): Seconds hidden at a time, and from one such stretch to the next.

    Returns:
        [`Explanation`]

    Raises:
        `ValueError`: for a clip without streams, or no longer than `occluded`.
    """
    used = (recognize._heard(window), bool(window.success.any()))
    if not any(used):
        raise ValueError(f"{window.recording} has neither sound nor a face to go by. {' '.join(window.notes)}".strip())
    if window.end <= occluded:
        raise ValueError(f"{window.recording} lasts {window.end:.2f} s, no longer than what is hidden ({occluded} s).")
    model = recognize.model
    inputs = _encoded(model, recognize._inputs([window], [used], None).to(recognize.device))
    outputs = model(**inputs, output_attentions=True)
    probabilities = outputs.logits[0].float().softmax(dim=-1)
    answer = int(probabilities.argmax())
    starts = np.arange(0.0, max(window.end - occluded, 0) + hop - 1e-6, hop)
    scores = _masked_scores(model, inputs, _hidden_copies(outputs, starts, occluded), answer)
    whole_score, parts = float(probabilities[answer]), scores[-2:]
    drops = whole_score - scores[:-2].reshape(2, -1)
    streams = [name for name, there in zip(("audio", "video"), used, strict=True) if there]
    explanation = Explanation(
        label=model.config.id2label[answer],
        probability=whole_score,
        streams={"both": whole_score} | {name: float(parts[("audio", "video").index(name)]) for name in streams},
        starts=starts,
        ends=np.minimum(starts + occluded, window.end),
        occlusion={name: drops[("audio", "video").index(name)] for name in streams},
    )
    if all(used):
        explanation.attention = cross_attention(model.config.fusion_layers, outputs)
        if model.config.ctm_loss_weight > 0:
            (explanation.alignment,) = alignments(outputs)
            explanation.offset = estimate_offset(explanation.alignment, model.config.ctm_sigma)
    return explanation


def cross_attention(fusion_layers, outputs):
    """
    The attention between the streams of the first clip of a batch.

    Args:
        fusion_layers (`list[str]`): Of the configuration.
        outputs ([`AverClassifierOutput`]): With `attentions`.

    Returns:
        [`CrossAttention`], or `None` where no layer crosses the streams.
    """
    crossing = [index for index, kind in enumerate(fusion_layers) if kind != "isa"]
    if not crossing:
        return None
    heard, seen = outputs.audio_mask[0], outputs.video_mask[0]
    layers = _joint_layers(fusion_layers, outputs, len(heard))
    rollout = torch.eye(len(layers[0]), dtype=torch.float64)
    for weights in layers:
        step = weights + torch.eye(len(weights), dtype=torch.float64)
        rollout = (step / step.sum(dim=1, keepdim=True)) @ rollout
    heard, seen = heard.numpy(force=True), seen.numpy(force=True)
    ways = {"audio_to_video": {}, "video_to_audio": {}}
    for kind, weights in {"last": layers[crossing[-1]], "rollout": rollout}.items():
        weights = weights.numpy()
        ways["audio_to_video"][kind] = weights[: len(heard), len(heard) :][np.ix_(heard, seen)]
        ways["video_to_audio"][kind] = weights[len(heard) :, : len(heard)][np.ix_(seen, heard)]
    seconds = (outputs.audio_timestamps[0].numpy(force=True), outputs.video_timestamps[0].numpy(force=True))
    return CrossAttention(seconds[0][heard], seconds[1][seen], **ways)


def _joint_layers(fusion_layers, outputs, num_audio_frames):
    """Mean over heads of each block as a matrix over all tokens, `(T, T)`, audio first."""
    weights = iter(outputs.attentions)
    total = num_audio_frames + outputs.video_mask.shape[1]
    audio, video = slice(None, num_audio_frames), slice(num_audio_frames, None)
    layers = []
    for kind in fusion_layers:
        joint = torch.zeros(total, total, dtype=torch.float64)
        contexts = {"msa": [(slice(None), slice(None))], "isa": [(audio, audio), (video, video)]}
        for rows, columns in contexts.get(kind, [(audio, video), (video, audio)]):
            joint[rows, columns] = next(weights)[0].mean(dim=0).double().cpu()
        layers.append(joint)
    return layers


def _encoded(model, inputs):
    """The inputs with the sound encoded, so that it is done once for all copies."""
    inputs = dict(inputs)
    name = model.config.audio_input_name
    if name in inputs:
        sound = {name: inputs.pop(name), "attention_mask": inputs.pop("attention_mask", None)}
        inputs["audio_frames"], inputs["audio_frames_mask"] = model.aver.encode_audio(**sound)
    return inputs


def _hidden_copies(outputs, starts, occluded):
    """
    Masks of audio and video, `(2 × num_stretches + 2, num_frames)` each: every stretch of sound hidden, every stretch
    of video hidden, the sound alone, the video alone.
    """
    starts = torch.from_numpy(starts)[:, None]
    count, masks = len(starts), []
    for place, stream in enumerate(("audio", "video")):
        mask, seconds = outputs[f"{stream}_mask"].cpu(), outputs[f"{stream}_timestamps"].cpu()
        hidden = (starts <= seconds) & (seconds < starts + occluded)  # (num_stretches, num_frames)
        copies = mask.repeat(2 * count + 2, 1)
        copies[place * count : (place + 1) * count] &= ~hidden
        copies[2 * count + 1 - place] = False
        masks.append(copies)
    return masks


def _masked_scores(model, inputs, masks, answer):
    """Probability of the answer under each pair of masks, `(num_copies,)`; NaN where they leave nothing."""
    names = {"audio_frames": masks[0], "action_units": masks[1]}
    present = torch.cat([mask for name, mask in names.items() if name in inputs], dim=1).any(dim=1)
    scores = np.full(len(masks[0]), np.nan)
    for rows in torch.nonzero(present).flatten().split(COPIES):
        batch = {name: values.expand(len(rows), *values.shape[1:]) for name, values in inputs.items()}
        for name, mask in names.items():
            if name in inputs:
                batch[f"{name}_mask"] = mask[rows].to(model.device)
        scores[rows] = model(**batch).logits.float().softmax(dim=-1)[:, answer].numpy(force=True)
    return scores


def explain_clips(recognize, found, faces, out, streams="both", occluded=OCCLUDED, hop=HOP, watch=None):
    """
    Writes of each clip `<clip>.json` and pictures: `<clip>.occlusion.png`, and where there is something to draw
    `<clip>.attention.png` and `<clip>.alignment.png`.

    Args:
        recognize ([`EmotionPipeline`])
        found (`tuple[list[Clip], list[Outcome]]`): As [`find_clips`] gives them.
        faces ([`FacesOfExtractor`] or [`FacesOfTables`]): `None` where `streams` is `"audio"`.
        out (`Path`): Folder.
        streams (`str`, *optional*, defaults to `"both"`): Or `"audio"` or `"video"` alone.
        occluded, hop (`float`): See [`explain_window`].
        watch (callable, *optional*): Called with a clip's name and `None` when it is over.

    Returns:
        `tuple[dict[str, Explanation], dict[str, str]]`: by name of the clip, and the reason of each that has none.
    """
    if not 0 < hop <= occluded:
        raise ValueError(f"`hop` ({hop} s) must be positive, and no longer than what is hidden ({occluded} s).")
    check_installed("matplotlib", extra="plot")
    done, failed = {}, missing_reasons(found[1])
    for clip in found[0]:
        try:
            window = _window_of(recognize, clip, faces, streams)
            log_notes(clip.name, window.notes)
            done[clip.name] = explain_window(recognize, window, occluded, hop)
        except (MediaError, ExtractionError, ValueError) as error:
            failed[str(clip.path)] = str(error)
        else:
            _write(done[clip.name], out, clip.name)
        if watch is not None:
            watch(clip.name, None)
    return done, failed


def _window_of(recognize, clip, faces, streams):
    """The clip as one window. A longer one is refused before features of its face are made."""
    longest, extractor = longest_at_once(recognize.model.config), recognize.processor.feature_extractor
    rates = {"sampling_rate": extractor.sampling_rate, "frame_rate": extractor.video_frame_rate}
    window = None
    if not is_longer(clip.path, longest, streams):
        window = read_at_once(open_recording(clip.path, faces, streams=streams, name=clip.name, **rates), longest)
    if window is None:
        raise MediaError(
            f"{clip.path.name} is longer than {longest:g} s, the most that is explained at once. Cut out a part: "
            f"ffmpeg -i {clip.path.name} -ss START -t {longest:g} part{clip.path.suffix}"
        )
    return window


def print_explanations(done, failed):
    """Prints of each clip the answer and the stretch that spoke most for it, and every failure with its reason."""
    console = Console(soft_wrap=True, highlight=False)
    for name, one in sorted(done.items()):
        line = f"{name}: {one.label} {one.probability:.2f}"
        stream, drops = max(one.occlusion.items(), key=lambda item: np.nan_to_num(item[1]).max())
        at = int(np.nan_to_num(drops).argmax())
        if drops[at] > 0:
            line += f", most by {STREAM_WORDS[stream]} from {one.starts[at]:.2f} to {one.ends[at]:.2f} s"
            line += f" ({one.probability - drops[at]:.2f} without)"
        console.print(line, markup=False)
    for name, reason in sorted(failed.items()):
        console.print(f"no explanation for {name}: {reason}", markup=False)


def _write(explanation, out, name):
    pictures = {"occlusion": occlusion_picture(explanation, name)}
    if explanation.attention is not None:
        pictures["attention"] = attention_picture(explanation.attention, name)
    if explanation.alignment is not None:
        pictures["alignment"] = alignment_picture(explanation, name)
    for kind, content in pictures.items():
        write_whole(out / f"{name}.{kind}.png", content)
    write_whole(out / f"{name}.json", json.dumps(explanation.to_dict(), indent=1) + "\n")


def _rounded(values, digits=4):
    return [round(float(value), digits) for value in values]


def _or_none(value):
    """JSON has no NaN."""
    return None if np.isnan(value) else round(float(value), 6)
