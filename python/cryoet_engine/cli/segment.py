# SPDX-License-Identifier: MIT
"""Segment a tomogram with a trained network, tile by tile.

Overlapping tiles are alpha-blended. `--blend trimmed` (the default) gives no weight to voxels in which the network
saw a tile's padding; `--blend plain` is the published way. Memory is that of one layer of tiles.

  cryoet segment TOMO --model net/ -o proba.zarr
  cryoet segment TOMO --model net/ -o proba.zarr --tta mirror --variance-out unsure.mrc --labels-out labels.mrc
  cryoet segment TOMO --model net/ -o proba.zarr --rescale --leave-out-slices 20,20 --min-diameter 10

An interrupted run (Ctrl-C, a crash, a full disk) leaves ZARR.partial once a chunk of slices (64) is stored, and the
same command goes on from there. An older segmentation of that name is replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from .._checks import input_error
from .._progress import Progress
from ._console import Bars, add_tomogram, guard_outputs, need_suffix, open_tomogram, positive, say
from ._job import file_identity
from ._maps import map_notes, map_type

if TYPE_CHECKING:
    from ..io import SegmentationWriter, Work
    from ..models import ModelInfo
    from ..volume import SoftSegmentation, Volume

_SLICES = "slices"  # how far the network is, in the record of an interrupted run


def add_tile_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how the volume is cut, and what is done beside the network."""
    parser.add_argument(
        "--tile", type=positive, default=128, metavar="N", help="edge of a tile in voxels (default 128)"
    )
    parser.add_argument("--overlap", type=int, default=32, metavar="N", help="overlap of tiles in voxels (default 32)")
    parser.add_argument(
        "--blend", choices=("trimmed", "plain", "gaussian"), default="trimmed", help="weights in the overlap"
    )
    parser.add_argument(
        "--tta",
        choices=("none", "mirror", "turn", "all"),
        default="none",
        help="average over mirrors (8 times the work), turns about z (4 times) or both (16 times)",
    )
    parser.add_argument(
        "--rescale", action="store_true", help="compute at the voxel size that the network was trained on"
    )
    parser.add_argument(
        "--leave-out-slices",
        type=_two_numbers,
        default=(0, 0),
        metavar="TOP,BOTTOM",
        help="as many slices at low and high z become background",
    )
    parser.add_argument(
        "--min-diameter",
        type=_length,
        metavar="NM",
        help="particles (of touching voxels, 26 neighbours) smaller than this become background",
    )


def _two_numbers(text: str) -> tuple[int, int]:
    try:
        top, bottom = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected TOP,BOTTOM, as in 20,30; got {text!r}") from None
    if min(top, bottom) < 0:
        raise argparse.ArgumentTypeError(f"expected numbers from 0 on; got {text!r}")
    return top, bottom


def _length(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, in nm; got {text!r}")
    return value


def _batch(text: str) -> int | str:
    return text if text == "auto" else positive(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_tomogram(parser)
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a trained network")
    parser.add_argument("-o", "--output", required=True, metavar="ZARR", help="soft segmentation, OME-Zarr")
    parser.add_argument("--labels-out", metavar="FILE", help="hard labels 1, 2, ..., .mrc or .zarr")
    parser.add_argument(
        "--variance-out", metavar="FILE", help="with --tta: how much the orientations disagree, .mrc or .zarr"
    )
    add_tile_arguments(parser)
    parser.add_argument(
        "--dtype",
        choices=("uint8", "uint16", "float32"),
        default="uint8",
        help="type of stored probabilities",
    )
    parser.add_argument(
        "--batch",
        dest="tile_batch",
        type=_batch,
        default="auto",
        metavar="N",
        help="tiles at a time; auto (default): as many as the card's memory has room for, on the CPU two",
    )
    parser.add_argument(
        "--precision",
        dest="tile_precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of convolutions; auto: bfloat16 on a card that has it. bfloat16 is fast on CPUs with AMX",
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="WHERE",
        help="auto, cpu, cuda, cuda:1, all (cards), or several, as cuda:0,cuda:1",
    )


def predict(
    model: Path,
    volume: Volume,
    path: Path,
    args: argparse.Namespace,
    *,
    dtype: str = "uint8",
    maps: Mapping[str, Path] | None = None,
    progress: Progress,
) -> SoftSegmentation:
    """Stream a network's probabilities of a volume to an OME-Zarr and open it.

    maps: files for "labels" and "variance". An interrupted call leaves a partial folder; the next one goes on with it.
    """
    from .. import io
    from ..inference import voxel_size_mismatch
    from ..models import load_model
    from ..refine import remove_dust

    network, facts = load_model(model)
    if args.min_diameter is not None and volume.voxel_size_status == "unknown":
        expected, fix = "a tomogram whose voxel size is known", "say it (--voxel-size), or leave --min-diameter out"
        raise input_error("--min-diameter", "voxel size", expected=expected, got="an unknown one", fix=fix)
    if not args.rescale and (warning := voxel_size_mismatch(facts, volume)):
        say(f"note: {warning} (--rescale)")
    maps = maps or {}
    how: dict[str, Any] = {"dtype": dtype, "grid": volume.grid(), "colors": facts.colors, "in_place": True}
    identity = _identity(model, volume, args, dtype, maps)
    with io.resumable_path(path, identity) as work, _told_of(work), ExitStack() as files:

        def map_store(name: str) -> Any:
            kind = "uint8" if name == "labels" else "float32"
            store = work.folder / f"{name}.zarr"
            grid = volume.grid()
            return files.enter_context(io.create_volume(store, volume.shape, dtype=kind, grid=grid, in_place=True))

        stores = {name: map_store(name) for name in maps}
        raw = work.path if args.min_diameter is None else work.folder / "raw.zarr"
        # Without dust the labels are others, and made with it.
        beside = {name: one for name, one in stores.items() if args.min_diameter is None or name != "labels"}
        with io.create_segmentation(raw, volume.shape, facts.classes, **how) as out:
            _compute(network, volume, out, beside, work, args, progress)
        if args.min_diameter is not None:
            with io.create_segmentation(work.path, volume.shape, facts.classes, **how) as out:
                remove_dust(
                    io.read_segmentation(raw),
                    min_diameter_A=10 * args.min_diameter,
                    out=out,
                    labels=stores.get("labels"),
                    progress=progress,
                )
        for name, file in maps.items():
            _write_map(name, work.folder / f"{name}.zarr", file, dtype, facts, volume, progress)
    return io.read_segmentation(path)


@contextmanager
def _told_of(work: Work) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if work.done:
            say(f"{work.folder} keeps what is done: the same command goes on from there")
        raise


def _compute(
    network: Any,
    volume: Volume,
    out: SegmentationWriter,
    maps: Mapping[str, Any],
    work: Work,
    args: argparse.Namespace,
    progress: Progress,
) -> None:
    """What of the network's part is not stored yet."""
    from ..inference import segment

    first = work.done.get(_SLICES, 0)
    if first:
        say(f"resuming {work.folder}: {first} of {volume.shape[0]} slices are there")
    if first == volume.shape[0]:
        return
    segment(
        network,
        volume,
        tile=args.tile,
        overlap=args.overlap,
        blend=args.blend,
        tta=args.tta,
        rescale=args.rescale,
        leave_out_slices=args.leave_out_slices,
        out=_Marked(out, work),
        maps=maps,
        batch=getattr(args, "tile_batch", "auto"),
        precision=getattr(args, "tile_precision", "auto"),
        device=args.device,
        first_slice=first,
        progress=progress,
    )


class _Marked:
    """A store that notes after each write how far it is."""

    def __init__(self, out: SegmentationWriter, work: Work) -> None:
        self._out, self._work = out, work
        self.shape, self.dtype, self.chunks = out.shape, out.dtype, out.chunks

    def __setitem__(self, key: tuple[slice, ...], value: Any) -> None:
        self._out[key] = value
        self._work.mark(_SLICES, key[1].stop)


def _identity(
    model: Path, volume: Volume, args: argparse.Namespace, dtype: str, maps: Mapping[str, Path]
) -> dict[str, Any]:
    """What a resumed run must have in common with the interrupted one."""
    import hashlib

    # In `cryoet run`, the folder around this one knows its tomograms.
    tomogram = getattr(args, "tomogram", None)
    return {
        "tomogram": file_identity(tomogram) if isinstance(tomogram, str) else None,
        "fill": getattr(args, "fill", None),
        "shape": volume.shape,
        "voxel size": volume.voxel_size_A,
        "network": hashlib.sha256((model / "model.json").read_bytes()).hexdigest(),
        "tile": args.tile,
        "overlap": args.overlap,
        "blend": args.blend,
        "batch": getattr(args, "tile_batch", "auto"),
        "precision": getattr(args, "tile_precision", "auto"),
        "test-time augmentation": args.tta,
        "rescaling": args.rescale,
        "slices left out": args.leave_out_slices,
        "smallest diameter": args.min_diameter,
        "type": dtype,
        "maps": sorted(maps),
        "version": __version__,
    }


def _write_map(
    name: str, store: Path, file: Path, dtype: str, facts: ModelInfo, volume: Volume, progress: Progress
) -> None:
    from .. import io
    from ..volume import Volume

    notes = (*map_notes(name, file, dtype, facts.classes), *volume.notes)
    made = Volume(io.read_volume(store).data, **volume.grid() | {"notes": notes})
    io.write(file, made, dtype=map_type(name, file, dtype, len(facts.classes)), progress=progress)


def run(args: argparse.Namespace) -> None:
    """A tomogram and a network in, a soft segmentation out."""
    from ..inference import choose_devices

    output = need_suffix(args.output, (".zarr",))
    files = {"labels": (args.labels_out, "--labels-out"), "variance": (args.variance_out, "--variance-out")}
    maps = {name: need_suffix(file, (".mrc", ".zarr"), option) for name, (file, option) in files.items() if file}
    if args.variance_out and args.tta == "none":
        fix = "choose --tta mirror, turn or all"
        raise input_error("--variance-out", "option", expected="--tta with it", got="none", fix=fix)
    guard_outputs([output, *maps.values()], [args.tomogram, args.model])
    choose_devices(args.device, where="--device")
    volume = open_tomogram(args)
    with Bars() as bars:
        made = predict(Path(args.model), volume, output, args, dtype=args.dtype, maps=maps, progress=bars)
    say(f"{output}: soft segmentation of {', '.join(made.classes)}")
