# SPDX-License-Identifier: MIT
"""What every network of the house has in common: what it is, how far it sees, what its outputs mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from .._checks import input_error

if TYPE_CHECKING:
    from .checkpoint import ModelInfo

Activation: TypeAlias = Literal["none", "sigmoid", "softmax", "normalised_relu"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that is needed to build a network again: the names under which it was made, and its ends.

    activation: what turns its outputs into probabilities (paper 1, section 4.3): "none", "sigmoid", "softmax" over
        the classes, or "normalised_relu" (ReLU divided by the largest value).
    """

    name: str
    preset: str = "full"
    in_channels: int = 1
    out_channels: int = 1
    activation: Activation = "none"

    def __post_init__(self) -> None:
        for name in ("name", "preset"):
            if not isinstance(value := getattr(self, name), str):
                raise input_error("create_model", name, expected="a name", got=repr(value))
        for name in ("in_channels", "out_channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise input_error("create_model", name, expected="a whole number of at least 1", got=repr(value))
        if self.activation not in get_args(Activation):
            expected = ", ".join(get_args(Activation))
            raise input_error("create_model", "activation", expected=expected, got=repr(self.activation))


class SegmentationModel(nn.Module):
    """A network from (batch, in_channels, z, y, x) to (batch, out_channels, z, y, x), "same" padding throughout.

    Calling it gives raw outputs, which losses take; `probabilities` applies the activation.

    A subclass names its `presets`, sets `divisor` and `receptive_radius`, and defines `forward`.

    config: what to build it from again. info: what a training tells of it (classes, normalisation, ...), or None.
    divisor: (z, y, x); the lengths of its input must be multiples of these.
    receptive_radius: (z, y, x); an output voxel sees no input voxel further away than this along an axis.
    """

    presets: ClassVar[tuple[str, ...]] = ("full", "small")
    config: ModelConfig
    info: ModelInfo | None
    divisor: tuple[int, int, int]
    receptive_radius: tuple[int, int, int]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.info = None
        if config.activation == "normalised_relu":
            # The largest output seen in training, not the largest of the tile at hand: a tile's own maximum would
            # differ from its neighbour's, and would lift an empty tile's noise to one.
            self.register_buffer("largest_output", torch.zeros(()))

    def probabilities(self, x: Tensor) -> Tensor:
        """Outputs after the activation, (batch, out_channels, z, y, x), float32."""
        return self.activate(self(x))

    def activate(self, outputs: Tensor) -> Tensor:
        """Apply the activation to raw outputs (batch, out_channels, ...)."""
        outputs = outputs.float()
        match self.config.activation:
            case "sigmoid":
                return outputs.sigmoid()
            case "softmax":
                return outputs.softmax(1)
            case "normalised_relu":
                largest: Any = self.largest_output
                if self.training:
                    with torch.no_grad():
                        largest.copy_(torch.maximum(largest, outputs.max()))
                return outputs.relu() / torch.where(largest > 0, largest, 1.0)
            case _:
                return outputs

    def n_weights(self) -> int:
        """How many weights there are, batch normalisation's left out, as the papers count."""
        norms = {
            id(p) for m in self.modules() if isinstance(m, nn.BatchNorm3d | nn.BatchNorm2d) for p in m.parameters()
        }
        return sum(p.numel() for p in self.parameters() if id(p) not in norms)

    def check_lengths(self, x: Tensor) -> None:
        """Refuse an input that is not (batch, in_channels, z, y, x) or whose lengths are not multiples of `divisor`."""
        if x.ndim != 5 or x.shape[1] != self.config.in_channels:
            raise input_error(
                self.config.name,
                "input",
                expected=f"(batch, {self.config.in_channels}, z, y, x)",
                got=f"shape {tuple(x.shape)}",
            )
        if any(length == 0 or length % step for length, step in zip(x.shape[2:], self.divisor, strict=True)):
            raise input_error(
                self.config.name,
                "input lengths (z, y, x)",
                expected=f"multiples of {self.divisor}",
                got=tuple(x.shape[2:]),
                fix="pad the volume, or let segment() do it",
            )
