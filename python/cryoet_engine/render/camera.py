# SPDX-License-Identifier: MIT
"""Where the eye is. Positions are (x, y, z), in the renderer's unit, from the middle of the volume."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


def direction(azimuth_deg: float, elevation_deg: float) -> Vector:
    """Unit vector (x, y, z) from the middle towards azimuth (0: -y, growing towards +x) and elevation (90: +z)."""
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    return np.array(
        [
            math.sin(azimuth) * math.cos(elevation),
            -math.cos(azimuth) * math.cos(elevation),
            math.sin(elevation),
        ]
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Camera:
    """eye: position; forward, right, up: unit vectors; target_depth: distance to what it looks at.

    half_height: of the picture, at distance 1 in perspective, at any distance otherwise.
    """

    eye: Vector
    forward: Vector
    right: Vector
    up: Vector
    half_height: float
    orthographic: bool
    target_depth: float

    @classmethod
    def fit(
        cls,
        points: Vector,
        *,
        azimuth_deg: float,
        elevation_deg: float,
        aspect: float,
        field_of_view_deg: float,
        roll_deg: float = 0.0,
        zoom: float = 1.0,
        orthographic: bool = False,
    ) -> Camera:
        """The camera nearest to `points` (n, 3) that sees them all, with a margin, and then magnifies by `zoom`.

        roll_deg: turns the picture clockwise. aspect: width / height of the picture.
        """
        back = direction(azimuth_deg, elevation_deg)
        azimuth = math.radians(azimuth_deg)
        # From the azimuth alone, so that looking straight down is no special case.
        right = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
        up = np.cross(back, right)
        roll = math.radians(roll_deg)
        right, up = math.cos(roll) * right + math.sin(roll) * up, math.cos(roll) * up - math.sin(roll) * right
        x, y, z = points @ right, points @ up, points @ back
        half_height = math.tan(math.radians(field_of_view_deg) / 2)
        margin = 1.08
        middle_depth = float(z.min() + z.max()) / 2
        if orthographic:
            centre_x, centre_y = float(x.min() + x.max()) / 2, float(y.min() + y.max()) / 2
            half = max(float(np.ptp(y)) / 2, float(np.ptp(x)) / 2 / aspect, 1e-3) * margin
            depth = float(z.max()) + 1.0 + half
            half_height = half
        else:
            # A point is seen if |x - cx| <= tan * (depth - z): each side of the pyramid asks for one inequality,
            # linear in the eye's position; opposite sides together give the centre and the least depth.
            tan_y = half_height / margin
            tan_x = tan_y * aspect
            left, right_side = float((tan_x * z - x).max()), float((tan_x * z + x).max())
            low, high = float((tan_y * z - y).max()), float((tan_y * z + y).max())
            centre_x, centre_y = (right_side - left) / 2, (high - low) / 2
            depth = max((left + right_side) / (2 * tan_x), (low + high) / (2 * tan_y), float(z.max()) + 1e-3)
        return cls(
            eye=centre_x * right + centre_y * up + depth * back,
            forward=-back,
            right=right,
            up=up,
            half_height=half_height / zoom,
            orthographic=orthographic,
            target_depth=depth - middle_depth,
        )

    def looking_at(self, target: Vector) -> Camera:
        """The same view with `target` (x, y, z) in the middle of the picture."""
        away = target - (self.eye + self.target_depth * self.forward)
        if self.orthographic:  # along the view there is nothing to gain: the eye would only enter the volume
            away = away - (away @ self.forward) * self.forward
        return replace(self, eye=self.eye + away)

    def height_at_target(self) -> float:
        """Height of the picture where it looks at, in the renderer's unit."""
        return 2 * self.half_height * (1.0 if self.orthographic else self.target_depth)
