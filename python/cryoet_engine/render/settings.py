# SPDX-License-Identifier: MIT
"""How a picture is to look: frozen, validated, independent of OpenGL."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .._checks import input_error
from ..volume import Triple

Projection = Literal["perspective", "orthographic"]
Mode = Literal["cached", "reference", "dvr", "iso", "mip", "vpt"]
Source = Literal["classes", "raw"]

#: (value, red, green, blue, opacity of one voxel's length): value in 0..1, linear RGB in 0..1.
ControlPoint = tuple[float, float, float, float, float]

MAX_CUTS = 3

#: Transfer functions on the raw volume by name, for the techniques that draw it alone.
RAW_COLORS: dict[str, tuple[ControlPoint, ...]] = {
    "grey": ((0.0, 0.75, 0.75, 0.75, 0.0), (0.45, 0.75, 0.75, 0.75, 0.0), (1.0, 1.0, 1.0, 1.0, 0.6)),
    "spectrum": (
        (0.0, 0.1, 0.2, 0.9, 0.0),
        (0.4, 0.1, 0.2, 0.9, 0.0),
        (0.55, 0.1, 0.75, 0.8, 0.06),
        (0.7, 0.95, 0.8, 0.1, 0.2),
        (1.0, 0.9, 0.1, 0.05, 0.6),
    ),
}

#: Light presets by name: what each changes.
LIGHTS: dict[str, dict[str, float | bool]] = {
    "studio": {},
    "flat": {"occlusion": 0.0, "shadow": 0.0, "bloom": 0.0},
    "soft": {"occlusion": 1.0, "shadow": 0.45, "light_size_deg": 25.0, "bloom": 0.1},
    "side": {"light_azimuth_deg": -110.0, "light_elevation_deg": 15.0, "shadow": 0.9},
    "top": {"light_azimuth_deg": 0.0, "light_elevation_deg": 85.0},
    "dramatic": {"shadow": 1.0, "light_size_deg": 4.0, "light_elevation_deg": 30.0, "bloom": 0.35, "exposure": 1.3},
}

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


def _names(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise input_error("RenderSettings", name, expected="class names", got=repr(value))
    return tuple(value)


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
        object.__setattr__(self, "classes", _names(self.classes, "cut.classes"))


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box outside which nothing is drawn.

    low_vox, high_vox: two corners, (z, y, x) in voxels; whole numbers are the middles of voxels.
    classes: names of the classes it applies to; empty: all.
    """

    low_vox: Triple
    high_vox: Triple
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        low, high = _triple(self.low_vox, "box.low_vox"), _triple(self.high_vox, "box.high_vox")
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise input_error("RenderSettings", "box", expected="low_vox < high_vox on every axis", got=(low, high))
        object.__setattr__(self, "low_vox", low)
        object.__setattr__(self, "high_vox", high)
        object.__setattr__(self, "classes", _names(self.classes, "box.classes"))


_CHOICES: dict[str, tuple[str, ...]] = {
    "projection": get_args(Projection),
    "mode": get_args(Mode),
    "source": get_args(Source),
}
_RANGES: dict[str, tuple[float, float]] = {
    "azimuth_deg": (-3600, 3600),
    "elevation_deg": (-90, 90),
    "roll_deg": (-3600, 3600),
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
    "iso_value": (0.001, 0.999),
}
_COUNTS: dict[str, tuple[int, int]] = {
    "frames": (1, 4096),
    "occlusion_samples": (1, 256),
    "shadow_samples": (1, 256),
    "supersampling": (1, 4),
    "light_occlusion_samples": (1, 1024),
    "light_shadow_rays": (1, 256),
    "light_shadow_steps": (1, 256),
}
_SWITCHES = ("light_follows_camera", "transparent", "multiply_raw", "scale_bar", "legend", "axes")


def _control_points(value: object) -> str | tuple[ControlPoint, ...]:
    if isinstance(value, str):
        if value not in RAW_COLORS:
            expected = f"one of {', '.join(RAW_COLORS)}, or control points"
            raise input_error("RenderSettings", "raw_colors", expected=expected, got=repr(value))
        return value
    expected = "two or more (value, red, green, blue, opacity), each 0..1, with ascending values from 0 to 1"
    points = tuple(tuple(point) for point in value) if isinstance(value, list | tuple) else ()
    numbers = all(
        len(point) == 5 and all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in point)
        for point in points
    )
    values = [point[0] for point in points] if numbers else []
    if len(values) < 2 or values != sorted(set(values)) or values[0] != 0 or values[-1] != 1:
        raise input_error("RenderSettings", "raw_colors", expected=expected, got=repr(value))
    return points


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """Technique, camera, light, quality and furniture of a picture. Lengths in voxels: a voxel's shortest edge.

    mode: "cached" and "reference" draw the lit classes (paper 1, section 5.2), with occlusion and shadow read from
        a volume of light or evaluated at every sample; the others are what the paper compares with: "dvr" (no
        light), "iso" (surfaces), "mip" (maximum intensity projection), "vpt" (volumetric path tracing).
    source: what these others look at: the opacities of the "classes", or the "raw" volume (inverted, low-passed
        and mapped to 0..1 by the transfer function's raw ramp).
    iso_value: level of opacity, or of the mapped raw volume, that "iso" draws.
    raw_colors: colours and opacities for source "raw": a name of RAW_COLORS, or control points with ascending
        values from 0 to 1.

    Camera: it looks at the middle of what is visible. azimuth_deg turns it about z, counter-clockwise seen from
    above, 0 looks along +y; elevation_deg 90 looks down along z, with x to the right and y up, as 3dmod and
    ChimeraX do.
    roll_deg turns the picture clockwise. zoom: 1 fits everything visible into the picture.
    target_vox: the point (z, y, x) in the middle of the picture; None: the middle of what is visible.
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
    step_vox: distance of ray samples; supersampling: pixels drawn a pixel, along either axis.
    light_spacing: voxels between the points of the cached light (1, 2 or 4); light_occlusion_samples,
        light_shadow_rays, light_shadow_steps: samples of each of these points.
    occlusion_samples, shadow_samples: of each ray sample in the reference mode, in every frame.

    background: "light", "dark", "white", "black" or display RGB 0..1; transparent leaves it out of the PNG.
    multiply_raw: opacity = probability ramp x raw ramp (paper 1, section 5.2), where there is a raw volume.
    clip_z: (first, last) slice drawn; leave_out_slices: so many at the bottom and at the top are not.
    cuts: up to three planes to look inside; box: what lies outside it is not drawn.
    slices: (z, y, x) numbers of slices of the raw volume that stand in the picture; None: none.
    scale_bar, legend, axes, title: drawn onto the picture.
    """

    mode: Mode = "cached"
    source: Source = "classes"
    iso_value: float = 0.5
    raw_colors: str | tuple[ControlPoint, ...] = "grey"

    azimuth_deg: float = -25.0
    elevation_deg: float = 40.0
    roll_deg: float = 0.0
    target_vox: Triple | None = None
    zoom: float = 1.0
    projection: Projection = "perspective"
    field_of_view_deg: float = 28.0

    light_azimuth_deg: float = -75.0
    light_elevation_deg: float = 48.0
    light_size_deg: float = 9.0
    light_follows_camera: bool = False
    occlusion: float = 0.9
    occlusion_radius_vox: float = 11.0
    occlusion_offset: float = 0.6
    shadow: float = 0.8
    shadow_range_vox: float = 60.0
    bloom: float = 0.18
    exposure: float = 1.12

    frames: int = 16
    step_vox: float = 1.0
    supersampling: int = 1
    light_spacing: int = 2
    light_occlusion_samples: int = 64
    light_shadow_rays: int = 8
    light_shadow_steps: int = 16
    occlusion_samples: int = 16
    shadow_samples: int = 16

    background: str | Triple = "light"
    transparent: bool = False
    multiply_raw: bool = True
    clip_z: tuple[int, int] | None = None
    leave_out_slices: tuple[int, int] = (0, 0)
    cuts: tuple[Cut, ...] = ()
    box: Box | None = None
    slices: tuple[int | None, int | None, int | None] = (None, None, None)
    scale_bar: bool = True
    legend: bool = True
    axes: bool = True
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
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise input_error(
                    "RenderSettings", name, expected=f"one of {', '.join(choices)}", got=repr(getattr(self, name))
                )
        if self.light_spacing not in (1, 2, 4) or isinstance(self.light_spacing, bool):
            raise input_error("RenderSettings", "light_spacing", expected="1, 2 or 4", got=repr(self.light_spacing))
        self.backdrop()
        object.__setattr__(self, "raw_colors", _control_points(self.raw_colors))
        if self.target_vox is not None:
            object.__setattr__(self, "target_vox", _triple(self.target_vox, "target_vox"))
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
        if not isinstance(self.cuts, list | tuple) or not all(isinstance(cut, Cut) for cut in self.cuts):
            raise input_error("RenderSettings", "cuts", expected="Cuts", got=repr(self.cuts))
        if len(self.cuts) > MAX_CUTS:
            raise input_error("RenderSettings", "cuts", expected=f"at most {MAX_CUTS}", got=len(self.cuts))
        object.__setattr__(self, "cuts", tuple(self.cuts))
        if self.box is not None and not isinstance(self.box, Box):
            raise input_error("RenderSettings", "box", expected="a Box or None", got=repr(self.box))
        if (
            not isinstance(self.slices, list | tuple)
            or len(self.slices) != 3
            or not all(n is None or (isinstance(n, int) and not isinstance(n, bool) and n >= 0) for n in self.slices)
        ):
            raise input_error(
                "RenderSettings", "slices", expected="three slice numbers or None, (z, y, x)", got=repr(self.slices)
            )
        object.__setattr__(self, "slices", tuple(self.slices))
        if not isinstance(self.title, str):
            raise input_error("RenderSettings", "title", expected="text", got=repr(self.title))

    def with_light(self, name: str) -> RenderSettings:
        """A copy under another light: a name of LIGHTS."""
        if name not in LIGHTS:
            raise input_error("RenderSettings", "light", expected=f"one of {', '.join(LIGHTS)}", got=repr(name))
        touched = {field for preset in LIGHTS.values() for field in preset}
        changes: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(self) if f.name in touched}
        return dataclasses.replace(self, **(changes | LIGHTS[name]))

    def raw_points(self) -> tuple[ControlPoint, ...]:
        """The control points of `raw_colors`."""
        return RAW_COLORS[self.raw_colors] if isinstance(self.raw_colors, str) else self.raw_colors

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
