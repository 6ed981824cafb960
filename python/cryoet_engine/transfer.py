# SPDX-License-Identifier: MIT
"""From probabilities to opacity: one ramp a class and one on the raw volume (paper 1, section 5.1).

The left end of a class's ramp is the mean over slices of an automatic threshold (Algorithm 1); the right end is 1.
The raw volume is inverted where protein is dark, low-passed and brought to 0..1 before its own ramp.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ._checks import file_error, input_error
from ._progress import Progress, silent
from .io import partial_path
from .tiling import blocks
from .volume import Float32Array, SoftSegmentation, Triple, Volume

Protein = Literal["dark", "bright"]

#: Ramps by name: left and right end as shares of the way from a ramp's left end to 1 (below 0: towards 0), opacity.
PRESETS: dict[str, tuple[float, float, float]] = {
    "automatic": (0.0, 1.0, 1.0),
    "soft": (-0.5, 1.0, 1.0),
    "solid": (0.0, 0.35, 1.0),
    "surface": (0.3, 0.5, 1.0),
    "translucent": (0.0, 1.0, 0.25),
}

_VERSION = 1
_SLAB = 32  # slices read at once: chunked stores are decompressed once, and memory stays flat
_RAW_SAMPLES = 1_000_000  # voxels looked at to place the raw ramp: percentiles are then good to 0.1 %


def _in_range(where: str, name: str, value: float, low: float, high: float) -> None:
    # bool is an int to Python, but True is no opacity anyone meant.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise input_error(where, name, expected=f"a number from {low:g} to {high:g}", got=repr(value))


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """Opacity of one class: r(p) = clip((p - left) / (right - left), 0, 1) * opacity (paper 1, equation 1).

    left, right: probabilities, 0 <= left < right <= 1.
    color: linear RGB, 0..1.
    visible: a hidden class neither shows, nor occludes, nor casts a shadow.
    opacity: factor 0..1 on the ramp.
    """

    left: float
    right: float = 1.0
    color: Triple = (0.8, 0.8, 0.8)
    visible: bool = True
    opacity: float = 1.0

    def __post_init__(self) -> None:
        _in_range("Ramp", "left", self.left, 0.0, 1.0)
        _in_range("Ramp", "right", self.right, 0.0, 1.0)
        _in_range("Ramp", "opacity", self.opacity, 0.0, 1.0)
        if self.left >= self.right:
            raise input_error("Ramp", "left, right", expected="left < right", got=(self.left, self.right))
        if not isinstance(self.visible, bool):
            raise input_error("Ramp", "visible", expected="true or false", got=repr(self.visible))
        if not isinstance(self.color, list | tuple) or len(self.color) != 3:
            raise input_error("Ramp", "color", expected="three numbers 0..1 (linear RGB)", got=self.color)
        for value in self.color:
            _in_range("Ramp", "color", value, 0.0, 1.0)
        object.__setattr__(self, "color", tuple(float(value) for value in self.color))

    def __call__(self, probability: npt.ArrayLike) -> Float32Array:
        """Opacity of probabilities 0..1, any shape."""
        p = np.asarray(probability, np.float32)
        ramp: Float32Array = np.clip((p - np.float32(self.left)) / np.float32(self.right - self.left), 0, 1)
        return ramp * np.float32(self.opacity)


@dataclass(frozen=True, kw_only=True)
class RawRamp:
    """Opacity of the raw volume: low-passed, mapped linearly so that `at_zero` -> 0 and `at_one` -> 1, then a ramp.

    low_pass_sigma_vox: Gaussian sigma in voxels (0: none).
    at_zero, at_one: grey values of the low-passed volume; where protein is dark at_one lies below at_zero, and
        that is the whole of the inversion.
    left, right: the ramp's ends on the mapped value, as for a class.
    """

    low_pass_sigma_vox: float
    at_zero: float
    at_one: float
    left: float = 0.0
    right: float = 1.0

    def __post_init__(self) -> None:
        _in_range("RawRamp", "low_pass_sigma_vox", self.low_pass_sigma_vox, 0.0, 20.0)
        for name in ("at_zero", "at_one"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise input_error("RawRamp", name, expected="a finite number", got=repr(value))
        if self.at_zero == self.at_one:
            raise input_error("RawRamp", "at_zero, at_one", expected="two different grey values", got=self.at_one)
        _in_range("RawRamp", "left", self.left, 0.0, 1.0)
        _in_range("RawRamp", "right", self.right, 0.0, 1.0)
        if self.left >= self.right:
            raise input_error("RawRamp", "left, right", expected="left < right", got=(self.left, self.right))

    @property
    def protein(self) -> Protein:
        """Which way the contrast runs."""
        return "dark" if self.at_one < self.at_zero else "bright"

    @property
    def halo(self) -> int:
        """Voxels that `mapped` needs around a block for the block to equal the same part of the whole."""
        return _low_pass_radius(self.low_pass_sigma_vox)

    def mapped(self, block: Float32Array) -> Float32Array:
        """Low-pass a block (z, y, x) of raw voxels and map it to 0..1; non-finite voxels count as `at_zero`."""
        finite = np.nan_to_num(block, nan=self.at_zero, posinf=self.at_zero, neginf=self.at_zero)
        smooth = _low_pass(finite, self.low_pass_sigma_vox)
        grey: Float32Array = (smooth - np.float32(self.at_zero)) / np.float32(self.at_one - self.at_zero)
        return np.clip(grey, 0, 1, out=grey)


def _low_pass_radius(sigma_vox: float) -> int:
    return math.ceil(3.0 * sigma_vox)


def _low_pass(block: Float32Array, sigma_vox: float) -> Float32Array:
    if sigma_vox == 0:
        return block
    radius = _low_pass_radius(sigma_vox)
    smooth: Float32Array = ndimage.gaussian_filter(block, sigma_vox, mode="nearest", radius=radius)
    return smooth


def automatic_threshold(histogram: npt.ArrayLike) -> float | None:
    """Threshold in 0..1 of one slice from its 256-bin histogram (paper 1, Algorithm 1: Ridler and Calvard).

    None for a slice of one value only: it has no foreground to separate. Otherwise at least one voxel lies below
    the threshold and one at or above it, whatever the histogram: the printed algorithm divides by zero when the
    rounded mean is the lowest value, as it is where the foreground covers less than 0.2 % of a slice.
    """
    counts = np.asarray(histogram, np.float64)
    if counts.shape != (256,):
        raise input_error("automatic_threshold", "histogram", expected="256 bins", got=f"shape {counts.shape}")
    occupied = np.flatnonzero(counts)
    if occupied.size < 2:
        return None
    lowest, highest = int(occupied[0]), int(occupied[-1])
    number = np.concatenate([[0.0], np.cumsum(counts)])
    mass = np.concatenate([[0.0], np.cumsum(counts * np.arange(256))])

    def rounded(value: float) -> int:
        return min(max(math.floor(value + 0.5), lowest + 1), highest)

    level, previous = rounded(mass[-1] / number[-1]), -1
    # Both means grow with the level, so the levels run one way only, over 255 values: the loop ends.
    while level != previous:
        below = mass[level] / number[level]
        above = (mass[-1] - mass[level]) / (number[-1] - number[level])
        previous, level = level, rounded((below + above) / 2)
    return level / 255.0


def _bytes_of(plane: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Probabilities as stored (uint8, uint16 or float32) on 256 levels, rounded to nearest; NaN counts as 0."""
    if plane.dtype == np.uint8:
        return np.asarray(plane, np.uint8)
    if plane.dtype == np.uint16:
        return np.asarray((plane.astype(np.uint32) + 128) // 257, np.uint8)
    finite = np.nan_to_num(plane.astype(np.float32), nan=0.0)
    return np.asarray(np.rint(np.clip(finite, 0, 1) * np.float32(255)), np.uint8)


def _slabs(depth: int, thickness: int = _SLAB) -> Iterable[slice]:
    return (slice(z, min(z + thickness, depth)) for z in range(0, depth, thickness))


def histograms(segmentation: SoftSegmentation) -> npt.NDArray[np.int64]:
    """Voxels at each of 256 probabilities 0..1, (class, 256), read slab by slab; NaN counts as 0."""
    counts = np.zeros((len(segmentation.classes), 256), np.int64)
    for slab in _slabs(segmentation.shape[0]):
        for index, planes in enumerate(np.asarray(segmentation.data[:, slab, :, :])):
            counts[index] += np.bincount(_bytes_of(planes).ravel(), minlength=256)
    return counts


def _class_thresholds(
    segmentation: SoftSegmentation, foreground: float, progress: Progress
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Per class and slice: the threshold (NaN: none), and whether a voxel reaches the foreground's probability."""
    depth = segmentation.shape[0]
    thresholds = np.full((len(segmentation.classes), depth), np.nan)
    has_foreground = np.zeros(thresholds.shape, bool)
    for slab in _slabs(depth):
        data = np.asarray(segmentation.data[:, slab, :, :])
        for index, planes in enumerate(data):
            for z, plane in enumerate(planes, slab.start):
                histogram = np.bincount(_bytes_of(plane).ravel(), minlength=256)
                threshold = automatic_threshold(histogram)
                thresholds[index, z] = np.nan if threshold is None else threshold
                has_foreground[index, z] = histogram[math.ceil(255 * foreground) :].any()
        progress("thresholds", slab.stop, depth)
    return thresholds, has_foreground


def _left_limit(thresholds: npt.NDArray[np.float64], has_foreground: npt.NDArray[np.bool_]) -> float | None:
    """Mean over the slices that vote; None when none does."""
    defined = np.isfinite(thresholds)
    # A slice in which the class is nowhere likely would vote for the noise in its background.
    voting = defined & has_foreground
    if not voting.any():
        voting = defined
    return min(float(thresholds[voting].mean()), 0.99) if voting.any() else None


def _estimate_raw(
    segmentation: SoftSegmentation,
    volume: Volume,
    ramps: Sequence[Ramp],
    protein: Protein,
    low_pass_sigma_vox: float,
    progress: Progress,
) -> RawRamp:
    """Where the raw volume's ramp lies, from an even sample of its low-passed voxels.

    It spans what the visible classes are made of, from their 2nd percentile (0) to their 75th (1). A threshold over
    the whole volume, as for the classes, would rub out whichever of them is the palest (the lumen, on real data):
    the classes already say what is there, the raw volume gives them their texture.
    """
    depth, height, width = volume.shape
    stride = max(1, round((depth * height * width / _RAW_SAMPLES) ** (1 / 3)))
    slab = max(_SLAB // stride, 1) * stride
    inner = (slice(None, None, stride),) * 3
    greys, opacities = [], []
    for block in blocks(volume.shape, (slab, height, width), _low_pass_radius(low_pass_sigma_vox)):
        voxels = volume.block(block.padded)
        finite = np.isfinite(voxels)
        if not finite.all():
            voxels = np.where(finite, voxels, voxels[finite].mean() if finite.any() else np.float32(0))
        greys.append(_low_pass(voxels, low_pass_sigma_vox)[block.inner][inner].ravel())
        stored = np.asarray(segmentation.data[(slice(None), *block.core)])[(slice(None), *inner)]
        probability = stored / np.float32(segmentation.unit)
        clear = np.ones(probability.shape[1:], np.float32)
        for ramp, values in zip(ramps, probability, strict=True):
            if ramp.visible:
                clear *= 1 - ramp(np.nan_to_num(values))
        opacities.append(1 - clear.ravel())
        progress("raw ramp", block.core[0].stop, depth)
    sign = -1.0 if protein == "dark" else 1.0
    grey = sign * np.concatenate(greys)
    visible = grey[np.concatenate(opacities) > 0.25]
    low, high = np.percentile(visible, (2, 75)) if visible.size >= 100 else np.percentile(grey, (1, 99))
    if not high > low:  # a constant volume: nothing to multiply with, so it multiplies by one
        low, high = high - 1.0, high
    return RawRamp(low_pass_sigma_vox=low_pass_sigma_vox, at_zero=float(sign * low), at_one=float(sign * high))


def _listed(name: str, content: object) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError(f"{name} that are no list")
    return content


def _made(kind: Any, name: str, content: object) -> Any:
    """A dataclass from a JSON object; TypeError, in a user's words, where the fields are not its own."""
    if not isinstance(content, dict):
        raise TypeError(f"{name} that is no object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(content) - set(fields)):
        raise TypeError(f"{name} with unknown fields: {', '.join(unknown)[:200]}")
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if missing := sorted(required - set(content)):
        raise TypeError(f"{name} without {', '.join(missing)}")
    return kind(**content)


class ThresholdFit(NamedTuple):
    """a z^2 + b z + c over slices z, and the share of the thresholds' variance that it explains."""

    coefficients: tuple[float, float, float]
    r_squared: float


@dataclass(frozen=True, kw_only=True)
class TransferFunction:
    """What the renderer reads: a ramp a class, and one on the raw volume.

    classes: names, in the segmentation's order.
    ramps: one a class.
    raw: the ramp on the raw volume; None multiplies by nothing.
    thresholds: per class, the threshold of every slice in 0..1 (NaN where a slice has none), for a figure.
    """

    classes: tuple[str, ...]
    ramps: tuple[Ramp, ...]
    raw: RawRamp | None = None
    thresholds: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "ramps", tuple(self.ramps))
        if not self.classes or len(self.classes) != len(self.ramps):
            raise input_error(
                "TransferFunction",
                "ramps",
                expected=f"{len(self.classes)} (one a class)",
                got=len(self.ramps),
            )

    @classmethod
    def estimate(
        cls,
        segmentation: SoftSegmentation,
        volume: Volume | None = None,
        *,
        protein: Protein = "dark",
        low_pass_sigma_vox: float = 1.0,
        hidden: Sequence[str] = ("background",),
        foreground: float = 0.5,
        progress: Progress = silent,
    ) -> TransferFunction:
        """Ramps from the data, read slab by slab (paper 1, section 5.1).

        segmentation: probabilities, (class, z, y, x).
        volume: the raw tomogram, same (z, y, x); with it the raw volume gets a ramp too.
        protein: "dark" or "bright" in that tomogram.
        low_pass_sigma_vox: Gaussian sigma of its low-pass, voxels.
        hidden: names of classes that are not drawn.
        foreground: a slice votes for a class only where some voxel of it reaches this probability (unless no
            slice does); constant slices never vote.

        A class with no vote at all has left = 0.5, and is hidden if it is never predicted.
        Raises InputError where shapes differ or `protein` is neither.
        """
        if protein not in ("dark", "bright"):
            raise input_error("TransferFunction.estimate", "protein", expected='"dark" or "bright"', got=protein)
        _in_range("TransferFunction.estimate", "low_pass_sigma_vox", low_pass_sigma_vox, 0.0, 20.0)
        _in_range("TransferFunction.estimate", "foreground", foreground, 0.0, 1.0)
        thresholds, has_foreground = _class_thresholds(segmentation, foreground, progress)
        hidden_names = {name.lower() for name in hidden}
        ramps = []
        for index, name in enumerate(segmentation.classes):
            left = _left_limit(thresholds[index], has_foreground[index])
            # A class that fills its slices evenly has no threshold, and yet it is there.
            found = left is not None or bool(has_foreground[index].any())
            visible = found and name.lower() not in hidden_names
            color = segmentation.colors[index]
            ramps.append(Ramp(left=0.5 if left is None else left, color=color, visible=visible))
        raw = None
        if volume is not None:
            if volume.shape != segmentation.shape:
                raise input_error(
                    "TransferFunction.estimate",
                    "volume",
                    expected=f"shape {segmentation.shape} as the segmentation",
                    got=volume.shape,
                )
            raw = _estimate_raw(segmentation, volume, ramps, protein, low_pass_sigma_vox, progress)
        return cls(
            classes=segmentation.classes,
            ramps=tuple(ramps),
            raw=raw,
            thresholds=tuple(tuple(float(value) for value in row) for row in thresholds),
        )

    def ramp(self, name: str) -> Ramp:
        """The ramp of a class by name."""
        return self.ramps[self._index(name)]

    def with_ramp(self, name: str, **changes: Any) -> TransferFunction:
        """A copy in which one class's ramp has other fields, such as left=0.3 or visible=False."""
        index = self._index(name)
        ramps = list(self.ramps)
        ramps[index] = dataclasses.replace(ramps[index], **changes)
        return dataclasses.replace(self, ramps=tuple(ramps))

    def with_preset(self, name: str) -> TransferFunction:
        """A copy in which every visible ramp has a shape of `PRESETS`, from the left end a that it has now.

        automatic: a to 1. soft: a / 2 to 1. solid: opaque 35 % of the way from a to 1 on. surface: a thin layer,
        from 30 to 50 % of that way. translucent: as automatic, a quarter as opaque.

        Raises InputError for another name.
        """
        if name not in PRESETS:
            raise input_error("TransferFunction", "preset", expected=f"one of {', '.join(PRESETS)}", got=name)
        first, last, opacity = PRESETS[name]

        def shaped(ramp: Ramp) -> Ramp:
            a, way = ramp.left, 1 - ramp.left
            left = a * (1 + first) if first < 0 else a + first * way
            # Rounded sums may end just above 1, which no ramp may.
            return dataclasses.replace(ramp, left=left, right=min(a + last * way, 1.0), opacity=opacity)

        ramps = tuple(shaped(ramp) if ramp.visible else ramp for ramp in self.ramps)
        return dataclasses.replace(self, ramps=ramps)

    def threshold_fit(self, name: str) -> ThresholdFit | None:
        """The quadratic through a class's thresholds by slice (paper 1, section 5.1); None with fewer than four."""
        if not self.thresholds:
            return None
        values = np.array(self.thresholds[self._index(name)], float)
        known = np.flatnonzero(np.isfinite(values))
        if known.size < 4:
            return None
        coefficients = np.polyfit(known, values[known], 2)
        spread = float(((values[known] - values[known].mean()) ** 2).sum())
        rest = float(((values[known] - np.polyval(coefficients, known)) ** 2).sum())
        a, b, c = (float(v) for v in coefficients)
        return ThresholdFit((a, b, c), 1 - rest / spread if spread > 0 else 1.0)

    def _index(self, name: str) -> int:
        if name not in self.classes:
            expected = f"one of {', '.join(self.classes)}"
            raise input_error("TransferFunction", "class name", expected=expected, got=name)
        return self.classes.index(name)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, whole or not at all."""
        with partial_path(path) as partial:
            Path(partial).write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        raw = None if self.raw is None else dataclasses.asdict(self.raw)
        return {
            "kind": "cryoet-engine transfer function",
            "version": _VERSION,
            "classes": [
                {"name": name, **dataclasses.asdict(ramp)} for name, ramp in zip(self.classes, self.ramps, strict=True)
            ],
            "raw": raw,
            "thresholds": [[None if math.isnan(v) else v for v in row] for row in self.thresholds],
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TransferFunction:
        """Read JSON that `save` wrote, or that a person edited; every range is checked.

        Raises FileFormatError for another kind of file, another version, or a value out of range.
        """
        fix = "write one with TransferFunction.save"
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise file_error(path, "content", expected="JSON", got=str(error), fix=fix) from None
        except RecursionError:
            raise file_error(path, "content", expected="JSON", got="lists nested too deeply", fix=fix) from None
        except OSError as error:
            raise file_error(path, "file", expected="a readable file", got=error.strerror or error) from None
        return cls.from_json(content, path)

    @classmethod
    def from_json(cls, content: object, path: str | os.PathLike[str]) -> TransferFunction:
        """What `to_json` gave, or a person edited; `path` is the file that an error names (FileFormatError)."""
        fix = "write one with TransferFunction.save"
        if not isinstance(content, dict) or content.get("kind") != "cryoet-engine transfer function":
            raise file_error(path, "kind", expected="a cryoet-engine transfer function", got="another file", fix=fix)
        version = content.get("version")
        if isinstance(version, bool) or version != _VERSION:
            raise file_error(path, "version", expected=_VERSION, got=json.dumps(version)[:80], fix=fix)
        try:
            classes = [dict(entry) for entry in _listed("classes", content["classes"])]
            names = tuple(str(entry.pop("name")) for entry in classes)
            raw = content.get("raw")
            rows = [_listed("thresholds", row) for row in _listed("thresholds", content.get("thresholds", []))]
            return cls(
                classes=names,
                ramps=tuple(_made(Ramp, "a ramp", entry) for entry in classes),
                raw=None if raw is None else _made(RawRamp, "the raw ramp", raw),
                thresholds=tuple(tuple(math.nan if v is None else float(v) for v in row) for row in rows),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            detail = f"missing {error}" if isinstance(error, KeyError) else str(error)
            raise file_error(path, "content", expected="complete, valid ramps", got=detail, fix=fix) from None
