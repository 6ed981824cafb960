# SPDX-License-Identifier: MIT
"""Turntables and key frames: one upload, one cached light while nothing but the camera moves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator

from .._checks import file_error, input_error
from .._progress import Progress, silent
from ..transfer import TransferFunction
from ..volume import SoftSegmentation, Volume
from .camera import Vector
from .context import opened_context
from .interop import egl_device
from .packing import Bits
from .picture import draw, drawn_size, notices_of
from .renderer import Renderer
from .session import as_written, check_fields, listed, parsed, setting
from .settings import RenderSettings
from .video import Frame, check_output, palette_frames, write_frames

#: Settings that move; all others jump at their key frame.
_MOVING = (
    "azimuth_deg",
    "elevation_deg",
    "roll_deg",
    "zoom",
    "field_of_view_deg",
    "light_azimuth_deg",
    "light_elevation_deg",
    "light_size_deg",
    "occlusion",
    "occlusion_radius_vox",
    "occlusion_offset",
    "shadow",
    "shadow_range_vox",
    "bloom",
    "exposure",
    "iso_value",
    "target_vox",
)
#: These change what the textures or the window are; an animation has one of each.
_FIXED = ("projection", "supersampling", "transparent")
_KIND, _VERSION = "cryoet-engine key frames", 1


@dataclass(frozen=True, kw_only=True)
class KeyFrame:
    """What is to be at a time.

    time_s: seconds from the start. settings: fields of RenderSettings and their values; what is not given stays as
    it was. opacity: of classes by name, 0..1.
    """

    time_s: float
    settings: dict[str, Any] = field(default_factory=dict)
    opacity: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        time = self.time_s
        if isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time < 1e6:
            raise input_error("KeyFrame", "time_s", expected="seconds from 0 up", got=as_written(time))
        for name in ("settings", "opacity"):
            if not isinstance(value := getattr(self, name), dict):
                raise input_error("KeyFrame", name, expected="an object", got=as_written(value))
        known = {f.name for f in dataclasses.fields(RenderSettings)} - set(_FIXED)
        for name in self.settings:
            if name not in known:
                raise input_error("KeyFrame", "settings", expected=f"of {', '.join(sorted(known))}", got=name)
        for name, value in self.opacity.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise input_error("KeyFrame", f"opacity of {name}", expected="0 to 1", got=as_written(value))


def turntable(settings: RenderSettings, seconds: float) -> tuple[KeyFrame, ...]:
    """Once around z in so many seconds, from the settings' azimuth on."""
    start = settings.azimuth_deg
    return tuple(KeyFrame(time_s=seconds * n, settings={"azimuth_deg": start + 360 * n}) for n in (0, 1))


def load_key_frames(path: str | os.PathLike[str]) -> tuple[KeyFrame, ...]:
    """Read key frames from JSON; FileFormatError for anything else.

    {"kind": "cryoet-engine key frames", "version": 1, "frames": [{"time_s": 0, "settings": {...}, "opacity": {...}}]}
    """
    try:
        content = parsed(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise file_error(path, "file", expected="a readable file", got=error.strerror or error) from None
    except ValueError as error:
        raise file_error(path, "content", expected="JSON", got=str(error)[:200]) from None
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise file_error(path, "kind", expected=_KIND, got="another file")
    version = content.get("version")
    if isinstance(version, bool) or version != _VERSION:
        raise file_error(path, "version", expected=_VERSION, got=as_written(version))
    try:
        return tuple(_key_frame(entry) for entry in listed("frames", content.get("frames")))
    except (TypeError, ValueError) as error:
        raise file_error(path, "frames", expected="time_s, settings, opacity in each", got=error) from None


def _key_frame(entry: object) -> KeyFrame:
    if not isinstance(entry, dict):
        raise TypeError(f"a frame: expected an object, got {as_written(entry)}")
    check_fields("a frame", entry, KeyFrame)
    settings = entry.get("settings", {})
    if isinstance(settings, dict):
        settings = {name: setting(name, value) for name, value in settings.items()}
    return KeyFrame(**{**entry, "settings": settings})


def check_key_frames(frames: Sequence[KeyFrame], settings: RenderSettings) -> None:
    """InputError for key frames that do not follow one another, or that set what `settings` cannot take."""
    times = [frame.time_s for frame in frames]
    if len(times) < 2 or any(b <= a for a, b in pairwise(times)):
        got = f"times {as_written(times)}"
        raise input_error("Animation", "frames", expected="two or more, each later than the one before", got=got)
    for frame in frames:
        dataclasses.replace(settings, **frame.settings)


@dataclass(frozen=True)
class Animation:
    """Key frames in the order of their times, over settings and ramps that they change."""

    frames: tuple[KeyFrame, ...]
    settings: RenderSettings
    transfer: TransferFunction

    def __post_init__(self) -> None:
        check_key_frames(self.frames, self.settings)  # wrong values are told now
        for frame in self.frames:
            for name in frame.opacity:
                self.transfer.ramp(name)  # says which names there are

    @property
    def seconds(self) -> float:
        """From the first key frame to the last."""
        return self.frames[-1].time_s - self.frames[0].time_s

    def _known(self) -> list[dict[str, Any]]:
        """At each key frame the value of all that any of them sets."""
        names = {name for frame in self.frames for name in frame.settings}
        values = {name: getattr(self.settings, name) for name in names}
        known = []
        for frame in self.frames:
            values = {**values, **frame.settings}
            known.append(values)
        return known

    def at(self, time_s: float) -> tuple[RenderSettings, TransferFunction]:
        """Settings and ramps at a time, from the first key frame's on.

        Numbers follow a monotone cubic through the key frames (PCHIP): smooth, and never beyond what they say, so
        that no zoom or strength overshoots. Zoom is interpolated in its logarithm. Angles go the way of the numbers:
        from 0 to 360 is once around.
        """
        times = [frame.time_s - self.frames[0].time_s for frame in self.frames]
        known = self._known()
        last = max(index for index, time in enumerate(times) if time <= time_s + 1e-9)
        values: dict[str, Any] = {}
        for name, now in known[last].items():
            track = [entry[name] for entry in known]
            moves = name in _MOVING and all(value is not None for value in track)
            values[name] = _between(name, times, track, time_s) if moves else now
        transfer = self.transfer
        for name in {name for frame in self.frames for name in frame.opacity}:
            ramp = transfer.ramp(name)
            track, opacity = [], ramp.opacity
            for frame in self.frames:
                opacity = frame.opacity.get(name, opacity)
                track.append(opacity)
            now = min(max(float(_between("opacity", times, track, time_s)), 0.0), 1.0)
            transfer = transfer.with_ramp(name, opacity=now, visible=ramp.visible or max(track) > 0)
        return dataclasses.replace(self.settings, **values), transfer


def _between(name: str, times: Sequence[float], track: Sequence[Any], time_s: float) -> Any:
    values = np.asarray(track, float)
    if name == "zoom":
        values = np.log(values)
    value = PchipInterpolator(times, values)(min(max(time_s, times[0]), times[-1]))
    if name == "zoom":
        value = np.exp(value)
    return tuple(float(v) for v in value) if np.ndim(value) else float(value)


def render_animation(
    volume: Volume | None,
    segmentation: SoftSegmentation,
    transfer: TransferFunction,
    path: str | os.PathLike[str],
    frames: Sequence[KeyFrame],
    *,
    settings: RenderSettings | None = None,
    size: tuple[int, int] = (1280, 720),
    fps: float = 24.0,
    bits: Bits = 8,
    max_bytes: int | None = None,
    recipe: str = "",
    progress: Progress = silent,
) -> tuple[str, ...]:
    """Draw an animation to a video, a GIF or a folder of PNGs (by the path's ending). Returns the renderer's notices.

    volume, segmentation, transfer, settings, bits, max_bytes: as for `render_image`.
    frames: key frames, or `turntable(...)`.
    size: (width, height) in pixels; even for a video. fps: frames a second.
    recipe: what data it is, as text (a session's): a folder of PNGs keeps frames of an interrupted run of the same.
    Where the first and the last key frame differ by whole turns only, the last frame is left out: it loops evenly.
    The light is fixed to the volume unless the settings say otherwise, so it is computed once.

    Raises what `render_image` raises; InputError for frames, sizes or endings that do not go together.
    """
    chosen = settings if settings is not None else RenderSettings()
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0.1 <= fps <= 240:
        raise input_error("render_animation", "fps", expected="0.1 to 240", got=repr(fps))
    check_output(path, size, transparent=chosen.transparent)
    animation = Animation(tuple(frames), chosen, transfer)
    count = max(1, round(animation.seconds * fps))
    if count > 100_000:
        raise input_error("render_animation", "frames", expected="at most 100 000", got=count)
    times = [animation.seconds * n / count for n in range(count if _is_turn(animation) else count + 1)]
    with opened_context(egl_device(volume, segmentation)) as context:
        renderer = Renderer(context)
        renderer.check_size(drawn_size(size, chosen))
        renderer.load(
            volume,
            segmentation,
            transfer,
            bits=bits,
            keep_hidden=bool(_opacities(animation)),
            max_bytes=max_bytes,
            beyond="bin" if any(look.mode == "vpt" for look in _looks(animation)) else None,
            progress=progress,
        )
        points = _points(renderer, animation)
        data = hashlib.sha256(recipe.encode() + points.tobytes()).hexdigest()

        def look(time: float) -> tuple[str, Frame]:
            now, ramps = animation.at(time)

            def frame() -> Image.Image:
                renderer.set_transfer(ramps)
                return draw(renderer, now, size, camera=renderer.camera_for(points, now, size))

            return _digest(now, ramps, size, bits, data), frame

        def drawn() -> Iterator[tuple[str, Frame]]:
            for number, time in enumerate(times):
                yield look(time)
                progress("animation", number + 1, len(times))

        typical = [look(times[number])[1] for number in palette_frames(len(times))]
        told = write_frames(path, drawn(), fps=fps, size=size, typical=typical)
        notices = [*notices_of(renderer.notices, *_looks(animation)), *told]
    return tuple(dict.fromkeys(notices))


def _looks(animation: Animation) -> list[RenderSettings]:
    """The settings at every key frame."""
    start = animation.frames[0].time_s
    return [animation.at(frame.time_s - start)[0] for frame in animation.frames]


def _points(renderer: Renderer, animation: Animation) -> Vector:
    """What is visible at any key frame. One set of points for all frames: fitted anew, the picture would pump."""
    points = []
    for key in animation.frames:
        settings, ramps = animation.at(key.time_s - animation.frames[0].time_s)
        renderer.set_transfer(ramps)
        points.append(renderer.visible_points(settings, turning=True))
    return np.concatenate(points)


def _opacities(animation: Animation) -> set[str]:
    return {name for frame in animation.frames for name in frame.opacity}


def _is_turn(animation: Animation) -> bool:
    """Whether the end shows what the beginning shows."""
    (first, ramps), (last, last_ramps) = animation.at(0), animation.at(animation.seconds)
    turns = (last.azimuth_deg - first.azimuth_deg) / 360
    same = dataclasses.replace(last, azimuth_deg=first.azimuth_deg) == first and ramps == last_ramps
    return same and turns != 0 and math.isclose(turns, round(turns), abs_tol=1e-9)


def _digest(settings: RenderSettings, transfer: TransferFunction, size: tuple[int, int], bits: int, data: str) -> str:
    """Of all that a frame depends on."""
    text = json.dumps([dataclasses.asdict(settings), transfer.to_json(), size, bits, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
