"""Twelve segmentation networks, DeepLabV3 and DeepLabV3+ on six backbones, and any network of the user's own."""
from network import modeling
from network.augmented import VIEWS, Augmented, as_scored
from network.backbone_weights import load_backbone
from network.custom import CustomModel, check_custom
from network.deeplab import convert_to_separable_conv, freeze_backbone, set_bn_momentum
from network.modeling import MODELS, build_model
from network.normalized import NormalizedModel, take_normalization
from network.parallel import parallelize
from network.parts import find_backbone, group_parameters
from network.precision import Bfloat16, Scaled, precise
from network.sync_batchnorm import synchronize_batchnorm
from network.weights import load_weights
from network.windowed import Windowed, choose_window, windowed

__all__ = [
    "MODELS", "VIEWS", "Augmented", "Bfloat16", "CustomModel", "NormalizedModel", "Scaled", "Windowed", "as_scored",
    "build_model", "check_custom", "choose_window", "convert_to_separable_conv", "find_backbone", "freeze_backbone",
    "group_parameters", "load_backbone", "load_weights", "modeling", "parallelize", "precise", "set_bn_momentum",
    "synchronize_batchnorm", "take_normalization", "windowed",
]
