"""Audio-visual emotion recognition with temporally aligned attention (TaRoPE) and cross-temporal matching (CTM).

Importing the package makes `AutoConfig`, `AutoModel`, `AutoModelForAudioClassification`, `AutoProcessor` and
`AutoFeatureExtractor` know the model, and `pipeline` the task audio-visual-emotion-recognition; saved folders carry
the code for everybody else.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_aver import AverConfig
from .encoder import FusionEncoder
from .features.speaker_profile import SpeakerProfile
from .modeling_aver import AverForEmotionClassification, AverModel
from .pipeline_aver import TASK, EmotionPipeline
from .processing_aver import AverFeatureExtractor, AverProcessor

__version__ = "0.1.0"
__all__ = [
    "AverConfig",
    "AverFeatureExtractor",
    "AverForEmotionClassification",
    "AverModel",
    "AverProcessor",
    "EmotionPipeline",
    "FusionEncoder",
    "SpeakerProfile",
]

AutoConfig.register("aver", AverConfig)
AutoModel.register(AverConfig, AverForEmotionClassification)
AutoModelForAudioClassification.register(AverConfig, AverForEmotionClassification)
AutoFeatureExtractor.register(AverConfig, AverFeatureExtractor)
AutoProcessor.register(AverConfig, AverProcessor)

AverConfig.register_for_auto_class()
AverForEmotionClassification.register_for_auto_class("AutoModel")
AverFeatureExtractor.register_for_auto_class()
AverProcessor.register_for_auto_class()

PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=EmotionPipeline, pt_model=AutoModel, type="multimodal")
