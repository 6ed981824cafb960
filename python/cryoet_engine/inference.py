# SPDX-License-Identifier: MIT
"""Segmenting a whole tomogram with a network: overlapping tiles, alpha-blended, streamed slab by slab."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from itertools import product
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from ._checks import input_error
from ._progress import Progress, silent
from .blending import STORED, SlabBlender, TileWeights
from .cuda import device as card
from .models.checkpoint import ModelInfo, load_model
from .models.device import autocast, choose_device, place
from .models.network import Network, SegmentationModel, as_segmenter
from .models.normalisation import Normalisation
from .tiling import Shape, tile_shares, tile_starts
from .volume import Float32Array, SoftSegmentation, Volume, quantise

Blend: TypeAlias = Literal["trimmed", "plain", "gaussian"]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]


class Output(Protocol):
    """Where slices of probabilities go: a numpy array (class, z, y, x), or what `io.create_segmentation` gives."""

    shape: tuple[int, ...]
    dtype: Any

    def __setitem__(self, key: Any, value: Any, /) -> None:
        """Store one region."""

    def __getitem__(self, key: Any, /) -> Any:
        """Read one region back."""


def segment(
    model: Network | str | os.PathLike[str],
    volume: Volume,
    *,
    tile: int = 128,
    overlap: int = 32,
    blend: Blend = "trimmed",
    out: Output | None = None,
    dtype: npt.DTypeLike = "uint8",
    batch: int = 1,
    device: Device = "auto",
    progress: Progress = silent,
) -> SoftSegmentation:
    """Probabilities of every class in every voxel.

    model: a trained network, or its folder. Needs one input channel; classes and normalisation are those of its
        training (`model.info`), or "class 1", ... and "zscore" for a network that was never trained.
    volume: (z, y, x). tile, overlap: edge and overlap of tiles in voxels (paper 1, section 4.4: 128 and 32), rounded up
        to what the network's pooling divides.
    blend: "plain", the paper's: linear ramps over the overlap. "trimmed": a ramp's last voxels, as many as the network
        sees far (at most half the overlap), get no weight, because there the network saw the tile's padding instead
        of the tomogram. Where half the overlap is at least `model.receptive_radius`, the result is that of the network
        on the whole volume at once. "gaussian": weights fall off from a tile's middle on, sigma an eighth of it.
    out: takes `out[:, z0:z1, y0:y1, x0:x1] = block`, slices in order, each once; by default an array in memory.
    dtype: of the result: uint8, uint16 or float32; where `out` is given, its own counts.
    batch: tiles at a time. Memory holds one slab of tiles (float32, one channel a class) and its result, not the
        volume; where the network computes on a card and CuPy is there, the slab lies there, too.
    progress: once a batch; an exception from it stops the work.

    A volume that does not fit the network's pooling, or is smaller than it, is reflected at its far ends.

    Returns: the segmentation on the volume's grid; its `data` is `out` where that was given.

    Errors: InputError for voxels that are NaN or infinite, tiles that do not fit, or an unknown choice; those of
    `load_model` for a folder.
    """
    if isinstance(model, str | os.PathLike):
        model, _ = load_model(model)
    model = as_segmenter(model, where="segment")
    info = _check(model, volume, blend, dtype, batch)
    plan = _Plan(model, volume.shape, tile, overlap, blend)
    target = choose_device(device, where="segment")
    normalise = Normalisation.measure(volume, info.normalisation)
    shape = (len(info.classes), *volume.shape)
    stored: Any = np.empty(shape, dtype) if out is None else out
    if tuple(stored.shape) != shape:
        raise input_error("segment", "out", expected=f"shape (class, z, y, x) = {shape}", got=tuple(stored.shape))
    was_training = model.training
    model.eval()
    place(model, target)
    try:
        kind = str(stored.dtype)
        # Into an array in memory slices are written as they are finished.
        direct = isinstance(stored, np.ndarray) and kind in STORED and stored[0].flags.c_contiguous
        with closing(_blended(model, volume, normalise, plan, batch, target, progress)) as slabs:
            for blender, z in slabs:
                region = (slice(None), z, slice(0, shape[2]), slice(0, shape[3]))
                if direct:
                    blender.finish(z.stop, dtype=kind, out=stored[region])
                elif kind in STORED:
                    stored[region], _ = blender.finish(z.stop, dtype=kind)
                else:
                    stored[region] = quantise(blender.finish(z.stop)[0], stored.dtype)
    except torch.OutOfMemoryError as error:
        raise input_error(
            "segment",
            "memory",
            expected=f"room for tiles of {tile}",
            got="none left",
            fix="use smaller tiles or batch 1",
        ) from error
    finally:
        model.train(was_training)
    return SoftSegmentation(stored, classes=info.classes, colors=info.colors, **volume.grid())


def voxel_size_mismatch(info: ModelInfo, volume: Volume) -> str | None:
    """A sentence for the user where a tomogram's voxels are over 10 % larger or smaller than the training's.

    None where they agree, or where either size is unknown.
    """
    if "unknown" in (info.voxel_size_status, volume.voxel_size_status):
        return None
    ratios = [mine / theirs for mine, theirs in zip(volume.voxel_size_A, info.voxel_size_A, strict=True)]
    if all(1 / 1.1 <= ratio <= 1.1 for ratio in ratios):
        return None
    mine, theirs = (
        " x ".join(f"{length:.4g}" for length in lengths) for lengths in (volume.voxel_size_A, info.voxel_size_A)
    )
    return (
        f"the tomogram's voxels are {mine} Å (z, y, x), the network was trained on {theirs} Å: bin or resample it first"
    )


def _check(model: SegmentationModel, volume: Any, blend: str, dtype: npt.DTypeLike, batch: int) -> ModelInfo:
    if not isinstance(volume, Volume):
        raise input_error("segment", "volume", expected="a Volume", got=type(volume).__name__)
    if blend not in get_args(Blend):
        raise input_error("segment", "blend", expected=" or ".join(get_args(Blend)), got=repr(blend))
    if str(np.dtype(dtype)) not in ("uint8", "uint16", "float32"):
        raise input_error("segment", "dtype", expected="uint8, uint16 or float32", got=dtype)
    if not isinstance(batch, int) or batch < 1:
        raise input_error("segment", "batch", expected="a whole number of at least 1", got=repr(batch))
    config = model.config
    if config.in_channels != 1:
        raise input_error("segment", "model", expected="one input channel", got=config.in_channels)
    if model.info is not None:
        return model.info
    names = tuple(f"class {k + 1}" for k in range(config.out_channels))
    blank = SoftSegmentation(np.zeros((len(names), 1, 1, 1), np.float32), classes=names)
    return ModelInfo(classes=names, colors=blank.colors, voxel_size_A=volume.voxel_size_A)


class _Plan:
    """Where tiles lie and what weight their voxels have.

    The volume is thought of as extended at its far ends to multiples of the network's divisor, so that every tile lies
    on the grid of its pooling, on which alone the network commutes with a shift.
    """

    def __init__(self, model: SegmentationModel, shape: Shape, tile: int, overlap: int, blend: Blend) -> None:
        if not isinstance(tile, int) or not isinstance(overlap, int) or tile < 1 or not 0 <= overlap < tile:
            raise input_error(
                "segment", "tile, overlap", expected="whole numbers, 0 <= overlap < tile", got=(tile, overlap)
            )
        tiles, starts, ramps = [], [], []
        for length, step, radius in zip(shape, model.divisor, model.receptive_radius, strict=True):
            extended = -(-length // step) * step
            edge = min(-(-tile // step) * step, extended)
            common = min(-(-overlap // step) * step, edge - step)
            at = tile_starts(extended, edge, common)
            trim = min(radius, common // 2) if blend == "trimmed" else 0
            shares = tile_shares(extended, at, edge, common, trim=trim, gaussian=blend == "gaussian")
            tiles.append(edge)
            starts.append(at)
            ramps.append(shares)
        self.shape = shape
        self.tile: Shape = (tiles[0], tiles[1], tiles[2])
        self.starts, self.ramps = starts, ramps

    def weights(self, k: tuple[int, int, int]) -> TileWeights:
        """Of tile k along z, y and x; a voxel's weight is their product."""
        z, y, x = (ramp[i] for ramp, i in zip(self.ramps, k, strict=True))
        return z, y, x


def _blended(
    model: SegmentationModel,
    volume: Volume,
    normalise: Normalisation,
    plan: _Plan,
    batch: int,
    device: torch.device,
    progress: Progress,
) -> Generator[tuple[SlabBlender, slice], None, None]:
    """Yield what has the sums, and which slices of them are to be finished now, from top to bottom."""
    depth, height, width = plan.shape
    within = list(product(range(len(plan.starts[1])), range(len(plan.starts[2]))))
    total, done = len(plan.starts[0]) * len(within), 0
    blends_on = card.choose_device("auto", where="segment") if device.type == "cuda" else None
    progress("segmenting", done, total)
    slab = (plan.tile[0], height, width)
    with SlabBlender(model.config.out_channels, slab, device=blends_on) as blender:
        for iz, z in enumerate(plan.starts[0]):
            for first in range(0, len(within), batch):
                chosen = within[first : first + batch]
                voxels = np.stack([_read(volume, normalise, plan, (iz, *k)) for k in chosen])
                with torch.inference_mode(), autocast(device, True):
                    x = torch.from_numpy(voxels[:, None]).to(device).contiguous(memory_format=torch.channels_last_3d)
                    found = model.probabilities(x).clamp_(0, 1)
                if blends_on is None:
                    found = found.cpu()
                for k, probability in zip(chosen, found, strict=True):
                    at = (z, plan.starts[1][k[0]], plan.starts[2][k[1]])
                    tile = probability.numpy() if blends_on is None else probability
                    blender.add(tile, plan.weights((iz, *k)), at)
                done += len(chosen)
                progress("segmenting", done, total)
            # Slices above the next slab of tiles have all their weight.
            following = plan.starts[0][iz + 1] if iz + 1 < len(plan.starts[0]) else depth
            yield blender, slice(z, following)


def _read(volume: Volume, normalise: Normalisation, plan: _Plan, k: tuple[int, int, int]) -> Float32Array:
    """The normalised voxels of tile k; beyond the volume's far ends, their reflection."""
    first = [starts[i] for starts, i in zip(plan.starts, k, strict=True)]
    region = [slice(s, min(s + n, length)) for s, n, length in zip(first, plan.tile, plan.shape, strict=True)]
    block = normalise(volume.block((region[0], region[1], region[2])))
    more = [(0, n - have) for n, have in zip(plan.tile, block.shape, strict=True)]
    return np.pad(block, more, mode="symmetric") if any(after for _, after in more) else block
