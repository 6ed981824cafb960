# SPDX-License-Identifier: MIT
"""Float64 oracles of projection and back-projection, written from their formulas; imports nothing of ours.

Slow and plain on purpose: a loop over views, planes and pixels, with np.interp beyond whose ends stands a zero.
"""

from __future__ import annotations

import numpy as np


def _interpolated(samples, positions):
    """Rows of `samples` (n, y) at real positions, zero from one interval beyond the ends on: (position, y)."""
    n, positions = len(samples), np.asarray(positions, np.float64)
    wide = np.concatenate([np.zeros_like(samples[:1]), samples, np.zeros_like(samples[:1])])
    grid = np.arange(-1, n + 1)
    return np.stack([np.interp(positions, grid, column, left=0, right=0) for column in wide.T], axis=-1)


def _angle(degrees):
    """Cosine and sine; numpy's are not zero at 90 degrees."""
    radians = np.deg2rad(degrees)
    return (0.0 if abs(degrees) == 90 else np.cos(radians)), np.sin(radians)


def project(volume, angles_deg, width):
    """Joseph 1982: sum over planes of the interpolated value times the ray's length between them: (view, y, u)."""
    v = np.asarray(volume, np.float64)
    nz, ny, nx = v.shape
    u = np.arange(width) - (width - 1) / 2
    views = np.zeros((len(angles_deg), ny, width))
    for view, degrees in zip(views, angles_deg, strict=True):
        c, s = _angle(degrees)
        if abs(degrees) <= 45:
            for k in range(nz):
                x = (u - (k - (nz - 1) / 2) * s) / c + (nx - 1) / 2
                view += _interpolated(v[k].T, x).T / abs(c)
        else:
            for k in range(nx):
                z = (u - (k - (nx - 1) / 2) * c) / s + (nz - 1) / 2
                view += _interpolated(v[:, :, k], z).T / abs(s)
    return views


def back_project(views, angles_deg, shape):
    """The sum of all views, each interpolated where a voxel falls: (z, y, x)."""
    views = np.asarray(views, np.float64)
    nz, _, nx = shape
    width = views.shape[2]
    x = np.arange(nx) - (nx - 1) / 2
    out = np.zeros(shape)
    for view, degrees in zip(views, angles_deg, strict=True):
        c, s = _angle(degrees)
        for k in range(nz):
            u = x * c + (k - (nz - 1) / 2) * s + (width - 1) / 2
            out[k] += _interpolated(view.T, u).T
    return out
