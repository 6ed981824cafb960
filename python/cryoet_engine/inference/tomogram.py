# SPDX-License-Identifier: MIT
"""A whole tomogram through a network: read, computed, blended and written at the same time."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._checks import input_error
from .._progress import Progress, silent
from ..blending import SlabBlender
from ..cuda import device as card
from ..models.checkpoint import ModelInfo, load_model
from ..models.device import Precision
from ..models.network import Network, SegmentationModel, as_segmenter
from ..models.normalisation import Normalisation
from ..volume import SoftSegmentation, Volume, one_voxel_size
from .orientations import TestTimeAugmentation, orientations
from .plan import Blend, Plan
from .replica import Replica, automatic_batch, choose_devices, replicas, tensor_of
from .sinks import Direct, Output, Sink, Store

if TYPE_CHECKING:
    from .rescale import Rescaling

_MAPS = ("labels", "variance")
_AHEAD = 2  # batches a replica that are on their way
_SLAB_SHARE = 0.5  # of a card's free memory, at most; the rest is for the network

Tile = tuple[int, int, int]
Found = tuple[Tensor, Tensor | None]


def segment(
    model: Network | str | os.PathLike[str],
    volume: Volume,
    *,
    tile: int = 128,
    overlap: int = 32,
    blend: Blend = "trimmed",
    tta: TestTimeAugmentation = "none",
    rescale: bool = False,
    leave_out_slices: tuple[int, int] = (0, 0),
    out: Output | None = None,
    maps: Mapping[str, Output] | None = None,
    dtype: npt.DTypeLike = "uint8",
    batch: int | Literal["auto"] = "auto",
    precision: Precision = "auto",
    device: str = "auto",
    first_slice: int = 0,
    progress: Progress = silent,
) -> SoftSegmentation:
    """Probabilities of every class in every voxel.

    model: a trained network, or its folder. Needs one input channel; classes and normalisation are those of its
        training (`model.info`), or "class 1", ... and "zscore" for a network that was never trained.
    volume: (z, y, x). tile, overlap: edge and overlap of tiles in voxels (paper 1, section 4.4: 128 and 32), rounded up
        to what the network's pooling divides.
    blend: "plain", the paper's: linear ramps over the overlap. "trimmed": a ramp's last voxels, as many as the network
        sees far, get no weight, because there the network saw the tile's padding instead of the tomogram. Where half
        the overlap is at least `model.receptive_radius`, the result is that of the network on the whole volume at
        once; where it sees further, three eighths of the overlap get none. "gaussian": weights fall off from a tile's
        middle on, sigma an eighth of it.
    tta: test-time augmentation, the mean over orientations of each tile: "mirror" (8), "turn" (4, by 90 degrees about
        z) or "all" (16), at as many times the cost.
    rescale: compute at the voxel size (Å) of the network's training: the tomogram is resampled as it is read
        (by cubics, averaging where it gets coarser), and so are the probabilities, linearly, to the tomogram's grid.
    leave_out_slices: as many slices at the top (low z) and the bottom become background, certain; layers of tiles
        that weigh nothing elsewhere are not computed.
    out: takes `out[:, z0:z1, y0:y1, x0:x1] = block`, slices in order, each once, from a thread of its own; by default
        an array in memory. A chunked store gets whole chunks.
    maps: results beside the probabilities, (z, y, x), each written as `out` and before it. "labels": the most probable
        class, 1, 2, ..., as integers; "variance": with `tta`, how much the orientations disagree: the mean over classes
        of the variance of the probability, 0 to 0.25, as floats.
    dtype: of the result: uint8, uint16 or float32; where `out` is given, its own counts.
    batch: tiles at a time; "auto": what the memory of the card has room for, on the CPU two. Where memory runs out,
        half as many from then on, which `progress` is told. Memory holds one slab of tiles (float32, one channel a
        class), its result and a few batches, not the volume; where the network computes on torch's current card, CuPy
        is there, and half of the card's free memory has room for the slab, it lies there, too.
    precision: of the convolutions: "float32", "bfloat16", "float16", or "auto": bfloat16 on a card that has it, else
        float32. bfloat16 is much faster on a CPU with AMX, and moves probabilities by about 0.002.
    device: "auto", "cpu", "cuda", "cuda:1", "all" cards, or several of them ("cuda:0,cuda:1"): each has a copy of the
        network, and batches in turn. The result has the same bits on any number of the same kind.
    first_slice: slices before it are stored already, and not written again: an interrupted run goes on with it, to
        the same bits.
    progress: once a batch; an exception from it stops the work.

    A volume that does not fit the network's pooling, or is smaller than it, is reflected at its far ends.

    Returns: the segmentation on the volume's grid; its `data` is `out` where that was given.

    Errors: InputError for voxels that are NaN or infinite, tiles that do not fit, memory that has no room for one, or
    an unknown choice; those of `load_model` for a folder.
    """
    if isinstance(model, str | os.PathLike):
        model, _ = load_model(model)
    model = as_segmenter(model, where="segment")
    choices = {"blend": (blend, Blend), "tta": (tta, TestTimeAugmentation), "precision": (precision, Precision)}
    info = _check(model, volume, dtype, batch, choices)
    shape = (len(info.classes), *volume.shape)
    stored: Any = np.empty(shape, dtype) if out is None else out
    maps = maps or {}
    kept = _kept(leave_out_slices, volume.shape[0], first_slice)
    rescaling = _rescaling(info, volume) if rescale else None
    seen = rescaling.volume if rescaling else volume
    # The slices of the grid on which the network computes.
    wanted = rescaling.wanted(kept) if rescaling else kept
    how: dict[str, Any] = {"tile": tile, "overlap": overlap, "blend": blend}
    plan = Plan(model, seen.shape, **how, wanted=wanted, turned=tta in ("turn", "all"))
    devices = choose_devices(device, where="segment")
    normalise = Normalisation.measure(seen, info.normalisation)
    _check_outputs(stored, maps, shape, tta)
    was_training = model.training
    model.eval()
    store = Store(stored, maps, first=first_slice, last=volume.shape[0])
    try:
        store.put_background(kept.start)
        with ExitStack() as held:
            slab = (plan.tile[0], *seen.shape[1:])
            channels = (model.config.out_channels, 1) if store.variance else (model.config.out_channels,)
            blends_on, results_on = _blending_place(devices, 4 * sum(channels) * math.prod(slab))
            blenders = [held.enter_context(SlabBlender(n, slab, device=blends_on)) for n in channels]
            team = replicas(model, devices, results_on, orientations(tta), variance=store.variance)
            if batch == "auto":
                batch = automatic_batch(model, plan.tile, devices, layer=len(plan.within))
            for one in team:
                one.most, one.precision = batch, precision
            sink: Sink = rescaling.sink(store, last=kept.stop) if rescaling else Direct(store)
            spread = blenders[1] if store.variance else None
            for z in _blended(seen, normalise, plan, team, blenders, batch, progress):
                sink.take(blenders[0], spread, z)
        store.put_background(volume.shape[0])
        store.wait()
    finally:
        store.close()
        model.train(was_training)
    return SoftSegmentation(stored, classes=info.classes, colors=info.colors, **volume.grid())


def voxel_size_mismatch(info: ModelInfo, volume: Volume) -> str | None:
    """A sentence for the user where a tomogram's voxels are over 10 % larger or smaller than the training's.

    None where they agree, or where either size is unknown.
    """
    if "unknown" in (info.voxel_size_status, volume.voxel_size_status):
        return None
    if one_voxel_size(volume.voxel_size_A, info.voxel_size_A):
        return None
    mine, theirs = (
        " x ".join(f"{length:.4g}" for length in lengths) for lengths in (volume.voxel_size_A, info.voxel_size_A)
    )
    return f"the tomogram's voxels are {mine} Å (z, y, x), the network was trained on {theirs} Å: rescale it"


def _check(
    model: SegmentationModel, volume: Any, dtype: npt.DTypeLike, batch: Any, choices: Mapping[str, tuple[str, Any]]
) -> ModelInfo:
    if not isinstance(volume, Volume):
        raise input_error("segment", "volume", expected="a Volume", got=type(volume).__name__)
    for name, (value, known) in choices.items():
        if value not in get_args(known):
            raise input_error("segment", name, expected=" or ".join(get_args(known)), got=repr(value))
    if str(np.dtype(dtype)) not in ("uint8", "uint16", "float32"):
        raise input_error("segment", "dtype", expected="uint8, uint16 or float32", got=dtype)
    if batch != "auto" and (not isinstance(batch, int) or batch < 1):
        raise input_error("segment", "batch", expected="auto, or a whole number of at least 1", got=repr(batch))
    config = model.config
    if config.in_channels != 1:
        raise input_error("segment", "model", expected="one input channel", got=config.in_channels)
    if model.info is not None:
        return model.info
    names = tuple(f"class {k + 1}" for k in range(config.out_channels))
    blank = SoftSegmentation(np.zeros((len(names), 1, 1, 1), np.float32), classes=names)
    return ModelInfo(classes=names, colors=blank.colors, voxel_size_A=volume.voxel_size_A)


def _check_outputs(stored: Any, maps: Mapping[str, Output], shape: tuple[int, ...], tta: str) -> None:
    if tuple(stored.shape) != shape:
        raise input_error("segment", "out", expected=f"shape (class, z, y, x) = {shape}", got=tuple(stored.shape))
    for name, one in maps.items():
        if name not in _MAPS:
            raise input_error("segment", "maps", expected=" or ".join(_MAPS), got=repr(name))
        if tuple(one.shape) != shape[1:]:
            expected = f"shape (z, y, x) = {shape[1:]}"
            raise input_error("segment", f"maps[{name!r}]", expected=expected, got=tuple(one.shape))
    if "variance" in maps and tta == "none":
        fix = "choose mirror, turn or all"
        raise input_error("segment", "variance", expected="test-time augmentation with it", got="tta none", fix=fix)


def _kept(leave_out: Any, depth: int, first: Any) -> slice:
    """The slices that are neither left out nor stored already."""
    numbers = tuple(leave_out) if isinstance(leave_out, tuple | list) else ()
    if len(numbers) != 2 or not all(isinstance(n, int) and n >= 0 for n in numbers) or sum(numbers) >= depth:
        expected = f"two whole numbers (top, bottom), under {depth} slices together"
        raise input_error("segment", "leave_out_slices", expected=expected, got=leave_out)
    if not isinstance(first, int) or not 0 <= first <= depth:
        raise input_error("segment", "first_slice", expected=f"a slice, 0 to {depth}", got=first)
    stop = depth - numbers[1]
    return slice(min(max(numbers[0], first), stop), stop)


def _rescaling(info: ModelInfo, volume: Volume) -> Rescaling | None:
    from .rescale import Rescaling  # with scipy, which nothing else here needs

    found = Rescaling(info, volume)
    return None if found.alike else found


def _blending_place(devices: list[torch.device], slab_bytes: int) -> tuple[card.Device | None, torch.device]:
    """On the first card, where it is the one that CuPy uses and has room beside the network's; else in memory."""
    first, host = devices[0], torch.device("cpu")
    if first.type != "cuda" or (found := card.choose_device("auto", where="segment")) is None:
        return None, host
    # Kernels go to the calling thread's card: both have to be the one on which the network computes.
    if not found.number == first.index == torch.cuda.current_device():
        return None, host
    torch.cuda.empty_cache()  # what torch keeps for nothing is room, too
    return (found, first) if slab_bytes <= _SLAB_SHARE * found.free_bytes() else (None, host)


def _blended(
    volume: Volume,
    normalise: Normalisation,
    plan: Plan,
    team: list[Replica],
    blenders: list[SlabBlender],
    batch: int,
    progress: Progress,
) -> Iterator[slice]:
    """Yield which slices are to be taken from the blenders now, from top to bottom, after adding all that reach them.

    A thread reads, one a replica computes, and this one blends, in the order of the tiles whoever computed them.
    """
    groups = [
        [(layer, *k) for k in plan.within[start : start + batch]]
        for layer in plan.layers
        for start in range(0, len(plan.within), batch)
    ]
    done, total, most = 0, len(plan.layers) * len(plan.within), batch
    progress("segmenting", done, total)
    if not groups:
        return
    for one in blenders:
        one.first = plan.at(groups[0][0])[0]
    pinned = any(replica.device.type == "cuda" for replica in team)

    def read(tiles: list[Tile]) -> Tensor:
        return tensor_of(np.stack([plan.read(volume, normalise, k) for k in tiles]), pinned=pinned)

    with ExitStack() as threads:
        reader, *workers = (_thread(threads, name) for name in ["read", *["compute"] * len(team)])

        def begin(k: int) -> Future[tuple[Found, torch.cuda.Event | None]]:
            voxels = reader.submit(read, groups[k])
            replica = team[k % len(team)]
            return workers[k % len(team)].submit(lambda: _marked(replica(voxels.result())))

        ahead = min(_AHEAD * len(team), len(groups))
        running = deque(begin(k) for k in range(ahead))
        for k, tiles in enumerate(groups):
            found, written = running.popleft().result()
            if k + ahead < len(groups):
                running.append(begin(k + ahead))
            if written is not None:
                written.synchronize()
            for blender, part in zip(blenders, found, strict=False):
                _add(blender, part, tiles, plan)
            done += len(tiles)
            now = min(replica.most for replica in team)
            progress("segmenting", done, total, f"memory ran out, tiles at a time: {now}" if now < most else "")
            most = now
            if k + 1 == len(groups) or groups[k + 1][0][0] != tiles[0][0]:
                yield from _within(plan, tiles[0][0], blenders)


def _thread(held: ExitStack, name: str) -> ThreadPoolExecutor:
    thread = ThreadPoolExecutor(1, f"cryoet-{name}")
    held.callback(thread.shutdown, wait=True, cancel_futures=True)
    return thread


def _marked(found: Found) -> tuple[Found, torch.cuda.Event | None]:
    """With what passes when results on a card are written, while the batch after them may be computed already."""
    if found[0].device.type != "cuda":
        return found, None
    written = torch.cuda.Event()  # type: ignore[no-untyped-call]
    written.record(torch.cuda.current_stream(found[0].device))
    return found, written


def _add(blender: SlabBlender, found: Tensor | None, tiles: list[Tile], plan: Plan) -> None:
    if found is None:
        return
    for k, tile in zip(tiles, found, strict=True):
        blender.add(tile.numpy() if tile.device.type == "cpu" else tile, plan.weights(k), plan.at(k), written=True)


def _within(plan: Plan, layer: int, blenders: list[SlabBlender]) -> Iterator[slice]:
    """The wanted ones of the slices that this layer completes; unwanted ones above them are dropped."""
    z, wanted = plan.complete(layer), plan.wanted
    if z.start < (below := min(wanted.start, z.stop)):
        for one in blenders:
            one.finish(below)
    if (start := max(z.start, wanted.start)) < (stop := min(z.stop, wanted.stop)):
        yield slice(start, stop)
