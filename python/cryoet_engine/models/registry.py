# SPDX-License-Identifier: MIT
"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from .._checks import input_error
from .network import Activation, Kind, ModelConfig, Network

_MODELS: dict[str, type[Network]] = {}
M = TypeVar("M", bound=Network)


def register(name: str) -> Callable[[type[M]], type[M]]:
    """Class decorator that makes a network known to `create_model` under `name`. A name can be taken only once."""

    def add(cls: type[M]) -> type[M]:
        if name in _MODELS:
            raise input_error(
                "register", "name", expected="one that is free", got=f"{name!r} ({_MODELS[name].__name__})"
            )
        _MODELS[name] = cls
        return cls

    return add


def model_names(kind: Kind | None = None) -> tuple[str, ...]:
    """The names that `create_model` knows, sorted; only those of one kind where that is given."""
    return tuple(sorted(name for name, cls in _MODELS.items() if kind in (None, cls.kind)))


def model_presets(name: str) -> tuple[str, ...]:
    """The presets of a network. Errors: InputError for an unknown name."""
    return _class(name).presets


def create_model(
    name: str,
    *,
    preset: str = "full",
    in_channels: int = 1,
    out_channels: int = 1,
    activation: Activation = "none",
    seed: int = 0,
) -> Network:
    """Build a network with random weights.

    name: one of `model_names()`. preset: "full" as published, or "small" for the CPU.
    in_channels, out_channels: of its input and output, one out a class; `segment` and `train` give it one channel.
    activation: what its outputs mean, see `ModelConfig`; training with cross-entropy turns "none" into "softmax".
    seed: of the weights: the same seed gives the same network, whatever has run before.

    Returns: a `SegmentationModel` or, as `cam3d`, a `ClassificationModel`.

    Errors: InputError for an unknown name or preset, or for numbers of channels below one.
    """
    cls = _class(name)
    config = ModelConfig(
        name=name, preset=preset, in_channels=in_channels, out_channels=out_channels, activation=activation
    )
    if preset not in cls.presets:
        raise input_error("create_model", "preset", expected=f"one of {', '.join(cls.presets)}", got=repr(preset))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(config)


def _class(name: str) -> type[Network]:
    if name not in _MODELS:
        raise input_error("create_model", "name", expected=f"one of {', '.join(model_names())}", got=repr(name))
    return _MODELS[name]
