"""Sound to frames: the audio encoders, with padding kept out of real frames, and what is made of their layers.

Parameter names are transformers' own, so that their checkpoints load.
"""

import contextlib
import json
import os
import re
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub import HfApi, cached_assets_path, constants, hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import WeakFileLock, httpx
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import MODEL_MAPPING, AutoModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import extract_commit_hash, logging

logger = logging.get_logger(__name__)


class MaskedGroupNormConvolutions(nn.Module):
    """
    The convolutional front of wav2vec2-base and its kin, whose first layer normalizes each channel over time: padding
    would enter that mean. Reads `(batch_size, 2, num_samples)`, the waveform and its mask, because the encoder around
    it passes on what it is given; holds the encoder's own layers, so checkpoints keep their names.
    """

    def __init__(self, feature_extractor):
        super().__init__()
        first, *rest = feature_extractor.conv_layers
        self.conv_layers = nn.ModuleList([MaskedGroupNormConvolution(first), *rest])

    def forward(self, waveform_and_mask):
        waveform, mask = waveform_and_mask.unbind(dim=1)
        first, *rest = self.conv_layers
        if self.training and first.conv.weight.requires_grad and not waveform.requires_grad:
            waveform.requires_grad_()  # or reentrant checkpointing would leave the first layer without gradients
        hidden_states = first(waveform, (mask > 0).sum(dim=1))
        for layer in rest:
            hidden_states = layer(hidden_states)
        return hidden_states

    def _freeze_parameters(self):
        self.requires_grad_(False)


class MaskedGroupNormConvolution(GradientCheckpointingLayer):
    """The first of those layers, with its statistics over the real samples alone."""

    def __init__(self, layer):
        super().__init__()
        self.conv, self.layer_norm, self.activation = layer.conv, layer.layer_norm, layer.activation

    def forward(self, waveform, lengths):
        lengths = (lengths - self.conv.kernel_size[0]) // self.conv.stride[0] + 1
        return self.activation(_masked_group_norm(self.layer_norm, self.conv(waveform[:, None]), lengths))


def _masked_group_norm(norm, states, lengths):
    """`norm`, a GroupNorm of one channel a group, over the first `lengths` frames of `states (B, C, T)`."""
    mask = torch.arange(states.shape[2], device=states.device) < lengths[:, None]
    weights = mask[:, None].float() / mask.sum(dim=1).clamp(min=1)[:, None, None]
    wide = states.float()
    mean = (wide * weights).sum(dim=2, keepdim=True)
    variance = ((wide - mean) ** 2 * weights).sum(dim=2, keepdim=True)
    normal = (wide - mean) * torch.rsqrt(variance + norm.eps)
    return (normal * norm.weight[:, None].float() + norm.bias[:, None].float()).to(states.dtype)


class MaskedPositionalConvolutions(nn.Module):
    """
    data2vec-audio's five positional convolutions. The encoder zeroes padded frames before the first of them only, and
    the bias of each would travel into real frames through the next: here padding stays zero between them too.
    """

    def __init__(self, pos_conv_embed):
        super().__init__()
        self.layers = pos_conv_embed.layers

    def forward(self, hidden_states):
        mask = (hidden_states != 0).any(dim=2)[:, None]  # exactly the frames that the encoder has not zeroed
        hidden_states = hidden_states.transpose(1, 2)
        for layer in self.layers:
            hidden_states = layer(hidden_states).masked_fill(~mask, 0.0)
        return hidden_states.transpose(1, 2)


class WindowedWhisperEncoder(WhisperEncoder):
    """Whisper's encoder on windows of any length up to 30 s, with a prefix of its position table, and with a mask."""

    def forward(self, input_features, attention_mask, output_hidden_states=False, **kwargs):
        """
        Args:
            input_features (`torch.Tensor` of shape `(batch_size, num_mel_bins, num_spectrogram_frames)`): 100 Hz.
            attention_mask (`torch.BoolTensor` of shape `(batch_size, num_spectrogram_frames)`): `True` for real ones.
            output_hidden_states (`bool`, *optional*): Of every layer, the last one after the final norm.

        Returns:
            [`BaseModelOutput`] at 50 Hz: two spectrogram frames, begun or whole, make one frame.

        Raises:
            `ValueError`: for more frames than the position table has rows.
        """
        mask = attention_mask[:, None]
        hidden_states = F.gelu(self.conv1(input_features)).masked_fill(~mask, 0.0)
        hidden_states = F.gelu(self.conv2(hidden_states)).transpose(1, 2)
        if hidden_states.shape[1] > self.max_source_positions:
            raise ValueError(
                f"`input_features` has {input_features.shape[2]} frames ({input_features.shape[2] / 100:.1f} s) but "
                f"this whisper encoder hears at most {2 * self.max_source_positions}: cut the recording into windows."
            )
        hidden_states = hidden_states + self.embed_positions.weight[: hidden_states.shape[1]]
        hidden_states = F.dropout(hidden_states, p=self.dropout, training=self.training)
        mask = create_bidirectional_mask(
            self.config, inputs_embeds=hidden_states, attention_mask=attention_mask[:, ::2]
        )
        states = [hidden_states]
        for layer in self.layers:
            states.append(layer(states[-1], mask, **kwargs))
        last = self.layer_norm(states[-1])
        return BaseModelOutput(
            last_hidden_state=last, hidden_states=(*states[:-1], last) if output_hidden_states else None
        )


def build_audio_encoder(audio_config):
    """A new encoder of `audio_config` whose real frames never depend on padding; parameter names are transformers'."""
    if audio_config.model_type == "whisper":
        return WindowedWhisperEncoder(audio_config)
    if not MODEL_MAPPING[type(audio_config)]._supports_sdpa:
        audio_config._attn_implementation = "eager"  # wavlm has one attention, and refuses every other word
    encoder = AutoModel.from_config(audio_config)
    if audio_config.model_type == "data2vec-audio":
        encoder.encoder.pos_conv_embed = MaskedPositionalConvolutions(encoder.encoder.pos_conv_embed)
    elif normalizes_over_time(audio_config):
        encoder.feature_extractor = MaskedGroupNormConvolutions(encoder.feature_extractor)
    if audio_config.mask_time_prob == 0 and "masked_spec_embed" in dict(encoder.named_parameters()):
        encoder.masked_spec_embed.requires_grad_(False)  # unispeech-sat has it even where nothing is masked
    return encoder


def fix_convolutions(encoder):
    """Fixes the parameters of the convolutional front; w2v-bert has none."""
    if isinstance(encoder, WhisperEncoder):
        encoder.conv1.requires_grad_(False)
        encoder.conv2.requires_grad_(False)
    elif encoder.main_input_name == "input_values":
        encoder.feature_extractor._freeze_parameters()


def fix_unheard(encoder, deepest):
    """Fixes the parameters behind the deepest layer that is heard: without gradients, DDP would wait for them."""
    stack = encoder if isinstance(encoder, WhisperEncoder) else encoder.encoder
    if deepest < len(stack.layers):
        stack.layers[deepest:].requires_grad_(False)
        if isinstance(encoder, WhisperEncoder) or getattr(encoder.config, "do_stable_layer_norm", False):
            stack.layer_norm.requires_grad_(False)  # the others normalize before their first layer


def normalizes_over_time(audio_config):
    """Whether its first convolution is normalized over time, and so needs the mask beside the waveform."""
    return "feat_extract_norm" in audio_config.to_dict() and audio_config.feat_extract_norm == "group"


def finetuning_config(audio_config):
    """A pretrained encoder's configuration without layer drop and SpecAugment, as in AverConfig's default."""
    for name in ("layerdrop", "encoder_layerdrop", "mask_time_prob", "mask_feature_prob"):
        if name in audio_config.to_dict():
            setattr(audio_config, name, 0.0)
    return audio_config


# ── weights of a pretrained encoder ──────────────────────────────────────────────────────────────────────────────────

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CONVERSION_BOT = "SFconvertbot"  # opens the Hub's pull requests that add safetensors


def pretrained_weights(name, audio_config, use_safetensors=None, **kwargs):
    """
    State of the encoder of a checkpoint.

    Args:
        name (`str`): Hub id or folder.
        audio_config (`PreTrainedConfig`): Of the same checkpoint.
        use_safetensors (`bool`, *optional*): See [`PretrainedCheckpoint.weights`].
        kwargs: Those of `from_pretrained`.

    Raises:
        `ValueError`: if the checkpoint has no weights in the wanted format, if they cannot be read without running
        code, or if some of the encoder's are missing.
    """
    source, extra = MODEL_MAPPING[type(audio_config)], {}
    if audio_config.model_type == "whisper":  # whole whisper checkpoints hold it as `model.encoder`
        source, extra = WhisperEncoder, {"key_mapping": {r"^(model\.)?encoder\.": ""}}
    hub = {key: kwargs.pop(key) for key in ("revision", *PretrainedCheckpoint.HUB_OPTIONS) if key in kwargs}
    weights = PretrainedCheckpoint(name, **hub).weights(use_safetensors)
    encoder, report = source.from_pretrained(
        **weights, config=audio_config, output_loading_info=True, **extra, **kwargs
    )
    if report["missing_keys"]:
        raise ValueError(
            f"`{name}` lacks {len(report['missing_keys'])} weights of its {audio_config.model_type} encoder, such as "
            f"{sorted(report['missing_keys'])[0]}."
        )
    return encoder.state_dict()


class PretrainedCheckpoint:
    """
    The weights of a Hub repository at one commit, or of a folder.

    Args:
        name (`str`): Hub id or folder.
        revision (`str`, *optional*): Branch, tag or commit.
        options: Those of `HUB_OPTIONS`, as `huggingface_hub.hf_hub_download` takes them.
    """

    HUB_OPTIONS = ("token", "cache_dir", "local_files_only", "force_download", "subfolder")

    def __init__(self, name, revision=None, **options):
        self.name, self.options = str(name), options
        self.is_folder, self.revision = Path(name).is_dir(), revision
        config = self.find("config.json")
        if not self.is_folder and config is not None:
            self.revision = extract_commit_hash(str(config), None)

    def weights(self, use_safetensors=None):
        """
        Finds the weights: safetensors if the revision has them, else those of the Hub's conversion pull request for
        exactly this revision, else `pytorch_model.bin`, read by torch's weights-only loader. The last is converted to
        safetensors in a local cache, which later calls read.

        Args:
            use_safetensors (`bool`, *optional*): `True` takes only safetensors of the revision itself, `False` only
                `pytorch_model.bin`.

        Returns:
            `dict`: Arguments of `from_pretrained` that load them.

        Raises:
            `ValueError`: if there are none.
        """
        if use_safetensors is not False and self.find(*SAFETENSORS):
            return self._safetensors_at(self.revision)
        if use_safetensors is None:
            weights = None if self.is_folder else self._converted()
            if weights is not None:
                return weights
        file = None if use_safetensors else self.find(*PICKLES)
        if file is None:
            wanted = {None: "model.safetensors or pytorch_model.bin", True: SAFETENSORS[0], False: PICKLES[0]}
            remedy = " Without `use_safetensors=True`, pytorch_model.bin is read too." if use_safetensors else ""
            raise ValueError(f"No {wanted[use_safetensors]} was found in `{self.name}`{self._place()}.{remedy}")
        return self._pickled(file, cached=use_safetensors is None)

    def find(self, *names, revision=None):
        """`Path` of the first of these files that exists, downloaded if need be; `None` if there is none."""
        for name in names:
            if self.is_folder:
                path = Path(self.name, self.options.get("subfolder") or "", name)
                if path.is_file():
                    return path
                continue
            try:
                return Path(hf_hub_download(self.name, name, revision=revision or self.revision, **self.options))
            except EntryNotFoundError:  # also where it is not cached and the Hub cannot be reached
                continue
            except httpx.HTTPError as error:
                raise OSError(f"{name} of `{self.name}` cannot be downloaded: {_first_line(error)}") from error
        return None

    def _place(self):
        return "" if self.is_folder else f" at revision {self.revision or 'main'}, on the Hub or in its local cache"

    def _safetensors_at(self, revision):
        hub = {} if self.is_folder else {"revision": revision, **self.options}
        return {"pretrained_model_name_or_path": self.name, "use_safetensors": True, **hub}

    def _converted(self):
        """Of an earlier conversion, or of the Hub's pull request; `None` if there is neither."""
        cache = self._cache_folder()
        if cache is not None and _is_readable(cache / SAFETENSORS[0]):
            return {"pretrained_model_name_or_path": str(cache), "use_safetensors": True}
        known = [] if cache is None else [path.suffix[1:] for path in cache.glob("pull_request.*")]
        commit = known[0] if known else self._find_pull_request()
        with contextlib.suppress(OSError):  # then there is still the pickled file
            if commit is not None and self.find(*SAFETENSORS, revision=commit):
                if cache is not None:
                    (cache / f"pull_request.{commit}").touch()
                return self._safetensors_at(commit)
        return None

    def _cache_folder(self):
        """`Path` of what is known about this commit; `None` where it is unknown or nothing can be written."""
        if self.revision is None:
            return None
        parent = self.options.get("cache_dir")
        assets = constants.HF_ASSETS_CACHE if parent is None else Path(parent, "assets")
        subfolder = f"{self.revision}/{self.options.get('subfolder') or ''}".rstrip("/")
        try:
            return cached_assets_path("modeling-aver", self.name, subfolder, assets_dir=assets)
        except (OSError, ValueError):  # ValueError where a file is in the way
            return None

    def _find_pull_request(self):
        """
        Commit of the open pull request in which the Hub's bot added safetensors beside the very `pytorch_model.bin`
        of this revision; `None` if there is none, or if the Hub cannot be asked.
        """
        if is_offline_mode() or self.options.get("local_files_only"):
            return None
        api = HfApi(token=self.options.get("token"))
        try:
            pickles, _ = self._blobs(api, self.revision)
            for pull in api.get_repo_discussions(self.name, author=CONVERSION_BOT, discussion_type="pull_request"):
                if pull.author != CONVERSION_BOT or pull.status != "open" or not pull.is_pull_request:
                    continue
                converted, commit = self._blobs(api, pull.git_reference)
                if pickles and pickles == converted:
                    return commit
        except (httpx.HTTPError, OSError) as error:
            logger.info(f"No conversion pull request of {self.name} was found: {error}")
        return None

    def _blobs(self, api, revision):
        """Hashes of the pickled weights of a revision, by name, and the commit."""
        info = api.model_info(self.name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        files = {file.rfilename: file.blob_id for file in info.siblings}
        return {name: blob for name, blob in files.items() if Path(name).match("pytorch_model*.bin")}, info.sha

    def _pickled(self, file, cached):
        """Weights of `pytorch_model.bin`, from the cache of conversions where that can be written."""
        files = self._shards(file)
        cache = self._cache_folder() if cached and not self.is_folder else None
        if cache is not None:
            try:
                target = convert_to_safetensors(self.name, files, cache / SAFETENSORS[0])
                return {"pretrained_model_name_or_path": str(target.parent), "use_safetensors": True}
            except (OSError, SafetensorError) as error:
                logger.warning(f"The conversion of {self.name} cannot be cached in {cache}: {error}")
        elif cached:
            logger.warning(f"{self.name} has no safetensors: {PICKLES[0]} is read by torch's weights-only loader.")
        return {"pretrained_model_name_or_path": None, "state_dict": read_pickled(self.name, files)}

    def _shards(self, file):
        if file.name != PICKLES[1]:
            return [file]
        try:
            names = sorted(map(str, set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} cannot be read ({type(error).__name__}: {error}).") from error
        if outside := [name for name in names if Path(name).name != name]:
            raise ValueError(f"{file} names {outside[0]!r}, which is not a file beside it.")
        files = {name: self.find(name) for name in names}
        if missing := [name for name, path in files.items() if path is None]:
            raise ValueError(f"No {missing[0]} was found in `{self.name}`{self._place()}, but {file.name} names it.")
        return list(files.values())


def convert_to_safetensors(name, files, target):
    """
    Writes the tensors of pickled `files` as one safetensors file, atomically, unless another process has done so.

    Args:
        name (`str`): Of the checkpoint, for messages.
        files (`list[Path]`): `pytorch_model.bin`, or its shards.
        target (`Path`)

    Returns:
        `Path`: `target`.
    """
    with WeakFileLock(target.with_name("conversion.lock")):
        if not _is_readable(target):
            partial = target.with_suffix(".partial")
            save_file(read_pickled(name, files), partial, metadata={"format": "pt"})
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            partial.replace(target)
            logger.warning(
                f"{name} has no safetensors: {PICKLES[0]} was read by torch's weights-only loader and converted to "
                f"{target}."
            )
    return target


def read_pickled(name, files):
    """
    Tensors of `pytorch_model.bin`, or of its shards, by torch's weights-only loader: no code in them runs.

    Args:
        name (`str`): Of the checkpoint, for messages.
        files (`list[Path]`)

    Returns:
        `dict[str, torch.Tensor]`: contiguous, of separate memory.

    Raises:
        `ValueError`: if a file is damaged or holds anything but plain tensors.
    """
    state, storages = {}, set()
    for file in files:
        try:
            part = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        except Exception as error:  # what a damaged or hostile pickle raises is not limited to some types
            raise ValueError(f"{file.name} of `{name}` {_why_refused(error)} Nothing in it was run.") from error
        if not isinstance(part, dict) or not all(map(_is_plain, part.items())):
            raise ValueError(f"{file.name} of `{name}` does not hold weights by name, but other values or tensors.")
        for key, tensor in part.items():
            storage = tensor.untyped_storage().data_ptr()
            state[key] = tensor.clone().contiguous() if storage in storages else tensor.contiguous()
            storages.add(storage)
    return state


def _is_plain(item):
    name, value = item
    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and (value.layout, value.device.type, value.is_quantized) == (torch.strided, "cpu", False)
    )


def _why_refused(error):
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"refers to {named[1]}, which is not a tensor: torch's weights-only loader refuses it."
    if type(error).__name__ == "UnpicklingError":
        return "holds more than plain tensors: torch's weights-only loader refuses it."
    return f"cannot be read: {_first_line(error).removesuffix('.')}. Was it cut short?"


def _first_line(error):
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _is_readable(path):
    """Whether a safetensors file is complete."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


# ── what is made of an encoder's frames ──────────────────────────────────────────────────────────────────────────────


class ChannelStandardization(nn.Module):
    """
    Frames to zero mean and unit deviation in each channel of each layer, by the statistics of the training clips, or
    by a speaker's own. Until [`~ChannelStandardization.set_statistics`] has put any in, frames stay as they are.
    """

    def __init__(self, num_layers, num_channels):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_layers, num_channels))
        self.register_buffer("std", torch.ones(num_layers, num_channels))

    def set_statistics(self, mean, std):
        """Of the training clips, `(num_layers, num_channels)`; channels of deviation 0 keep their size."""
        self.mean.copy_(mean)
        self.std.copy_(std.masked_fill(std <= 0, 1.0))

    def reset(self):
        """As for a new model: frames stay as they are."""
        init.zeros_(self.mean)
        init.ones_(self.std)

    def forward(self, frames, speaker_mean=None, speaker_std=None):
        """
        Args:
            frames (`torch.Tensor` of shape `(batch_size, num_frames, num_layers, num_channels)`)
            speaker_mean, speaker_std (`torch.Tensor` of shape `(batch_size, num_layers, num_channels)`, *optional*):
                Where a deviation is 0 the speaker's statistics are unknown, and those of training stand in.

        Returns:
            `torch.Tensor` of the shape and type of `frames`; computed in float32, for some channels have means a
            hundred times their deviation.
        """
        mean, std = self.mean.float(), self.std.float()
        if speaker_mean is not None:
            known = speaker_std > 0
            mean = torch.where(known, speaker_mean.float(), mean)[:, None]
            std = torch.where(known, speaker_std.float(), std)[:, None]
        return ((frames.float() - mean) / std).to(frames.dtype)


class LayerMix(nn.Module):
    """Mean of several layers' frames with learned weights, a softmax; they begin equal."""

    def __init__(self, num_layers):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_layers))

    def reset(self):
        """As for a new model: all layers count alike."""
        init.zeros_(self.scores)

    def forward(self, frames):
        """`(batch_size, num_frames, num_layers, num_channels)` to `(batch_size, num_frames, num_channels)`."""
        return torch.einsum("btlc,l->btc", frames, self.scores.softmax(dim=0).to(frames.dtype))


def pool_frames(frames, mask, stride):
    """
    Means of `stride` frames in a row, of the real ones among them: fewer tokens for the fusion.

    Args:
        frames (`torch.Tensor` of shape `(batch_size, num_frames, …)`)
        mask (`torch.BoolTensor` of shape `(batch_size, num_frames)`): `True` for real frames.
        stride (`int`): 1 changes nothing.

    Returns:
        `tuple`: frames `(batch_size, ceil(num_frames / stride), …)` and their mask.
    """
    if stride == 1:
        return frames, mask
    num_frames = frames.shape[1]
    # By indices: whether padding is needed would be the same for all lengths under torch.export.
    places = torch.arange((num_frames + stride - 1) // stride * stride, device=frames.device)
    nearest = places.clamp(max=num_frames - 1)
    weights = (mask[:, nearest] & (places < num_frames)).unflatten(1, (-1, stride))
    groups = frames[:, nearest].unflatten(1, (-1, stride))
    groups = groups.masked_fill(~weights[(...,) + (None,) * (frames.ndim - 2)], 0.0)
    counts = weights.sum(dim=2)
    return groups.sum(dim=2) / counts.clamp(min=1)[(...,) + (None,) * (frames.ndim - 2)], counts > 0
