"""Audio-visual emotion recognition with temporally aligned attention (TaRoPE) and cross-temporal matching (CTM)."""

from .configuration_aver import AverConfig
from .modeling_aver import AverForEmotionClassification, AverModel
from .encoder import FusionEncoder
