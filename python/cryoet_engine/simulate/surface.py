# SPDX-License-Identifier: MIT
"""Closed surfaces that differ from spheres as vesicles do: the shapes of virions, liposomes and organelles."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from .specimen import Points, Vector, unit_vectors

_ORDERS = (2, 2, 3, 3, 4)


@dataclass(frozen=True, eq=False)
class Surface:
    """A closed surface r(n) = radius (1 + sum a_k P_l(n . u_k)): zonal harmonics of low order about random axes.

    centre: (z, y, x) in Å. radius: mean distance from it, in Å. orders (k,): l, each 2, 3 or 4. axes (k, 3): the unit
    vectors u_k. amplitudes (k,): a_k.
    """

    centre: Vector
    radius: float
    orders: tuple[int, ...]
    axes: Vector
    amplitudes: Vector

    @functools.cached_property
    def farthest_A(self) -> float:
        """Largest distance of the surface from the centre."""
        _, reach, _, _ = self._harmonics(self.centre[:, None] + spiral(400))
        return float(reach.max())

    @functools.cached_property
    def nearest_A(self) -> float:
        """Least distance of the surface from the centre."""
        _, reach, _, _ = self._harmonics(self.centre[:, None] + spiral(400))
        return float(reach.min())

    @functools.cached_property
    def area_A2(self) -> float:
        """Area of the surface."""
        directions = spiral(2000)
        _, reach, _, _ = self._harmonics(self.centre[:, None] + directions)
        _, normals = self.surface(directions)
        slant = np.sum(normals * directions, axis=0)
        return float(4 * math.pi * np.mean(reach**2 / slant))

    def signed_distance(self, points: Points) -> Points:
        """Distance (...) of points (3, ...) from the surface, positive outside, exact to first order."""
        distance, reach, lean, direction = self._harmonics(points)
        tangential = sum(w * w for w in lean) - np.square(sum(w * n for w, n in zip(lean, direction, strict=True)))
        return np.asarray((distance - reach) / np.sqrt(1 + np.maximum(tangential, 0)))

    def surface(self, directions: Vector) -> tuple[Vector, Vector]:
        """Points on the surface and outward unit normals there, (3, n), for unit directions (3, n)."""
        _, reach, _, _ = self._harmonics(self.centre[:, None] + directions)
        points = self.centre[:, None] + reach * directions
        _, _, lean, _ = self._harmonics(points)
        normals = directions - np.stack(lean) + np.sum(np.stack(lean) * directions, axis=0) * directions
        return points, normals / np.linalg.norm(normals, axis=0)

    def _harmonics(self, points: Points) -> tuple[Points, Points, list[Points], list[Points]]:
        """Distance from the centre, r(n), the gradient of r(n) before its projection, and n."""
        offset = [p - c for p, c in zip(points, self.centre.astype(points[0].dtype), strict=True)]
        distance = np.sqrt(np.maximum(sum(o * o for o in offset), 1e-4))
        direction = [o / distance for o in offset]
        reach = np.full_like(distance, self.radius)
        lean = [np.zeros_like(distance) for _ in offset]
        # Inside, the level sets shrink towards the centre; a lower bound keeps the gradient finite there.
        slope_scale = 1 / np.maximum(distance, 0.5 * self.radius)
        for order, axis, amplitude in zip(self.orders, self.axes, self.radius * self.amplitudes, strict=True):
            value, slope = _legendre(order, sum(float(a) * n for a, n in zip(axis, direction, strict=True)))
            reach += float(amplitude) * value
            slope *= float(amplitude) * slope_scale
            for w, a in zip(lean, axis, strict=True):
                w += slope * float(a)
        return distance, reach, lean, direction


def _legendre(order: int, x: Points) -> tuple[Points, Points]:
    """P_order(x) and its derivative, for order 2, 3 or 4."""
    square = x * x  # a power of four would be taken by logarithms
    if order == 2:
        return 1.5 * square - 0.5, 3 * x
    if order == 3:
        return (2.5 * square - 1.5) * x, 7.5 * square - 1.5
    return ((35 * square - 30) * square + 3) / 8, (17.5 * square - 7.5) * x


def random_harmonics(rng: Generator, deformation: float) -> tuple[tuple[int, ...], Vector, Vector]:
    """Orders, axes and amplitudes of a `Surface`; deformation: root mean square deviation from a sphere, a share."""
    orders = np.array(_ORDERS)
    amplitudes = rng.normal(0, 1, len(orders)) / (orders - 1)
    # The mean square of P_l over the sphere is 1 / (2 l + 1).
    amplitudes *= deformation / math.sqrt(np.sum(amplitudes**2 / (2 * orders + 1)))
    return _ORDERS, unit_vectors(rng, len(orders)).T, amplitudes


@functools.cache
def spiral(n: int) -> Vector:
    """Unit vectors (3, n) that cover the sphere evenly, as a sunflower's seeds do its disc."""
    turn = np.arange(n) * math.pi * (3 - math.sqrt(5))
    z = (2 * np.arange(n) + 1) / n - 1
    directions = np.stack([z, np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn)])
    directions.setflags(write=False)
    return directions
