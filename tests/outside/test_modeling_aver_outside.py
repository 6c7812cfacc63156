"""
transformers' own test suite on this package's classes. `tests/outside/run.py` fetches the suite and starts this file;
where the suite is not on the path, as in the everyday run, the whole file is skipped.
"""

import tempfile
import unittest
from unittest.mock import patch

import numpy as np
import pytest

modeling_common = pytest.importorskip(
    "tests.test_modeling_common", reason="transformers' own tests are not on the path: run tests/outside/run.py"
)

import torch  # noqa: E402
from tests.test_configuration_common import ConfigTester  # noqa: E402
from tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin  # noqa: E402
from transformers import PreTrainedModel  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402
from transformers.testing_utils import torch_device  # noqa: E402

from modeling_aver import AverConfig, AverFeatureExtractor, AverForEmotionClassification, AverModel  # noqa: E402

floats_tensor = modeling_common.floats_tensor

TINY_WAV2VEC2 = {
    "model_type": "wav2vec2",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "conv_dim": [10, 12, 14],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
}


class AverModelTester:
    """A tiny model and a ragged batch: a short clip, a failed frame, a clip without video, a clip without audio."""

    def __init__(self, parent, audio_config, **config):
        self.parent = parent
        self.config = {"audio_config": {**TINY_WAV2VEC2, **audio_config}, **config}
        self.is_training = True
        self.batch_size = 5
        self.hidden_size = 32
        self.num_attention_heads = 4
        self.num_hidden_layers = 2
        self.num_action_units = 7
        self.num_samples = 400
        self.num_video_frames = 12
        self.num_audio_frames = self.get_config().num_audio_frames(self.num_samples)
        self.seq_length = self.num_audio_frames + self.num_video_frames
        self.encoder_seq_length = self.key_length = self.seq_length

    def get_config(self):
        return AverConfig(
            sampling_rate=1000,  # with 20 samples a frame: audio at 50 Hz, 0.4 s of both streams
            num_action_units=self.num_action_units,
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=36,
            dropout=0.0,
            ctm_projection_dim=6,
            num_labels=3,
            **self.config,
        )

    def prepare_config_and_inputs_for_common(self):
        attention_mask = torch.ones(self.batch_size, self.num_samples, dtype=torch.long, device=torch_device)
        action_units_mask = torch.ones(self.batch_size, self.num_video_frames, dtype=torch.long, device=torch_device)
        attention_mask[1, 290:], action_units_mask[1, 8:] = 0, 0
        action_units_mask[2, 5] = 0
        action_units_mask[3], attention_mask[4] = 0, 0
        return self.get_config(), {
            "input_values": floats_tensor([self.batch_size, self.num_samples]),
            "action_units": floats_tensor([self.batch_size, self.num_video_frames, self.num_action_units]),
            "attention_mask": attention_mask,
            "action_units_mask": action_units_mask,
        }


class AverModelTest(modeling_common.ModelTesterMixin, unittest.TestCase):
    """The paper's model: joint attention, TaRoPE, CTM, an encoder shaped as xlsr."""

    all_model_classes = (AverModel, AverForEmotionClassification)
    additional_model_inputs = ["action_units"]
    pipeline_model_mapping = {}
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True  # our files have no year to read, and claim no exemption
    _is_composite = True

    def setUp(self):
        self.model_tester = AverModelTester(
            self, {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
        )
        self._tell_which_is_trunk_and_which_is_head()

    def _tell_which_is_trunk_and_which_is_head(self):
        """The suite knows by these tables that a trunk has no loss and that a head needs labels."""
        tables = {
            "MODEL_MAPPING_NAMES": "AverModel",
            "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES": "AverForEmotionClassification",
        }
        for table, name in tables.items():
            entry = patch.dict(getattr(modeling_auto, table), {"aver": name})
            entry.start()
            self.addCleanup(entry.stop)

    def test_can_init_all_missing_weights(self):
        """
        As if within transformers. In code outside it, loading passes by modules without parameters of their own, and
        wav2vec2 initializes its feature projection from such a module.
        """
        with patch.object(PreTrainedModel, "is_custom_code", return_value=False):
            super().test_can_init_all_missing_weights()

    def test_model_get_set_embeddings(self):
        """As the suite's, but what reads our inputs is a linear projection and no table of tokens."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIs(model.get_input_embeddings(), model.base_model.audio_projection)
            other = torch.nn.Linear(2, 3)
            model.set_input_embeddings(other)
            self.assertIs(model.get_input_embeddings(), other)
            self.assertIsNone(model.get_output_embeddings())

    def test_model_outputs_equivalence(self):
        """Unchanged, but its message subtracts outputs, and torch subtracts no booleans: our masks are booleans."""
        subtract = torch.Tensor.__sub__

        def subtract_masks_too(first, second):
            return subtract(first.int(), second.int()) if first.dtype == torch.bool else subtract(first, second)

        with patch.object(torch.Tensor, "__sub__", subtract_masks_too):
            super().test_model_outputs_equivalence()

    def test_sdpa_can_dispatch_non_composite_models(self):
        """Unchanged. The suite asks it of models without parts only, but it holds for ours as well."""
        self._is_composite = False
        super().test_sdpa_can_dispatch_non_composite_models()

    def test_sdpa_can_dispatch_composite_models(self):
        """The suite's looks for a language model; here the parts are an audio encoder and a fusion encoder."""
        for model_class in self.all_model_classes:
            with tempfile.TemporaryDirectory() as folder:
                model_class(self.model_tester.get_config()).save_pretrained(folder)
                for requested in (None, "sdpa", "eager"):
                    model = model_class.from_pretrained(folder, attn_implementation=requested).base_model
                    for part in (model, model.audio_encoder, model.fusion_encoder):
                        self.assertEqual(part.config._attn_implementation, requested or "sdpa")


class AverAblationModelTest(AverModelTest):
    """Other rows of the tables: isa and ica layers, learnable positions, no CTM, an encoder like wav2vec2-base."""

    def setUp(self):
        self.model_tester = AverModelTester(
            self,
            {"feat_extract_norm": "group", "do_stable_layer_norm": False},
            fusion_layers=["isa", "ica"],
            position_embedding_type="learnable",
            max_position_embeddings=40,
            ctm_loss_weight=0.0,
        )
        self._tell_which_is_trunk_and_which_is_head()

    def test_attention_outputs(self):
        """The suite's wants one square map a layer; isa and ica blocks have one a stream."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        audio, video = self.model_tester.num_audio_frames, self.model_tester.num_video_frames
        for model_class in self.all_model_classes:
            model = model_class(config).to(torch_device).eval()
            attentions = model(**inputs, output_attentions=True).attentions
            maps = [(audio, audio), (video, video), (audio, video), (video, audio)]
            self.assertEqual([attention.shape[2:] for attention in attentions], maps)
            self.assertEqual({attention.shape[:2] for attention in attentions}, {(5, 4)})


class AverConfigTest(unittest.TestCase):
    def test_config(self):
        self.model_tester = AverModelTester(self, {})
        properties = ["hidden_size", "num_attention_heads", "num_hidden_layers"]
        ConfigTester(
            self,
            config_class=AverConfig,
            has_text_modality=False,
            common_properties=properties,
            hidden_size=48,
            fusion_layers=["isa", "ica"],
        ).run_common_tests()


class AverFeatureExtractorTester:
    """Waveforms of growing lengths."""

    batch_size = 7
    min_seq_length = 400
    max_seq_length = 2000
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)
    feature_size = 1

    def prepare_feat_extract_dict(self):
        return {
            "feature_size": self.feature_size,
            "sampling_rate": 16_000,
            "padding_value": 0.0,
            "num_action_units": 7,
            "video_frame_rate": 29.97,
        }

    def prepare_inputs_for_common(self, equal_length=False, numpify=False):
        lengths = [self.min_seq_length + index * self.seq_length_diff for index in range(self.batch_size)]
        if equal_length:
            lengths = [self.max_seq_length] * self.batch_size
        waveforms = [floats_tensor([length]).numpy() for length in lengths]
        return [np.asarray(waveform) if numpify else waveform.tolist() for waveform in waveforms]


class AverFeatureExtractorTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = AverFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = AverFeatureExtractorTester()
