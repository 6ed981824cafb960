# SPDX-License-Identifier: MIT
"""What the renderer should show, float64, nothing of ours: rays through soft classes or a raw volume, and their light.

Points and directions are (z, y, x) in voxels whose middles are whole numbers; voxels are cubes. Opacities are of one
voxel's length. Everything is deterministic: where the renderer draws random numbers, this takes many even ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Field = Callable[[np.ndarray], np.ndarray]
"""Points (n, 3) to values (n,) or (n, 3)."""

#: Shadow lines start so far from the point that they shade: a soft surface would shade itself.
SHADOW_START = 2.0


def sample(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Trilinear interpolation of (z, y, x) at points, edges repeated."""
    base = np.floor(points).astype(int)
    weight = points - base
    total = np.zeros(len(points))
    for corner in np.ndindex(2, 2, 2):
        index = [np.clip(base[:, a] + corner[a], 0, field.shape[a] - 1) for a in range(3)]
        factor = np.prod([weight[:, a] if corner[a] else 1 - weight[:, a] for a in range(3)], axis=0)
        total += factor * field[tuple(index)]
    return total


def inside(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    return np.all((points > -0.5) & (points < np.array(shape) - 0.5), axis=1)


@dataclass(frozen=True)
class Scene:
    """Soft classes (class, z, y, x) with a ramp each, and the raw volume 0..1 they are multiplied with, or None."""

    classes: np.ndarray
    lefts: np.ndarray
    colors: np.ndarray
    raw: np.ndarray | None = None
    opacities: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.classes.shape[1:]

    def parts(self, points: np.ndarray) -> np.ndarray:
        """r_j(V_j) r_raw(V_raw) (class, n); nothing lies outside the volume."""
        values = np.stack([sample(c, points) for c in self.classes])
        left = np.asarray(self.lefts)[:, None]
        parts = np.clip((values - left) / (1 - left), 0, 1) * self.opacities * inside(self.shape, points)
        return parts if self.raw is None else parts * sample(self.raw, points)

    def opacity(self, points: np.ndarray) -> np.ndarray:
        """All classes at once (paper 1, section 5.2, corrected)."""
        return np.clip(1 - np.prod(1 - self.parts(points), axis=0), 0, 1)

    def color(self, points: np.ndarray) -> np.ndarray:
        """(n, 3): mean of the classes' colours, weighted by what each contributes."""
        parts = self.parts(points)
        return np.einsum("cn,ck->nk", parts, self.colors) / np.maximum(parts.sum(0), 1e-12)[:, None]


@dataclass(frozen=True)
class Colored:
    """A raw volume 0..1 (z, y, x) under a 1D transfer function: rows of (value, r, g, b, opacity)."""

    raw: np.ndarray
    points: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.raw.shape

    def opacity(self, points: np.ndarray) -> np.ndarray:
        value = np.interp(sample(self.raw, points), self.points[:, 0], self.points[:, 4])
        return value * inside(self.shape, points)

    def color(self, points: np.ndarray) -> np.ndarray:
        value = sample(self.raw, points)
        return np.stack([np.interp(value, self.points[:, 0], self.points[:, c]) for c in (1, 2, 3)], axis=1)


@dataclass(frozen=True)
class View:
    """eye; forward, right, up: unit vectors; half_height: of the picture at distance 1, or of all of it (parallel)."""

    eye: np.ndarray
    forward: np.ndarray
    right: np.ndarray
    up: np.ndarray
    half_height: float
    parallel: bool

    def rays(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Origins and unit directions (height * width, 3) through the pixels' middles, row by row from the top."""
        width, height = size
        u = (2 * (np.arange(width) + 0.5) / width - 1) * self.half_height * width / height
        v = (1 - 2 * (np.arange(height) + 0.5) / height) * self.half_height
        lateral = u[None, :, None] * self.right + v[:, None, None] * self.up
        origins = self.eye + (lateral if self.parallel else np.zeros_like(lateral))
        directions = self.forward + (np.zeros_like(lateral) if self.parallel else lateral)
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        return origins.reshape(-1, 3), directions.reshape(-1, 3)


def spans(shape: tuple[int, ...], origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter the volume, not before 0, and where they leave it; nowhere: leave <= enter."""
    safe = np.where(np.abs(directions) < 1e-12, 1e-12, directions)
    to_low, to_high = (-0.5 - origins) / safe, (np.array(shape) - 0.5 - origins) / safe
    enter = np.maximum(np.minimum(to_low, to_high).max(1), 0)
    return enter, np.maximum(to_low, to_high).min(1)


def samples(shape: tuple[int, ...], origins: np.ndarray, directions: np.ndarray, step: float):
    """Yields (indices of rays, t, points), front to back, in the middle of steps from where each ray enters."""
    enter, leave = spans(shape, origins, directions)
    for k in range(int(np.ceil(np.max(leave - enter, initial=0) / step))):
        t = enter + (k + 0.5) * step
        alive = np.flatnonzero(t < leave)
        yield alive, t[alive], origins[alive] + t[alive, None] * directions[alive]


def composite(
    scene: Scene | Colored,
    origins: np.ndarray,
    directions: np.ndarray,
    step: float,
    light: Field | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (n, 3), premultiplied, and opacity (n,) of rays; `light` multiplies the colour at points."""
    color, clear = np.zeros((len(origins), 3)), np.ones(len(origins))
    for rays, _, points in samples(scene.shape, origins, directions, step):
        share = clear[rays] * (1 - (1 - scene.opacity(points)) ** step)
        clear[rays] -= share
        seen = share > 1e-5  # light costs hundreds of samples
        brightness = scene.color(points[seen])
        if light is not None and seen.any():
            brightness = brightness * light(points[seen])[:, None]
        color[rays[seen]] += share[seen, None] * brightness
    return color, 1 - clear


def maximum(value: Field, shape: tuple[int, ...], origins: np.ndarray, directions: np.ndarray, step: float):
    """Largest value along rays (maximum intensity projection)."""
    largest = np.zeros(len(origins))
    for rays, _, points in samples(shape, origins, directions, step):
        largest[rays] = np.maximum(largest[rays], value(points))
    return largest


def first_crossing(value: Field, shape, origins: np.ndarray, directions: np.ndarray, level: float, step: float):
    """Distance along each ray to where the value first reaches `level`, bisected; NaN where it never does."""
    before, after = spans(shape, origins, directions)[0], np.full(len(origins), np.nan)
    for rays, t, points in samples(shape, origins, directions, step):
        hit = (value(points) >= level) & np.isnan(after[rays])
        after[rays[hit]] = t[hit]
        before[rays] = np.where(np.isnan(after[rays]), t, before[rays])
    hits = np.flatnonzero(~np.isnan(after))
    for _ in range(30):
        middle = (before[hits] + after[hits]) / 2
        reached = value(origins[hits] + middle[:, None] * directions[hits]) >= level
        after[hits], before[hits] = np.where(reached, middle, after[hits]), np.where(reached, before[hits], middle)
    return after


def gradient(value: Field, points: np.ndarray) -> np.ndarray:
    """Central differences over two voxels, (n, 3)."""
    return np.stack([value(points + h) - value(points - h) for h in np.eye(3)], axis=1) / 2


def sphere(n: int) -> np.ndarray:
    """n directions spread evenly over the unit sphere (golden spiral)."""
    height = 1 - (2 * np.arange(n) + 1) / n
    angle = np.arange(n) * np.pi * (3 - np.sqrt(5))
    width = np.sqrt(1 - height**2)
    return np.stack([height, width * np.sin(angle), width * np.cos(angle)], axis=1)


def ball(n: int) -> np.ndarray:
    """n points spread evenly over the unit ball."""
    return (np.arange(n) * 2**0.5 % 1)[:, None] ** (1 / 3) * sphere(n)


def ambient(opacity: Field, points: np.ndarray, radius: float, shift: float, n: int = 512) -> np.ndarray:
    """1 - mean opacity over a ball whose centre lies `shift` voxels above each point (paper 1, stage 2)."""
    offsets = np.array([shift, 0, 0]) + radius * ball(n)
    values = opacity((points[:, None] + offsets).reshape(-1, 3)).reshape(len(points), -1)
    return 1 - values.mean(1)


def shadow(
    opacity: Field,
    points: np.ndarray,
    light: np.ndarray,
    radius: float,
    reach: float,
    lines: int = 24,
    step: float = 0.5,
) -> np.ndarray:
    """Mean transmittance along lines to a spherical light (paper 1, stage 3).

    What lies t voxels from where a line starts counts 1 - t / reach.
    """
    t = (np.arange(int(reach / step)) + 0.5) * step
    total = np.zeros(len(points))
    for target in light + radius * sphere(lines):
        direction = target - points
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        along = points[:, None] + (SHADOW_START + t)[:, None] * direction[:, None]
        blocked = opacity(along.reshape(-1, 3)).reshape(len(points), -1) * (1 - t / reach)
        total += np.prod((1 - blocked) ** step, axis=1)
    return total / lines


def transmittance(scene: Scene, points: np.ndarray, directions: np.ndarray, step: float) -> np.ndarray:
    """Of the way from points out of the volume."""
    clear = np.ones(len(points))
    for rays, _, at in samples(scene.shape, points, directions, step):
        clear[rays] *= (1 - scene.opacity(at)) ** step
    return clear


def scattered_once(scene: Scene, light: np.ndarray, sky: float, key: float, step: float, n: int = 128) -> Field:
    """Light at points that has not met matter before: a uniform sky, and a light that is a point.

    With it, `composite` gives the exact single scattering of isotropic matter.
    """

    def arriving(points: np.ndarray) -> np.ndarray:
        to_light = light - points
        to_light /= np.linalg.norm(to_light, axis=1, keepdims=True)
        directions = np.tile(sphere(n), (len(points), 1))
        of_sky = transmittance(scene, np.repeat(points, n, axis=0), directions, step).reshape(-1, n).mean(1)
        return sky * of_sky + key * transmittance(scene, points, to_light, step)

    return arriving


def display(premultiplied: np.ndarray, exposure: float = 1.0) -> np.ndarray:
    """Display values 0..1 (sRGB, a soft shoulder above 0.7) over black of a linear picture (..., 3)."""
    light = exposure * premultiplied
    over = np.maximum(light - 0.7, 0) / 0.3
    bent = np.minimum(light, 0.7) + 0.3 * over / (1 + over)
    return np.where(bent <= 0.0031308, 12.92 * bent, 1.055 * np.maximum(bent, 0) ** (1 / 2.4) - 0.055)


def rmse(shown: np.ndarray, converged: np.ndarray, opacity: np.ndarray) -> float:
    """Of display values, over pixels whose converged opacity exceeds 0.02: empty background would hide every error."""
    matters = opacity > 0.02
    return float(np.sqrt(np.mean((shown[matters] - converged[matters]) ** 2)))


def look_down(
    classes: np.ndarray, raw: np.ndarray, lefts: list[float], colors: np.ndarray, columns_yx: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (n, 3) and opacity (n,) of rays from the top slice down at columns (y, x)."""
    origins = np.concatenate([np.full((len(columns_yx), 1), float(len(raw))), columns_yx], axis=1)
    down = np.tile([-1.0, 0.0, 0.0], (len(columns_yx), 1))
    return composite(Scene(classes, np.array(lefts), colors, raw), origins, down, step)
