# SPDX-License-Identifier: MIT
"""A network on a device, and how many tiles it bears at a time."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._checks import input_error
from .._memory import total_bytes
from ..models.device import Precision, autocast, choose_device, is_out_of_memory, place
from ..models.network import SegmentationModel
from ..models.registry import create_model
from ..models.summary import inference_memory
from ..tiling import Shape
from ..volume import Float32Array
from .orientations import Orientation, mean_and_variance

_MOST_TILES = 16  # beyond that a batch gains nothing: a tile of 128 keeps a card busy by itself
_MOST_TILES_CPU = 2  # of a single small tile torch leaves most convolutions to its slowest algorithm
_SMALL_TILE = 64**3  # two of these fit everywhere; to find what they take would itself take torch a second or two
_SHARE = 0.5  # of the memory; the rest is for scratch memory of convolutions, and for results on their way


def choose_devices(name: str, *, where: str) -> list[torch.device]:
    """The devices of "auto", "cpu", "cuda", "cuda:1", "all" (cards) or several of them, as in "cuda:0,cuda:1".

    The same one several times gives as many replicas. Errors: InputError where one is none, or not there.
    """
    n_cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "all":
        choose_device("cuda", where=where)
        return [torch.device("cuda", k) for k in range(n_cards)]
    found = []
    for one in str(name).split(","):
        kind, colon, number = one.strip().partition(":")
        if not colon:
            if kind not in ("auto", "cpu", "cuda"):
                expected = "auto, cpu, cuda, cuda:N, all, or several with commas between"
                raise input_error(where, "device", expected=expected, got=repr(name))
            found.append(choose_device(kind, where=where))
            continue
        if kind != "cuda" or not number.isdecimal() or int(number) >= n_cards:
            expected = f"cuda:0 to cuda:{n_cards - 1}" if n_cards else "cpu, as there is no card"
            raise input_error(where, "device", expected=expected, got=repr(one))
        found.append(torch.device("cuda", int(number)))
    return found


def automatic_batch(model: SegmentationModel, tile: Shape, devices: list[torch.device], *, layer: int) -> int:
    """Tiles at a time: as many as half of the memory has room for, on the CPU two at most.

    Of cards the memory that is free counts, of the CPU all that this process may hold, so that a machine does the same
    each time. layer: how many tiles a layer has.
    """
    on_cards = all(device.type == "cuda" for device in devices)
    most = min(_MOST_TILES if on_cards else _MOST_TILES_CPU, -(-layer // len(devices)))
    if not on_cards and math.prod(tile) <= _SMALL_TILE:
        return most
    with torch.device("meta"):
        blank = create_model(**vars(model.config))
    one = inference_memory(blank, tile)
    return max(1, min(int(_SHARE * _memory(devices) / one), most))


def _memory(devices: list[torch.device]) -> int:
    """Bytes that each device has room for: cards by themselves, the others share the machine's."""
    n_cpu = sum(device.type == "cpu" for device in devices)
    rooms = [torch.cuda.mem_get_info(device)[0] for device in devices if device.type == "cuda"]
    if n_cpu:
        rooms.append(total_bytes() // n_cpu)
    return min(rooms)


@dataclass
class Replica:
    """Computes batches of tiles; where memory runs out, in smaller ones from then on.

    results_on: where probabilities are wanted. most: tiles at a time, at most.
    """

    model: SegmentationModel
    device: torch.device
    results_on: torch.device
    orientations: tuple[Orientation, ...]
    variance: bool
    most: int = 1
    precision: Precision = "auto"

    def __call__(self, voxels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities (tile, class, z, y, x) of tiles (tile, 1, z, y, x), and their variance.

        Errors: InputError where memory has no room for one tile.
        """
        while True:
            try:
                parts = [self._compute(part) for part in torch.split(voxels, self.most)]
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                tiles = min(self.most, len(voxels))
                if tiles == 1:
                    raise input_error(
                        "segment",
                        "memory",
                        expected=f"room for a tile of {' x '.join(map(str, voxels.shape[2:]))} on {self.device}",
                        got="none left",
                        fix="use smaller tiles, or free memory",
                    ) from error
                self.most = tiles // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if len(parts) == 1:
            return parts[0]
        means, variances = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(variances) if self.variance else None

    def _compute(self, voxels: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.inference_mode(), autocast(self.device, True, self.precision):
            x = voxels.to(self.device, non_blocking=True)
            mean, variance = mean_and_variance(self.model, x, self.orientations, variance=self.variance)
            return mean.to(self.results_on), None if variance is None else variance.to(self.results_on)


def replicas(
    model: SegmentationModel,
    devices: list[torch.device],
    results_on: torch.device,
    chosen: tuple[Orientation, ...],
    *,
    variance: bool,
) -> list[Replica]:
    """The network on each device, the given one on the first, copies on the others."""
    found = []
    for k, device in enumerate(devices):
        one = model if k == 0 else copy.deepcopy(model)
        place(one, device)
        found.append(Replica(one, device, results_on, chosen, variance))
    return found


def tensor_of(tiles: Float32Array, *, pinned: bool) -> Tensor:
    """Tiles (tile, z, y, x) as a tensor (tile, 1, z, y, x), pinned: where cards can copy from it by themselves."""
    tensor = torch.from_numpy(tiles)[:, None]
    return tensor.pin_memory() if pinned else tensor
