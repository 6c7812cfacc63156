"""LoRA on the audio encoder (Hu et al. 2021): small matrices train beside its weights, and end up within them."""

import logging
from importlib.metadata import version
from importlib.util import find_spec

from transformers.integrations.peft import MIN_PEFT_VERSION
from transformers.utils.peft_utils import check_peft_version

logger = logging.getLogger(__name__)

TAKES_OLDER_PEFT = "transformers<5.24"  # 5.20 to 5.23 ask for peft 0.20
# transformers' attention of these encoders takes the weights out of its layers and would pass by their adapters.
PASSED_BY = {"wavlm": {"q_proj", "k_proj", "v_proj", "out_proj"}}


def require_peft():
    """
    Warns where PEFT is older than the installed transformers asks for. Adapters are injected by PEFT itself, so
    training works with both; only transformers' own `add_adapter` and `load_adapter` refuse it.

    Raises:
        `ImportError`: if PEFT is missing; says what to install.
    """
    _check_installed()
    try:
        check_peft_version(min_version=MIN_PEFT_VERSION)
    except ValueError:
        logger.warning(
            "transformers %s asks for peft %s or newer, but peft %s is installed. `lora_rank` trains with it all the "
            'same; if it fails, install a newer peft or pip install "%s".',
            *(version("transformers"), MIN_PEFT_VERSION, version("peft"), TAKES_OLDER_PEFT),
        )


def _check_installed():
    if find_spec("peft") is None:
        raise ImportError('`lora_rank` needs PEFT: pip install "modeling-aver[peft]".')


def add_lora(audio_encoder, *, rank, alpha, target_modules):
    """
    Adds adapters to an audio encoder, in place. They alone train: all its own weights are fixed. It answers as before
    until the first step, for each adapter begins as zero.

    Args:
        audio_encoder (`PreTrainedModel`)
        rank (`int`): Of each adapter.
        alpha (`float`): An adapter's output is multiplied by `alpha / rank`.
        target_modules (`list[str]`): Last parts of the names of the linear layers that get one, such as q_proj.

    Raises:
        `ImportError`: without PEFT. `ValueError`: if the encoder has no such layer, or does not call it.
    """
    _check_installed()
    from peft import LoraConfig, inject_adapter_in_model

    _check_targets(audio_encoder, target_modules)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(target_modules))
    inject_adapter_in_model(config, audio_encoder)


def merge_lora(audio_encoder):
    """
    Adds what the adapters have learned to the weights beside them and removes the adapters, in place: what is left is
    the encoder as it was made, which loads without PEFT.

    Raises:
        `ValueError`: if an adapter has become infinite or NaN.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, module) for name, module in audio_encoder.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in adapted:
        module.merge(safe_merge=True)
        audio_encoder.set_submodule(name, module.get_base_layer())


def _check_targets(audio_encoder, target_modules):
    kind, wished = type(audio_encoder).__name__, f"`lora_target_modules` ({', '.join(target_modules)})"
    names = {name.rpartition(".")[2] for name, _ in audio_encoder.named_modules()}
    if missing := sorted(set(target_modules) - names):
        raise ValueError(
            f"{wished}: {kind} has no {', '.join(missing)}. Name its linear layers by the last part of their names."
        )
    if passed_by := sorted(set(target_modules) & PASSED_BY.get(audio_encoder.config.model_type, set())):
        raise ValueError(
            f"{wished}: {kind} reads the weights of {', '.join(passed_by)} and would pass by adapters. Adapt "
            "intermediate_dense and output_dense."
        )
