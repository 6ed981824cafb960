# SPDX-License-Identifier: MIT
"""A tomogram in noise, and networks that are small enough to know what they give."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cryoet_engine import Volume
from cryoet_engine.models import ModelConfig, ModelInfo, SegmentationModel, create_model, register

SHAPE = (20, 26, 22)
VOXELS = np.random.default_rng(0).normal(100, 9, SHAPE).astype(np.float32)


class _Small(SegmentationModel):
    presets = ("full",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.divisor, self.receptive_radius = (1, 1, 1), (0, 0, 0)


@register("test_pointwise")
class _Pointwise(_Small):
    """1x1x1: commutes with whatever moves voxels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.layer = nn.Conv3d(1, config.out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


@register("test_smoothing")
class _Smoothing(_Small):
    """A logistic function of the mean over 3x3x3 voxels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.receptive_radius = (1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = nn.functional.avg_pool3d(nn.functional.pad(x, (1,) * 6, mode="replicate"), 3, stride=1)
        return torch.cat([-2 * mean, 2 * mean], 1)


@register("test_ramp")
class _Ramp(_Small):
    """Whatever it sees, class 2 rises from 0 to 1 along x: the least symmetric answer there is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(0, 1, x.shape[4]).expand(x.shape[0], 1, *x.shape[2:])
        return torch.cat([1 - ramp, ramp], 1)


@pytest.fixture
def network() -> Callable[..., SegmentationModel]:
    """One of the above, or unet3d small, with given weights and voxel size."""

    def make(name: str, *, activation: Any = "softmax", classes: int = 2, voxel_size_A: float = 10) -> Any:
        torch.manual_seed(0)
        preset = "small" if name == "unet3d" else "full"
        model = create_model(name, preset=preset, out_channels=classes, activation=activation).eval()
        names = tuple(f"class {k + 1}" for k in range(classes))
        model.info = ModelInfo(classes=names, colors=((1, 0, 0),) * classes, voxel_size_A=(voxel_size_A,) * 3)
        return model

    return make


@pytest.fixture
def volume() -> Volume:
    return Volume(VOXELS, voxel_size_A=(10.0, 10.0, 10.0), origin_A=(1.0, 2.0, 3.0), start=(4, 5, 6), notes=("hi",))


@pytest.fixture
def no_thread_left() -> Any:
    """What a call of `segment` starts has ended when it is over."""
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("cryoet-")] == []


class Recorder:
    """A store that knows what was written, and when."""

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.uint8, chunks: tuple[int, ...] | None = None) -> None:
        self.data = np.full(shape, 77, dtype)
        self.shape, self.dtype = shape, np.dtype(dtype)
        if chunks:
            self.chunks = chunks
        self.written: list[slice] = []

    def __setitem__(self, key: Any, value: Any) -> None:
        self.written.append(key[-3])
        self.data[key] = value


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder
