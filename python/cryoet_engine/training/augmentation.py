# SPDX-License-Identifier: MIT
"""Variations of patches, computed for a whole batch at once on the device where it lies.

What is random comes from the numpy generator that is handed in, so that a batch is a function of its number alone. All
numbers are drawn for every patch, wanted or not: what one option does to a patch does not hang on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ._fields import check_field

BoolArray: TypeAlias = npt.NDArray[np.bool_]
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]

_Z, _Y, _X = -3, -2, -1
_TILT_DEG = (40.0, 60.0)  # tilt ranges that a further wedge leaves, from +- the first to +- the second
_ELASTIC_SPACING = 16  # voxels between control points
_ELASTIC_MOST = 6.0
_GAIN_SPACING = 0.125  # cycles/voxel between control points of a spectrum's gain
_CORNER = math.sqrt(3) / 2  # of Fourier space, in cycles/voxel
_GAIN_KNOTS = math.ceil(_CORNER / _GAIN_SPACING) + 3
_GAIN_STEPS = 256  # entries of the gain's table, from zero to the corner


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How patches are varied, each at random, so that a network holds on tomograms of another microscope session.

    0 or False switches one off, and patches keep every bit. What does not say how often it happens, happens to every
    second patch, by chance.

    flips: mirror z, y, x, each. turns: 90 degrees about z (with the mirrors: all eight in-plane orientations).
    rotation_deg, zoom, elastic: every second patch is resampled once, by all three. What comes from outside it is
        reflected, and unlabelled.
        rotation_deg: largest angle about z, the beam, as tilt axes lie at any angle in a slice. About y or x the
            missing wedge would turn to where no microscope puts it.
        zoom: largest relative change of scale: another voxel size.
        elastic: bound of a smooth displacement along each axis, in voxels (its rms is 0.19 of it).
    noise: largest standard deviation of added white noise, in units of the tomogram's own.
    blur: largest sigma, in voxels, of a Gaussian with which the patch is smoothed or sharpened: another defocus.
    missing_wedge: share of patches of which a further wedge is removed in Fourier space: |kz| > |kx| tan(t), t from 40
        to 60 degrees. The beam is along z, the tilt axis along y, as in `simulate`; patches are turned after it.
    fourier_amplitude: largest relative change of the amplitude at any spatial frequency, by a smooth random gain:
        another microscope's transfer function, dose and filter.
    contrast, brightness: largest relative change of scale, and shift in standard deviations, of every patch: another
        grey scale.
    gamma: largest relative change of the exponent of a power law between the patch's extremes.

    After noise, blur, wedge, amplitudes and resampling a patch gets back its deviation, as normalisation would see to.

    The missing wedge and other tomograms' amplitudes as augmentation are those of MemBrain-seg (Lamm et al. 2024,
    bioRxiv 2024.01.05.574336), amplitudes after Yang and Soatto 2020 (FDA); here the other spectrum is drawn, not
    measured, so that one tomogram is enough.
    """

    flips: bool = True
    turns: bool = True
    rotation_deg: float = 0.0
    zoom: float = 0.0
    elastic: float = 0.0
    noise: float = 0.15
    blur: float = 0.6
    missing_wedge: float = 0.0
    fourier_amplitude: float = 0.0
    contrast: float = 0.15
    brightness: float = 0.1
    gamma: float = 0.1

    def __post_init__(self) -> None:
        for name in ("flips", "turns"):
            check_field(self, name, bool, 0, 1)
        for name in ("noise", "blur", "fourier_amplitude", "contrast", "brightness", "gamma"):
            check_field(self, name, float, 0, 10)
        check_field(self, "rotation_deg", float, 0, 180)
        check_field(self, "zoom", float, 0, 1)
        # Control points may move by 0.403 of their distance before space can fold (Choi and Lee 2000, 3D).
        check_field(self, "elastic", float, 0, _ELASTIC_MOST)
        check_field(self, "missing_wedge", float, 0, 1)


def augment(x: Tensor, target: Tensor, options: Augmentation, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Vary normalised patches x (batch, 1, z, y, x) and, where they are moved, their targets: classes
    (batch, z, y, x), -1 unlabelled, or probabilities (batch, class, z, y, x), all zero where unlabelled.
    """
    coins = rng.random((6, len(x)))
    wedged = coins[0] < options.missing_wedge
    resampling = max(options.rotation_deg, options.zoom, options.elastic)
    strengths = np.array([options.fourier_amplitude, resampling, options.blur, options.noise, options.gamma])
    coloured, resampled, blurred, noisy, bent = (coins[1:] < 0.5) & (strengths[:, None] > 0)
    before, _ = _spread(x)
    x, target = x.clone(), target.clone()
    x = _filter(x, wedged, coloured, options, rng)  # first: the wedge lies as the microscope puts it
    x, target = _flip_and_turn(x, target, options, rng)
    x, target = _resample(x, target, resampled, options, rng)
    x = _blur(x, blurred, options, rng)
    x = _add_noise(x, noisy, options, rng)
    changed = wedged | coloured | resampled | blurred | noisy
    x = _where(changed, x, lambda part, chosen: _with_spread(part, before[chosen]))
    x = _bend(x, bent, options, rng)
    scale, shift = np.exp(rng.uniform(-1, 1, len(x)) * np.log1p(options.contrast)), rng.uniform(-1, 1, len(x))
    if options.contrast or options.brightness:
        x = x * _each(scale, x) + _each(shift * options.brightness, x)
    return x, target


def _where(on: BoolArray, x: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The patches that are `on` changed, all at once, and the others as they are; in place.

    change: gets the chosen patches and their numbers.
    """
    if not on.any():
        return x
    chosen = _sent(np.flatnonzero(on), x.device)
    return x.index_copy_(0, chosen, change(x.index_select(0, chosen), chosen))


def _each(values: npt.NDArray[Any], x: Tensor) -> Tensor:
    """Numbers (n,) to multiply patches (n, 1, z, y, x) by."""
    return _sent(values.astype(np.float32), x.device).view(-1, 1, 1, 1, 1)


def _sent(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A small array on a device. Not blocking: else each of them, some twenty a step, would wait for all that the card
    has to do. The driver takes a copy before it returns, so that the array may go.
    """
    return torch.from_numpy(values).to(device, non_blocking=True)


def _spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each patch's standard deviation (n, 1, 1, 1, 1) and mean; several times quicker than `Tensor.std`."""
    axes = (1, 2, 3, 4)
    mean = x.mean(axes, keepdim=True)
    return (x - mean).square_().mean(axes, keepdim=True).sqrt(), mean


def _with_spread(x: Tensor, deviation: Tensor) -> Tensor:
    """Patches brought to a standard deviation, about their means."""
    now, mean = _spread(x)
    return mean + (x - mean) * (deviation / now.clamp_min(1e-6))


def _filter(
    x: Tensor, wedged: BoolArray, coloured: BoolArray, options: Augmentation, rng: np.random.Generator
) -> Tensor:
    """Remove a wedge and change the amplitudes in one transform.

    Patches are continued by their mirror images, so that the transform's periodicity brings no edges; both filters are
    the same in the mirror.
    """
    tilt = np.radians(rng.uniform(*_TILT_DEG, len(x)))
    knots = rng.uniform(-1, 1, (len(x), _GAIN_KNOTS)) * np.log1p(options.fourier_amplitude)
    on = wedged | coloured
    cos, sin = np.where(wedged, np.cos(tilt), 0.0)[on], np.sin(tilt)[on]
    knots = np.where(coloured[:, None], knots, 0.0)[on]

    def change(part: Tensor, _: Tensor) -> Tensor:
        mirrored = part
        for axis in (_Z, _Y, _X):
            mirrored = torch.cat([mirrored, mirrored.flip(axis)], axis)
        spectrum = torch.fft.rfftn(mirrored, dim=(_Z, _Y, _X))
        depth, height, width = mirrored.shape[_Z:]
        kz = torch.fft.fftfreq(depth, device=x.device)[:, None, None]
        ky, kx = torch.fft.fftfreq(height, device=x.device)[:, None], torch.fft.rfftfreq(width, device=x.device)
        if wedged.any():
            spectrum *= kz.abs() * _each(cos, x) <= kx * _each(sin, x)
        if coloured.any():
            spectrum *= _gain(knots, (kz * kz + ky * ky + kx * kx).sqrt())
        filtered: Tensor = torch.fft.irfftn(spectrum, (depth, height, width), dim=(_Z, _Y, _X))
        return filtered[..., : depth // 2, : height // 2, : width // 2]

    return _where(on, x, change)


def _gain(knots: FloatArray, radius: Tensor) -> Tensor:
    """A smooth gain (n, 1, z, y, x) of amplitudes by their radius in Fourier space, from control points of its log."""
    step = _CORNER / (_GAIN_STEPS - 1)
    table = np.exp(knots @ _splines(np.arange(_GAIN_STEPS) * step / _GAIN_SPACING, _GAIN_KNOTS).T)
    gain = _sent(table.astype(np.float32), radius.device)[:, (radius / step).round().long()]
    gain[:, 0, 0, 0] = 1  # the mean stays: brightness is another option
    return gain[:, None]


def _flip_and_turn(x: Tensor, target: Tensor, options: Augmentation, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mirror and turn by 90 degrees about z, exactly. A turn needs a patch as long in y as in x."""
    moves = rng.random((len(x), 4)) < 0.5
    moves &= np.array([options.flips] * 3 + [options.turns and x.shape[_Y] == x.shape[_X]])
    for move in np.unique(moves, axis=0):  # the patches that move alike, together
        axes = [axis for axis, flipped in zip((_Z, _Y, _X), move, strict=False) if flipped]
        change = partial(_oriented, axes=axes, turned=bool(move[3]), mirrored=options.flips)
        on = (moves == move).all(1) & move.any()
        x, target = _where(on, x, change), _where(on, target, change)
    return x, target


def _oriented(patches: Tensor, _: Tensor, *, axes: list[int], turned: bool, mirrored: bool) -> Tensor:
    if turned:
        # With both mirrors a transposition gives all eight orientations; without them, a true turn is needed.
        patches = patches.transpose(_Y, _X) if mirrored else patches.rot90(1, (_Y, _X))
    return patches.flip(axes) if axes else patches


def _resample(
    x: Tensor, target: Tensor, on: BoolArray, options: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Turn about z, zoom and deform in one interpolation."""
    counts = [math.ceil(n / _ELASTIC_SPACING) + 3 for n in x.shape[_Z:]]
    angle = np.radians(rng.uniform(-1, 1, len(x)) * options.rotation_deg)
    scale = np.exp(rng.uniform(-1, 1, len(x)) * np.log1p(options.zoom))
    knots = rng.uniform(-1, 1, (len(x), 3, *counts)) * options.elastic
    if not on.any():
        return x, target
    at = _positions(x, angle[on], scale[on], knots[on] if options.elastic else None)
    return _where(on, x, lambda part, _: _voxels_at(part, at)), _where(
        on, target, lambda part, _: _targets_at(part, at)
    )


def _positions(x: Tensor, angle: FloatArray, scale: FloatArray, knots: FloatArray | None) -> Tensor:
    """Where the voxels of resampled patches come from, as `grid_sample` wants it: (n, z, y, x, 3), x first, -1 to 1.

    angle: in radians, about z. scale: of the patch's content. knots: control points of the displacement (n, 3 for z, y
    and x, and their grid), in voxels, or None.
    """
    shape = x.shape[_Z:]
    z, y, x_ = torch.meshgrid(
        *[torch.arange(n, dtype=torch.float32, device=x.device) - (n - 1) / 2 for n in shape], indexing="ij"
    )
    cos, sin = _each(np.cos(angle) / scale, x)[:, 0], _each(np.sin(angle) / scale, x)[:, 0]
    source = torch.stack([z * _each(1 / scale, x)[:, 0], cos * y - sin * x_, sin * y + cos * x_], 1)
    if knots is not None:
        moved = _sent(knots.astype(np.float32), x.device)
        for n, count in zip(shape, knots.shape[2:], strict=True):  # contracts z, then y, then x, in their places
            weights = _splines((np.arange(n) + 0.5) / _ELASTIC_SPACING, count).astype(np.float32)
            moved = torch.tensordot(moved, _sent(weights, x.device), ([2], [1]))
        source += moved
    half = _sent(np.array(shape, np.float32) / 2, x.device).view(3, 1, 1, 1)
    return (source / half).flip(1).permute(0, 2, 3, 4, 1)


def _voxels_at(x: Tensor, at: Tensor) -> Tensor:
    return F.grid_sample(x, at, "bilinear", "reflection", align_corners=False)


def _targets_at(target: Tensor, at: Tensor) -> Tensor:
    """Targets at positions: the nearest class, or interpolated probabilities where most of the weight is labelled."""
    if target.dim() == 4:
        counted = (target + 1).float()[:, None]  # so that unlabelled is the zero that lies outside
        nearest = F.grid_sample(counted, at, "nearest", "zeros", align_corners=False)[:, 0]
        return nearest.to(target.dtype) - 1
    soft = F.grid_sample(target, at, "bilinear", "zeros", align_corners=False)
    total = soft.sum(1, keepdim=True)
    return torch.where(total > 0.5, soft / total.clamp_min(0.5), 0.0)


def _splines(positions: FloatArray, count: int) -> FloatArray:
    """Weights of uniform cubic B-splines (positions, count); control point 1 lies at position 0, 2 at 1, and so on.

    They are positive and add up to one: what they interpolate stays within the control points' range.
    """
    cell = np.minimum(np.floor(positions).astype(int), count - 4)
    t = positions - cell
    weights = np.zeros((len(positions), count))
    rows = np.arange(len(positions))
    cubics = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, cubic in enumerate(cubics):
        weights[rows, cell + k] = cubic / 6
    return weights


def _blur(x: Tensor, on: BoolArray, options: Augmentation, rng: np.random.Generator) -> Tensor:
    sigma, amount = rng.uniform(0.5, max(options.blur, 0.5), len(x)), rng.uniform(-1, 0.5, len(x))

    def change(part: Tensor, _: Tensor) -> Tensor:
        smooth = _gaussian(part, sigma[on])
        return smooth + _each(1 + amount[on], x) * (part - smooth)  # amount -1: smoothed; above 0: sharpened

    return _where(on, x, change)


def _gaussian(x: Tensor, sigma: FloatArray) -> Tensor:
    """Smooth (n, 1, z, y, x), each by its own sigma, cut at three of it.

    Three passes of shifted sums are quicker than convolutions of one channel.
    """
    radius = (3 * sigma + 0.5).astype(int)
    widest = int(radius.max())
    offsets = np.arange(-widest, widest + 1)
    taps = np.where(np.abs(offsets) <= radius[:, None], np.exp(-0.5 * (offsets / sigma[:, None]) ** 2), 0.0)
    taps /= taps.sum(1, keepdims=True)
    factors = [_each(column, x) for column in taps.T]
    x = F.pad(x, (widest,) * 6, mode="replicate")
    for axis in (_Z, _Y, _X):
        length = x.shape[axis] - 2 * widest
        out = x.narrow(axis, 0, length) * factors[0]
        for k, factor in enumerate(factors[1:], 1):
            out.addcmul_(x.narrow(axis, k, length), factor)
        x = out
    return x


def _add_noise(x: Tensor, on: BoolArray, options: Augmentation, rng: np.random.Generator) -> Tensor:
    generator = torch.Generator(device=x.device).manual_seed(int(rng.integers(2**63)))
    strength = rng.uniform(0, options.noise, len(x))

    def change(part: Tensor, _: Tensor) -> Tensor:
        return part + _each(strength[on], x) * torch.randn(part.shape, generator=generator, device=x.device)

    return _where(on, x, change)


def _bend(x: Tensor, on: BoolArray, options: Augmentation, rng: np.random.Generator) -> Tensor:
    """A power law between each patch's extremes."""
    exponent = np.exp(rng.uniform(-1, 1, len(x)) * np.log1p(options.gamma))

    def change(part: Tensor, _: Tensor) -> Tensor:
        low, high = part.amin((1, 2, 3, 4), keepdim=True), part.amax((1, 2, 3, 4), keepdim=True)
        span = (high - low).clamp_min(1e-6)
        return ((part - low) / span).clamp(0, 1) ** _each(exponent[on], x) * span + low

    return _where(on, x, change)
