"""Twelve segmentation networks: DeepLabV3 and DeepLabV3+ on six backbones."""
from network import modeling
from network.backbone_weights import load_backbone
from network.deeplab import convert_to_separable_conv, freeze_backbone, set_bn_momentum
from network.modeling import MODELS, build_model
from network.normalized import NormalizedModel
from network.parallel import parallelize
from network.precision import Bfloat16, Scaled, precise
from network.sync_batchnorm import synchronize_batchnorm
from network.weights import load_weights

__all__ = [
    "MODELS", "Bfloat16", "NormalizedModel", "Scaled", "build_model", "convert_to_separable_conv", "freeze_backbone",
    "load_backbone", "load_weights", "modeling", "parallelize", "precise", "set_bn_momentum", "synchronize_batchnorm",
]
