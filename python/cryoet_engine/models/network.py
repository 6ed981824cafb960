# SPDX-License-Identifier: MIT
"""What every network of the house has in common: what it is, how far it sees, what its outputs mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from .._checks import input_error

if TYPE_CHECKING:
    from .checkpoint import ModelInfo

Activation: TypeAlias = Literal["none", "sigmoid", "softmax", "normalised_relu"]
Kind: TypeAlias = Literal["segmenter", "classifier"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that is needed to build a network again: the names under which it was made, and its ends.

    activation: what turns its outputs into probabilities (paper 1, section 4.3): "none", "sigmoid", "softmax" over
        the classes, or "normalised_relu" (ReLU divided by the largest value; Gros et al. 2021, SoftSeg). There that is
        the largest of the image at hand, here the largest that training has met: a tile's own maximum would differ from
        its neighbour's, and would lift an empty tile's noise to one. Until an output above zero was met it is 1, and no
        gradient runs through it.
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


class Network(nn.Module):
    """What segmenters and classifiers have in common. Inputs are (batch, in_channels, z, y, x).

    Calling it gives raw outputs, (batch, out_channels, ...), which losses take; `probabilities` applies the activation.

    A subclass of `SegmentationModel` or `ClassificationModel` names its `presets` and `source`, sets `divisor` and
    `receptive_radius`, and defines how it computes.

    kind: "segmenter" or "classifier". source: the publications it comes from.
    config: what to build it from again. info: what a training tells of it (classes, normalisation, ...), or None.
    initialised_from: whose weights it began with, see `transfer`; empty: random ones.
    divisor: (z, y, x); the lengths of its input must be multiples of these.
    receptive_radius: (z, y, x); an output voxel sees no input voxel further away than this along an axis.
    """

    kind: ClassVar[Kind]
    source: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ("full", "small")
    config: ModelConfig
    info: ModelInfo | None
    initialised_from: dict[str, str]
    divisor: tuple[int, int, int]
    receptive_radius: tuple[int, int, int]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.info = None
        self.initialised_from = {}
        if config.activation == "normalised_relu":
            self.register_buffer("largest_output", torch.zeros(()))

    def probabilities(self, x: Tensor) -> Tensor:
        """Outputs after the activation, (batch, out_channels, ...), float32."""
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


class SegmentationModel(Network):
    """A network from (batch, in_channels, z, y, x) to (batch, out_channels, z, y, x), "same" padding throughout."""

    kind = "segmenter"


class ClassificationModel(Network):
    """A network from (batch, in_channels, z, y, x) to (batch, out_channels), one score a class.

    A subclass defines `features` and `classify`, so that heat maps can be made between them. `receptive_radius` is
    that of a voxel of the last feature map, from each of the input voxels whose place it takes.
    """

    kind = "classifier"

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, (batch, channels, ...)."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Raw scores (batch, out_channels) of a feature map."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Raw scores (batch, out_channels) of (batch, in_channels, z, y, x)."""
        return self.classify(self.features(x))


def as_segmenter(model: object, *, where: str) -> SegmentationModel:
    """The model, if it is one that segments; else InputError."""
    if isinstance(model, SegmentationModel):
        return model
    if isinstance(model, Network):
        raise input_error(
            where,
            "model",
            expected="a network that segments",
            got=f"{model.config.name}, a {model.kind} (one answer a volume)",
            fix="choose another; `cryoet models` lists them",
        )
    expected = "a network from create_model"
    expected += ", or the folder of a trained one" if where == "segment" else ""
    raise input_error(where, "model", expected=expected, got=type(model).__name__)


def initialise_for_relu(model: nn.Module, scores: Iterable[nn.Module] = ()) -> None:
    """Draw weights by He et al. 2015, with no bias, so that deep ReLU networks without batch normalisation learn.

    By torch's default each layer of such a network would give a sixth of the variance that it gets.

    scores: layers that give scores of classes after dropout. They begin at a tenth: dropout of 0.7 twice makes
    what chance says three times as loud, and to silence it the first steps would silence the layers before for good.
    """
    tenth = set(scores)
    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module in tenth:
                with torch.no_grad():
                    module.weight.mul_(0.1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
