# SPDX-License-Identifier: MIT
"""How a picture is to look: frozen, validated, independent of OpenGL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .._checks import input_error
from ..volume import Triple

Projection = Literal["perspective", "orthographic"]

#: Backgrounds by name: display values in the middle and at the edge of the picture.
BACKGROUNDS: dict[str, tuple[Triple, Triple]] = {
    "light": ((0.95, 0.955, 0.96), (0.73, 0.755, 0.785)),
    "dark": ((0.135, 0.15, 0.175), (0.025, 0.03, 0.04)),
    "white": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "black": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
}


def _triple(value: object, name: str) -> Triple:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise input_error("RenderSettings", name, expected="three numbers", got=value)
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
        raise input_error("RenderSettings", name, expected="three finite numbers", got=value)
    return (float(value[0]), float(value[1]), float(value[2]))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A plane that cuts away what lies on the side its normal points to.

    point_vox: a point of the plane, (z, y, x) in voxels of the volume; None: the middle of the volume.
    normal: (z, y, x), any length but zero, in space (voxels may be anisotropic).
    classes: names of the classes it takes; empty: all.
    """

    normal: Triple
    point_vox: Triple | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        normal = _triple(self.normal, "cut.normal")
        if math.hypot(*normal) == 0:
            raise input_error("RenderSettings", "cut.normal", expected="a direction", got=self.normal)
        object.__setattr__(self, "normal", normal)
        if self.point_vox is not None:
            object.__setattr__(self, "point_vox", _triple(self.point_vox, "cut.point_vox"))
        object.__setattr__(self, "classes", tuple(self.classes))


_RANGES: dict[str, tuple[float, float]] = {
    "azimuth_deg": (-3600, 3600),
    "elevation_deg": (-90, 90),
    "zoom": (0.01, 1000),
    "field_of_view_deg": (1, 120),
    "light_azimuth_deg": (-3600, 3600),
    "light_elevation_deg": (-90, 90),
    "light_size_deg": (0, 60),
    "occlusion": (0, 1),
    "occlusion_radius_vox": (0.5, 1000),
    "occlusion_offset": (0, 2),
    "shadow": (0, 1),
    "shadow_range_vox": (1, 10000),
    "bloom": (0, 2),
    "exposure": (0.01, 100),
    "step_vox": (0.05, 4),
}
_COUNTS: dict[str, tuple[int, int]] = {
    "frames": (1, 4096),
    "occlusion_samples": (1, 256),
    "shadow_samples": (1, 256),
}
_SWITCHES = ("light_follows_camera", "transparent", "multiply_raw", "scale_bar", "legend")


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """Camera, light, quality and furniture of a picture. Lengths in voxels mean the shortest edge of a voxel.

    Camera: it looks at the middle of what is visible. azimuth_deg turns it about z, counter-clockwise seen from
    above, 0 looks along +y; elevation_deg 90 looks down along z, with x to the right and y up, as 3dmod and
    ChimeraX do.
    zoom: 1 fits everything visible into the picture.
    field_of_view_deg: vertical, for the perspective projection.

    Light: one spherical light in direction (light_azimuth_deg, light_elevation_deg), azimuth relative to the
    camera's when light_follows_camera (otherwise fixed to the volume); light_size_deg is the half-angle under
    which it is seen: the larger, the softer the shadows.
    occlusion, shadow: strength 0..1; 0 switches the stage off, and bloom = 0 that one.
    occlusion_radius_vox: radius of the sphere in which occlusion is gathered; occlusion_offset: its shift
        upwards (+z), in radii, which makes light come from above.
    shadow_range_vox: matter farther away than this casts no shadow.
    exposure: factor on all light.

    Quality: frames: pictures with other random numbers that are averaged (anti-aliasing included);
    occlusion_samples, shadow_samples: a ray sample's own, in every frame; step_vox: distance of ray samples.

    background: "light", "dark", "white", "black" or display RGB 0..1; transparent leaves it out of the PNG.
    multiply_raw: opacity = probability ramp x raw ramp (paper 1, section 5.2), where there is a raw volume.
    clip_z: (first, last) slice drawn; leave_out_slices: so many at the bottom and at the top are not.
    cut: a plane to look inside.
    scale_bar, legend, title: drawn onto the picture.
    """

    azimuth_deg: float = -25.0
    elevation_deg: float = 40.0
    zoom: float = 1.0
    projection: Projection = "perspective"
    field_of_view_deg: float = 28.0

    light_azimuth_deg: float = -50.0
    light_elevation_deg: float = 48.0
    light_size_deg: float = 9.0
    light_follows_camera: bool = True
    occlusion: float = 0.9
    occlusion_radius_vox: float = 11.0
    occlusion_offset: float = 0.6
    shadow: float = 0.8
    shadow_range_vox: float = 60.0
    bloom: float = 0.18
    exposure: float = 1.12

    frames: int = 24
    occlusion_samples: int = 8
    shadow_samples: int = 12
    step_vox: float = 0.5

    background: str | Triple = "light"
    transparent: bool = False
    multiply_raw: bool = True
    clip_z: tuple[int, int] | None = None
    leave_out_slices: tuple[int, int] = (0, 0)
    cut: Cut | None = None
    scale_bar: bool = True
    legend: bool = True
    title: str = ""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise input_error(
                    "RenderSettings", name, expected=f"a number from {low:g} to {high:g}", got=repr(value)
                )
        for name, (fewest, most) in _COUNTS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not fewest <= value <= most:
                raise input_error(
                    "RenderSettings", name, expected=f"a whole number from {fewest} to {most}", got=repr(value)
                )
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise input_error("RenderSettings", name, expected="True or False", got=repr(getattr(self, name)))
        if self.projection not in ("perspective", "orthographic"):
            raise input_error(
                "RenderSettings", "projection", expected='"perspective" or "orthographic"', got=repr(self.projection)
            )
        self.backdrop()
        for name in ("clip_z", "leave_out_slices"):
            pair = getattr(self, name)
            if pair is not None and (
                not isinstance(pair, list | tuple)
                or len(pair) != 2
                or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in pair)
            ):
                raise input_error("RenderSettings", name, expected="two whole numbers from 0 up", got=repr(pair))
        if self.clip_z is not None and self.clip_z[0] > self.clip_z[1]:
            raise input_error("RenderSettings", "clip_z", expected="(first, last) in order", got=self.clip_z)
        if self.cut is not None and not isinstance(self.cut, Cut):
            raise input_error("RenderSettings", "cut", expected="a Cut or None", got=repr(self.cut))
        if not isinstance(self.title, str):
            raise input_error("RenderSettings", "title", expected="text", got=repr(self.title))

    def backdrop(self) -> tuple[Triple, Triple]:
        """Display values of the background in the middle and at the edge."""
        if isinstance(self.background, str):
            if self.background not in BACKGROUNDS:
                raise input_error(
                    "RenderSettings",
                    "background",
                    expected=f"one of {', '.join(BACKGROUNDS)}, or RGB 0..1",
                    got=repr(self.background),
                )
            return BACKGROUNDS[self.background]
        color = _triple(self.background, "background")
        if not all(0 <= value <= 1 for value in color):
            raise input_error("RenderSettings", "background", expected="RGB 0..1", got=self.background)
        return color, color

    def drawn_slices(self, depth: int) -> tuple[int, int]:
        """First slice drawn and the one after the last, of `depth`; InputError when none is left."""
        low, high = self.clip_z if self.clip_z is not None else (0, depth - 1)
        first, stop = max(low, self.leave_out_slices[0]), min(high + 1, depth - self.leave_out_slices[1])
        if first >= stop:
            raise input_error(
                "RenderSettings",
                "clip_z, leave_out_slices",
                expected=f"some of the {depth} slices left to draw",
                got=(self.clip_z, self.leave_out_slices),
            )
        return first, stop
