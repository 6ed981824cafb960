# SPDX-License-Identifier: MIT
"""cryoet-engine: from a noisy tomogram and a few strokes to a soft segmentation and a picture.

The names below load their room on first use; `import cryoet_engine` alone loads no torch, no OpenGL, no CUDA.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version as _version
from typing import Any

__version__ = _version("cryoet-engine")

_ROOMS = {
    "CryoETError": "_checks",
    "FeatureSpec": "features",
    "PixelClassifier": "forest",
    "SoftSegmentation": "volume",
    "TransferFunction": "transfer",
    "Volume": "volume",
    "create_model": "models",
    "feature_stack": "features",
    "read": "io",
    "render_image": "render",
    "segment": "inference",
    "semi_supervised": "semi_supervision",
    "simulate_virions": "simulate",
    "train": "training",
    "view": "viewer",
    "write": "io",
}

__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
