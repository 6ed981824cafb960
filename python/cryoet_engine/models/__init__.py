# SPDX-License-Identifier: MIT
"""The networks: a registry, one architecture a file, and the folder in which a trained network is kept."""

from .cam3d import CAM3D
from .checkpoint import ModelInfo, load_model, save_model
from .densenet3d import DenseNet3D
from .network import Activation, ClassificationModel, ModelConfig, Network, SegmentationModel
from .normalisation import Normalisation
from .registry import create_model, model_names, model_presets, register
from .rsunet3d import RSUNet3D
from .ssn3d import SSN3DED, SSN3DV1, SSN3DV2
from .summary import ModelSummary, summarise
from .transfer import transfer
from .unet2d import UNet2D
from .unet3d import UNet3D
from .voxresnet import VoxResNet

__all__ = [
    "CAM3D",
    "SSN3DED",
    "SSN3DV1",
    "SSN3DV2",
    "Activation",
    "ClassificationModel",
    "DenseNet3D",
    "ModelConfig",
    "ModelInfo",
    "ModelSummary",
    "Network",
    "Normalisation",
    "RSUNet3D",
    "SegmentationModel",
    "UNet2D",
    "UNet3D",
    "VoxResNet",
    "create_model",
    "load_model",
    "model_names",
    "model_presets",
    "register",
    "save_model",
    "summarise",
    "transfer",
]
