# SPDX-License-Identifier: MIT
"""The networks: a registry, one architecture a file, and the folder in which a trained network is kept."""

from .checkpoint import ModelInfo, load_model, save_model
from .network import Activation, ModelConfig, SegmentationModel
from .normalisation import Normalisation
from .registry import create_model, model_names, register
from .unet3d import UNet3D

__all__ = [
    "Activation",
    "ModelConfig",
    "ModelInfo",
    "Normalisation",
    "SegmentationModel",
    "UNet3D",
    "create_model",
    "load_model",
    "model_names",
    "register",
    "save_model",
]
