# SPDX-License-Identifier: MIT
"""Projection of a volume to a tilt series and back-projection, in a parallel beam about a single tilt axis.

Geometry. The beam runs along z, the tilt axis is y. At tilt t a voxel (z, x), counted from the volume's centre
((n - 1) / 2), falls on the detector at u = x cos t + z sin t, counted from the detector's middle ((width - 1) / 2); a
pixel is as long as a voxel's edge. A tilt series is a stack (view, y, u). By the central slice theorem the Fourier
transform of the view at t is that of the volume on the plane kz = kx tan t; at t = 0 it is the sum along z.

Beyond a volume and beyond a detector everything is zero: values fall off linearly over the last interval. Angles are
in degrees. Arrays on an NVIDIA card (CuPy's, torch's) are worked on there, and the answer is a CuPy array. On the CPU
`OMP_NUM_THREADS` sets the threads, by default every core; their number changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from ._checks import input_error
from .cuda import arrays
from .volume import Float32Array, Region, Volume

_LONGEST_AXIS = 1 << 20  # of csrc/voxel/projection.h


def project(
    volume: Volume | npt.NDArray[Any], tilt_angles_deg: Sequence[float] | npt.NDArray[Any], *, width: int | None = None
) -> Float32Array:
    """The views of a volume (z, y, x) at some tilt angles: (view, y, width) float32, in values times voxels.

    tilt_angles_deg: (view,), -90 to 90. width: pixels of the detector along u; None: the fewest that hold every voxel
    at every angle, with all that interpolation spreads: ceil(hypot(z, x)) + 2.

    Joseph's method (IEEE Trans. Med. Imaging 1:192, 1982): up to 45 degrees a ray is followed from plane to plane of z
    with linear interpolation along x, beyond that from plane to plane of x with interpolation along z; each value
    counts with the ray's length between planes. (Spreading each voxel over its two nearest pixels instead folds low
    frequencies back at 45 degrees: sinc^2(sqrt 2) = 4.7 % of the mean come up at 0.41 cycles a pixel.)

    Values are not looked at: NaN spreads along rays. Errors: InputError for angles, shapes and types that are none.
    """
    where = "project"
    data, angles = _array(volume, "volume", "(z, y, x)", where), _angles(tilt_angles_deg, where)
    nz, _, nx = data.shape
    wanted = math.ceil(math.hypot(nz, nx)) + 2 if width is None else width
    if not (isinstance(wanted, int | np.integer) and 1 <= wanted <= _LONGEST_AXIS):
        raise input_error(where, "width", expected=f"1 to {_LONGEST_AXIS} pixels", got=width)
    if arrays.card_array(data) is not None:
        found: Float32Array = arrays.project(data, angles, int(wanted))
        return found
    return _core.project(data, angles, int(wanted), 0)


def back_project(
    views: npt.NDArray[Any],
    tilt_angles_deg: Sequence[float] | npt.NDArray[Any],
    shape: tuple[int, int, int],
    *,
    box: Region | None = None,
) -> Float32Array:
    """For each voxel the sum of all views at its place on the detector: the region `box` of a volume, float32.

    views: (view, y, u), filtered or weighted as the reconstruction wants it: nothing is done to them here.
    tilt_angles_deg: (view,), -90 to 90. shape: (z, y, x) of the whole volume, whose middle lies over the detector's;
    its y is that of the views. box: part of it, in voxels; None: all of it. A box is the same part of the whole, bit
    for bit; since each call turns the views once, boxes of 32 planes of z and more cost least.

    A view is linearly interpolated along u. Nearly the transpose of `project`, but not exactly: rays are interpolated
    in the volume there. Values are not looked at. Errors: InputError for angles, shapes, types and boxes that are none.
    """
    where = "back_project"
    data, angles = _array(views, "views", "(view, y, u)", where), _angles(tilt_angles_deg, where)
    if len(angles) != data.shape[0]:
        raise input_error(where, "tilt_angles_deg", expected=f"one a view, {data.shape[0]}", got=len(angles))
    whole = tuple(int(n) for n in shape)
    if len(whole) != 3 or whole[1] != data.shape[1] or not 1 <= min(whole) <= max(whole) <= _LONGEST_AXIS:
        expected = f"(z, {data.shape[1]}, x), the y of the views, up to {_LONGEST_AXIS} voxels"
        raise input_error(where, "shape", expected=expected, got=tuple(shape))
    bounds = _bounds(box, whole, where)
    start, extent = tuple(a for a, _ in bounds), tuple(b - a for a, b in bounds)
    depth, height, across = whole
    z, y, x = start
    nz, ny, nx = extent
    if arrays.card_array(data) is not None:
        found: Float32Array = arrays.back_project(data, angles, (depth, height, across), (z, y, x), (nz, ny, nx))
        return found
    return _core.back_project(data, angles, (depth, height, across), (z, y, x), (nz, ny, nx), 0)


def _array(given: Any, what: str, axes: str, where: str) -> Float32Array:
    """float32 in C order, on the host or on the card where it is."""
    on_card = arrays.card_array(given)
    if on_card is not None:
        found: Float32Array = arrays.volume_on_card(on_card, where)
        return found
    data = given.numpy() if isinstance(given, Volume) else np.asarray(given)
    if data.ndim != 3 or 0 in data.shape:
        raise input_error(where, what, expected=f"{axes} with no empty axis", got=f"shape {data.shape}")
    if data.dtype.kind not in "fiub":
        raise input_error(where, what, expected="real numbers", got=data.dtype)
    if max(data.shape) > _LONGEST_AXIS:
        raise input_error(where, what, expected=f"axes of at most {_LONGEST_AXIS} samples", got=f"shape {data.shape}")
    return np.ascontiguousarray(data, dtype=np.float32)


def _angles(tilt_angles_deg: Any, where: str) -> npt.NDArray[np.float64]:
    try:
        angles = np.array(tilt_angles_deg, dtype=np.float64, order="C")
    except (TypeError, ValueError):
        angles = np.full(1, np.nan)
    # Written so that NaN fails.
    if angles.ndim != 1 or not angles.size or not (np.abs(angles) <= 90).all():
        expected = "a list of angles from -90 to 90 degrees"
        raise input_error(where, "tilt_angles_deg", expected=expected, got=tilt_angles_deg)
    return angles


def _bounds(box: Region | None, shape: tuple[int, ...], where: str) -> list[tuple[int, int]]:
    parts = (slice(None),) * 3 if box is None else tuple(box)
    bounds = []
    for part, length in zip(parts, shape, strict=False):
        first, last = part.start or 0, length if part.stop is None else part.stop
        if part.step in (None, 1) and 0 <= first < last <= length:
            bounds.append((int(first), int(last)))
    if len(parts) != 3 or len(bounds) != 3:
        got = ", ".join(f"{part.start}:{part.stop}" for part in parts)
        raise input_error(where, "box", expected=f"parts of (z, y, x) {tuple(shape)}, as 10:20", got=got)
    return bounds
