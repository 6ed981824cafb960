# SPDX-License-Identifier: MIT
"""The passes: scene, map of bricks, light, frames into a running mean, bloom and tone (paper 1, section 5.2).

On an edit of ramps or planes: occupancy, distances, light. In a frame: march. At the end: bloom and tone.
All work is done in compute shaders: on data-centre cards only a small part of the chip runs fragment shaders.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._checks import input_error
from .._progress import Progress, silent
from ..transfer import TransferFunction
from ..volume import Float32Array, SoftSegmentation, Triple, Volume, VoxelSizeStatus
from .bricks import BrickMap
from .camera import Camera, Vector, direction
from .context import DeviceError, check_allocation, check_drawn, is_software
from .light import LightCache
from .packing import BRICK, CELL, Bits, Packing, Slab, check_transfer
from .scene import Scene
from .settings import Cut, RenderSettings
from .shaders import Programs, set_uniforms
from .tone import Display

SOFTWARE_BYTES = 2**30  # Mesa fails at about 1.8 GiB a texture, and a larger scene takes minutes on a CPU
_BAND_PIXELS = 2**19  # marched at once: short enough for a card's watchdog and for Ctrl-C
_FAR = 1e30

#: Shader of each mode.
_PASSES = {
    "cached": "march.comp",
    "reference": "march.comp",
    "dvr": "march.comp",
    "iso": "surface.comp",
    "mip": "projection.comp",
    "vpt": "paths.comp",
}
#: Modes that are the truth, or take so many frames that half floats would stop the running mean; beyond so many
#: frames all do (a mean of 24 falls 0.004 short, of 16 by half of that).
_WIDE = ("reference", "vpt")
_HALF_FLOAT_FRAMES = 16


def wants_float32(settings: RenderSettings, frames: int) -> bool:
    """Whether the mean of so many frames is kept in 16 bytes a pixel instead of 8."""
    return settings.mode in _WIDE or frames > _HALF_FLOAT_FRAMES


@dataclass(frozen=True)
class _Look:
    """What a frame's shaders are compiled with and told, the camera excepted."""

    defines: dict[str, int]
    matter: dict[str, Any]
    light: dict[str, Any]


class Renderer:
    """Holds one scene on one OpenGL context and draws it.

    context: from `opened_context`, which also releases what is made here.
    notices: what the person should know about the picture: binning, slabs, non-finite voxels, nothing visible.
    unit_A: length of the renderer's unit, a voxel's shortest edge, in Å (1 where the voxel size is unknown).
    counting: march writes (leaps, samples, light look-ups, 1) of each ray into the mean, for benchmarks.
    timings: seconds that each stage took when it last ran: "upload", "bricks", "light", "march" (a frame), "tone".
    """

    def __init__(self, context: Any) -> None:
        self.notices: list[str] = []
        self.counting = False
        self.timings: dict[str, float] = {}
        self._context = context
        self._programs = Programs(context)
        self._scene: Scene | None = None
        self._bricks: BrickMap | None = None
        self._light = LightCache(context, self._programs)
        self._finer = LightCache(context, self._programs)  # in the making: see refine_light
        self._display = Display(context, self._programs)
        self._transfer: TransferFunction | None = None
        self._raw_colors: Any = None
        self._picture: Any = None
        self._frame_state: Any = None

    @property
    def unit_A(self) -> float:
        """Length of the renderer's unit in Å."""
        return 1.0 if self._scene is None else self._scene.unit_A

    @property
    def software(self) -> bool:
        """Whether Mesa draws on the CPU."""
        return is_software(self._context)

    @property
    def whole(self) -> bool:
        """Whether all of the scene is on the card at once."""
        return self._loaded().whole

    @contextmanager
    def timer(self) -> Iterator[Callable[[], float]]:
        """The card's own timer around what is drawn within: seconds, once it is over. Means nothing on software."""
        query = self._context.query(time=True)
        with query:
            yield lambda: float(1e-9 * query.elapsed)

    @property
    def half_extent(self) -> Vector:
        """Half the volume's extent, (x, y, z), in the renderer's unit."""
        return self._loaded().half_extent

    def position_of(self, point_vox: Triple) -> Vector:
        """Position (x, y, z) in the renderer's unit of a point (z, y, x) in voxels."""
        return self._loaded().from_voxel(point_vox)

    def voxel_at(self, position: Vector) -> Vector:
        """The point (z, y, x) in voxels at a position (x, y, z): `position_of` the other way."""
        scene = self._loaded()
        return np.asarray(((position + scene.half_extent) / scene.voxel - 0.5)[::-1])

    @property
    def voxel_size_status(self) -> VoxelSizeStatus:
        """How well the voxel size of what is loaded is known."""
        packing = self._loaded().packing
        return (packing.volume if packing.volume is not None else packing.segmentation).voxel_size_status

    @property
    def shown_classes(self) -> list[tuple[str, Triple]]:
        """Names and linear RGB colours of the visible classes."""
        transfer = self._transfer
        if transfer is None:
            return []
        return [(n, ramp.color) for n, ramp in zip(transfer.classes, transfer.ramps, strict=True) if ramp.visible]

    def load(
        self,
        volume: Volume | None,
        segmentation: SoftSegmentation,
        transfer: TransferFunction,
        *,
        bits: Bits = 8,
        keep_hidden: bool = False,
        max_bytes: int | None = None,
        beyond: Literal["slabs", "bin"] | None = None,
        ahead: Sequence[Slab] = (),
        progress: Progress = silent,
    ) -> None:
        """Bring the scene to the card, slab by slab.

        volume: raw tomogram (z, y, x) or None; segmentation: (class, z, y, x) on the same grid.
        bits: of a value on the card, 8 or 16.
        keep_hidden: bring hidden classes too, so that `set_transfer` can show them.
        max_bytes: of the textures. A larger scene goes in slabs that are brought up one after another for every
            picture, or is binned by 2, 4, ... (`beyond`; None: slabs on a card or where max_bytes is given,
            binning on software OpenGL); a notice says so.
        ahead: `Packing.slabs()` of the same, where another thread has made them; used where all of it fits.
        """
        started = time.perf_counter()
        self.release_scene()
        self.notices = []
        packing = Packing.plan(volume, segmentation, transfer, bits=bits, keep_hidden=keep_hidden)
        software = is_software(self._context)
        edge = int(self._context.info["GL_MAX_3D_TEXTURE_SIZE"])
        # A card says what it holds by refusing more; then it goes in slabs too.
        budget = max_bytes or (SOFTWARE_BYTES if software else sys.maxsize)
        depth = packing.shape[0]
        too_large = packing.bytes_of() > budget
        how = beyond or ("bin" if software and max_bytes is None and too_large else "slabs")
        if too_large or max(packing.shape) > edge:
            if how == "slabs" and max(packing.shape[1:]) <= edge:
                depth = min(edge, budget // packing.bytes_of(1))
                if depth < BRICK + 2:
                    how, depth = "bin", packing.shape[0]
            else:
                how = "bin"
            while how == "bin" and (packing.bytes_of() > budget or max(packing.shape) > edge):
                # For memory all axes, for a texture's limit the long ones alone.
                all_axes = packing.bytes_of() > budget
                packing = packing.binned(
                    [b * (2 if all_axes or n > edge else 1) for b, n in zip(packing.bin, packing.shape, strict=True)]
                )
            depth = min(depth, packing.shape[0])
        self._scene = scene = self._allocated(packing, depth, how)
        if scene.whole and max(scene.packing.bin) == 1:
            scene.ahead = ahead
        packing = scene.packing
        self._bricks = BrickMap(self._context, self._programs, scene)
        self._transfer = transfer
        scene.find_maxima(progress)
        self.notices += scene.notices
        z, y, x = packing.shape
        if max(packing.bin) > 1:
            by = str(packing.bin[0]) if len(set(packing.bin)) == 1 else " x ".join(map(str, packing.bin))
            self.notices.append(
                f"binned by {by} to {z} x {y} x {x} voxels for drawing: the "
                "full volume is beyond "
                + (
                    "the memory allowed for it"
                    if too_large and max_bytes is not None
                    else "what software OpenGL draws in reasonable time"
                    if too_large and software
                    else f"the texture limit of {edge} voxels along an axis, or the card's memory"
                )
            )
        if not scene.whole:
            self.notices.append(
                f"drawn in {len(scene.slabs)} slabs of {scene.slabs[0][1]} slices: the whole takes "
                f"{packing.bytes_of() / 2**20:.0f} MiB and {z} slices, beyond the card's or the given memory, "
                f"or its texture limit of {edge}"
            )
        if scene.nonfinite:
            number = str(scene.nonfinite) if scene.whole else "some"
            self.notices.append(f"{number} voxels that are not finite were drawn as background")
        if not any(transfer.ramps[index].visible for index in packing.drawn):
            self.notices.append("no class is visible: the picture is empty")
        self.timings["upload"] = time.perf_counter() - started

    def _allocated(self, packing: Packing, depth: int, how: str) -> Scene:
        """The textures; in thinner slabs, or binned further, while the card has no room for them."""
        while True:
            try:
                return Scene(self._context, self._programs, packing, depth)
            except DeviceError:
                if how == "slabs" and depth // 2 >= BRICK + 2:
                    depth //= 2
                elif how == "bin" and min(packing.shape) >= 4 * BRICK:
                    packing = packing.binned([2 * edge for edge in packing.bin])
                    depth = packing.shape[0]
                else:
                    raise

    def release_scene(self) -> None:
        """Give back what the scene holds on the card."""
        for part in (self._scene, self._bricks, self._light, self._finer):
            if part is not None:
                part.release()
        self._scene = self._bricks = self._transfer = None

    def set_transfer(self, transfer: TransferFunction) -> None:
        """Other ramps, colours and visibility for the scene that is there. InputError where it needs other data."""
        packing = self._loaded().packing
        check_transfer(packing.segmentation, transfer)
        shown = {index for index, ramp in enumerate(transfer.ramps) if ramp.visible and ramp.opacity > 0}
        if not shown <= set(packing.drawn):
            raise input_error(
                "Renderer.set_transfer",
                "transfer",
                expected="classes that were brought to the card",
                got=tuple(transfer.classes[index] for index in sorted(shown - set(packing.drawn))),
                fix="load(..., keep_hidden=True)",
            )
        old, new = packing.transfer.raw, transfer.raw
        if packing.has_raw and (
            new is None
            or old is None
            or (old.low_pass_sigma_vox, old.at_zero, old.at_one) != (new.low_pass_sigma_vox, new.at_zero, new.at_one)
        ):
            raise input_error(
                "Renderer.set_transfer",
                "transfer.raw",
                expected="low-pass and grey values as loaded",
                got=new,
                fix="load() anew",
            )
        self._transfer = transfer

    def _drawn(self) -> None:
        if self._picture is None:
            raise input_error("Renderer", "picture", expected="accumulate() first", got="nothing drawn")

    def _loaded(self) -> Scene:
        if self._scene is None:
            raise input_error("Renderer", "scene", expected="load() first", got="nothing loaded")
        return self._scene

    def _done(self, stage: str, started: float) -> None:
        """Wait for a stage that began at this time, and note how long it took."""
        self._context.finish()
        self.timings[stage] = time.perf_counter() - started

    def _look(self, settings: RenderSettings, slab: tuple[int, int]) -> _Look:
        scene, transfer = self._loaded(), self._transfer
        assert transfer is not None
        packing = scene.packing
        from_raw = settings.source == "raw" and settings.mode not in ("cached", "reference")
        if from_raw and not packing.has_raw:
            raise input_error(
                "RenderSettings", "source", expected='"classes": there is no raw volume, or no ramp on it', got="raw"
            )
        keep_low, keep_high = self._kept(settings)
        names = [packing.segmentation.classes[index] for index in packing.drawn]
        ramps = [transfer.ramps[index] for index in packing.drawn]
        raw = transfer.raw
        defines = {
            "TEXTURES": len(packing.components),
            "CLASSES": len(names),
            "RAW": 0 if packing.raw_texture is None else packing.raw_texture + 1,
            "MULTIPLY_RAW": int(settings.multiply_raw and packing.has_raw),
            "CUTS": len(settings.cuts),
            "BOX": int(settings.box is not None and bool(settings.box.classes) and not from_raw),
            "SOURCE_RAW": int(from_raw),
        }
        matter = {
            **scene.matter_uniforms(slab),
            "ramp_left": _fours([r.left for r in ramps], 1.0),
            "ramp_gain": _fours([1 / (r.right - r.left) for r in ramps], 1.0),
            "ramp_opacity": _fours([r.opacity * r.visible for r in ramps], 0.0),
            "raw_ramp": (0.0, 1.0) if raw is None else (raw.left, 1 / (raw.right - raw.left)),
            "keep_low": tuple(keep_low),
            "keep_high": tuple(keep_high),
            "brick_map": 2,
            "distance_map": 8,
            "raw_colors": 3,
        }
        matter |= self._cut_uniforms(settings.cuts, names, from_raw)
        if settings.box is not None:
            for name in settings.box.classes:
                if name not in packing.segmentation.classes:
                    expected = f"of {packing.segmentation.classes}"
                    raise input_error("RenderSettings", "box.classes", expected=expected, got=repr(name))
            low, high = (scene.from_voxel(point) for point in (settings.box.low_vox, settings.box.high_vox))
            matter["box_low"], matter["box_high"] = tuple(low), tuple(high)
            matter["box_classes"] = _fours([float(name in settings.box.classes) for name in names], 0.0)
        if from_raw:
            matter["points"] = settings.raw_points()  # no uniform: it makes the look's key
            self._use_raw_colors(settings)
        return _Look(defines, matter, self._light_uniforms(settings))

    def _light_uniforms(self, settings: RenderSettings) -> dict[str, Any]:
        azimuth = settings.light_azimuth_deg + settings.azimuth_deg * settings.light_follows_camera
        distance = 4 * float(np.linalg.norm(self._loaded().half_extent))
        light = distance * direction(azimuth, settings.light_elevation_deg)
        radius = settings.occlusion_radius_vox
        return {
            "occlusion_sphere": (0.0, 0.0, settings.occlusion_offset * radius, radius),
            "light_sphere": (*light.tolist(), distance * math.tan(math.radians(settings.light_size_deg))),
            "shadow_range": settings.shadow_range_vox,
        }

    def _kept(self, settings: RenderSettings) -> tuple[Vector, Vector]:
        """Corners of the box that is drawn, of all classes."""
        scene = self._loaded()
        first, stop = settings.drawn_slices(scene.packing.segmentation.shape[0])
        low, high = -scene.half_extent, scene.half_extent.copy()
        low[2] = max(low[2], scene.from_voxel((first - 0.5, 0, 0))[2])
        high[2] = min(high[2], scene.from_voxel((stop - 0.5, 0, 0))[2])
        if settings.box is not None and not settings.box.classes:
            low = np.maximum(low, scene.from_voxel(settings.box.low_vox))
            high = np.minimum(high, scene.from_voxel(settings.box.high_vox))
        if not (low < high).all():
            raise input_error(
                "RenderSettings",
                "box",
                expected=f"some of the volume left to draw, which is {scene.packing.segmentation.shape} voxels",
                got=settings.box,
            )
        return low, high

    def _cut_uniforms(self, cuts: tuple[Cut, ...], names: list[str], from_raw: bool) -> dict[str, Any]:
        """Planes (x, y, z, offset), the classes each takes, and whether it takes all."""
        scene = self._loaded()
        classes = scene.packing.segmentation.classes
        planes: list[tuple[float, ...]] = []
        takes: list[tuple[float, ...]] = []
        takes_all = []
        for cut in cuts:
            for name in cut.classes:
                if name not in classes:
                    raise input_error("RenderSettings", "cuts.classes", expected=f"of {classes}", got=repr(name))
            normal = np.array(cut.normal[::-1]) / math.hypot(*cut.normal)
            offset = 0.0 if cut.point_vox is None else float(normal @ scene.from_voxel(cut.point_vox))
            taken = [float(not cut.classes or name in cut.classes) for name in names]
            whole = not cut.classes if from_raw else all(taken)
            planes.append((*normal.tolist(), offset))
            takes += [(float(whole),) * 4] * 2 if from_raw else _fours(taken, 0.0)
            takes_all.append(float(whole))
        spare = 3 - len(cuts)
        return {
            "cut": planes + [(0.0, 0.0, 0.0, 0.0)] * spare,
            "cut_classes": takes + [(0.0,) * 4] * (2 * spare),
            "cut_all": takes_all + [0.0] * spare,
        }

    def _use_raw_colors(self, settings: RenderSettings) -> None:
        """The 1D transfer function as a texture: colours, and the largest opacity up to each value."""
        points = np.array(settings.raw_points())
        table = np.zeros((2, 256, 4), np.float32)
        values = np.linspace(0, 1, 256)
        for channel in range(4):
            table[0, :, channel] = np.interp(values, points[:, 0], points[:, channel + 1])
        table[1, :, 3] = np.maximum.accumulate(table[0, :, 3])
        if self._raw_colors is None:
            self._raw_colors = self._context.texture((256, 2), 4, dtype="f4")
            check_allocation(self._context, "the transfer function")
            self._raw_colors.filter = (self._context.LINEAR, self._context.LINEAR)
            self._raw_colors.repeat_x = self._raw_colors.repeat_y = False
        self._raw_colors.write(table.tobytes())
        self._raw_colors.use(3)

    def _update_bricks(self, look: _Look, settings: RenderSettings, layers: tuple[int, int], *, listed: bool) -> None:
        bricks = self._bricks
        assert bricks is not None
        scalar = look.defines["SOURCE_RAW"] and settings.mode in ("iso", "mip")
        matter = {**look.matter, "threshold": settings.iso_value if settings.mode == "iso" else 0.0}
        for name in ("texture_low", "texture_scale"):  # of the slab: the map is of the whole volume
            del matter[name]
        started = time.perf_counter()
        if bricks.update({**look.defines, "SCALAR": int(scalar)}, matter, listed=listed, layers=layers):
            self._light.forget()
            self._finer.forget()
            self._done("bricks", started)
        bricks.use()

    def _light_wanted(self, look: _Look, settings: RenderSettings, stop: int) -> dict[str, Any]:
        """What LightCache is to hold."""
        samples = {
            "SKIP": 1,
            "OCCLUSION_SAMPLES": settings.light_occlusion_samples if settings.occlusion > 0 else 0,
            "SHADOW_RAYS": settings.light_shadow_rays if settings.shadow > 0 else 0,
            "SHADOW_STEPS": settings.light_shadow_steps if settings.shadow > 0 else 0,
        }
        return {
            "defines": {**look.defines, **samples},
            "uniforms": {**look.matter, **look.light},
            "spacing": settings.light_spacing,
            "stop_layer": stop,
        }

    def _update_light(self, look: _Look, settings: RenderSettings, stop: int, progress: Progress) -> None:
        assert self._bricks is not None
        started = time.perf_counter()
        if self._light.update(self._bricks, **self._light_wanted(look, settings, stop), progress=progress):
            self._done("light", started)

    def refine_light(self, settings: RenderSettings, *, budget_s: float) -> bool:
        """Work for so long on the light that these settings want, while frames of others are drawn; whether it is done.

        Once done, `accumulate` with these settings finds it there. A window draws with `light_spacing` 4 while things
        change, and refines to 2 between its frames. Needs a scene that is on the card as a whole.
        """
        scene = self._loaded()
        until = time.perf_counter() + budget_s
        if settings.mode != "cached" or not scene.whole or not (settings.occlusion > 0 or settings.shadow > 0):
            return True
        slab = scene.slabs[0]
        look = self._look(settings, slab)
        layers = self._layers(slab)
        self._update_bricks(look, settings, layers, listed=True)
        assert self._bricks is not None
        wanted = self._light_wanted(look, settings, layers[1])
        if self._bricks.occupied == 0 or self._light.holds(**wanted):
            return True
        scene.use()
        self._finer.update(self._bricks, **wanted, until=until)
        if self._finer.complete:
            self._light, self._finer = self._finer, self._light
            self._finer.release()
        return self._light.holds(**wanted)

    def check_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of a picture that can be drawn; InputError for any other."""
        limit = int(self._context.info["GL_MAX_TEXTURE_SIZE"])
        pair = isinstance(size, list | tuple) and len(size) == 2
        whole = pair and all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in size)
        if not whole or not all(1 <= n <= limit for n in size):
            raise input_error(
                "render_image", "size", expected=f"(width, height), each a whole number from 1 to {limit}", got=size
            )
        return int(size[0]), int(size[1])

    def fit_camera(self, settings: RenderSettings, size: tuple[int, int], *, turning: bool = False) -> Camera:
        """A camera that sees all that is visible.

        size: (width, height) in pixels. turning: from the same distance whatever the azimuth, for a turn about z.
        """
        return self.camera_for(self.visible_points(settings, turning=turning), settings, size)

    def visible_points(self, settings: RenderSettings, *, turning: bool = False) -> Vector:
        """Corners (n, 3), (x, y, z), of all cells that may hold something well visible, for `camera_for`."""
        scene = self._loaded()
        slab = scene.slabs[0]
        look = self._look(settings, slab)
        lit = settings.mode == "cached" and (settings.occlusion > 0 or settings.shadow > 0)
        self._update_bricks(look, settings, self._layers(slab), listed=lit)
        assert self._bricks is not None
        edge = CELL * scene.texel
        middles = (self._bricks.solid()[:, ::-1] + 0.5) * edge - scene.half_extent
        low, high = self._kept(settings)
        corners = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, 8).T
        if len(middles):
            points = np.clip((middles[:, None] + corners * edge).reshape(-1, 3), low, high)
        else:
            points = (low + high) / 2 + corners * (high - low)
        return _turned(points) if turning else points

    def camera_for(self, points: Vector, settings: RenderSettings, size: tuple[int, int]) -> Camera:
        """The camera of the settings that sees all of `points`, in a picture of `size`."""
        camera = Camera.fit(
            points,
            azimuth_deg=settings.azimuth_deg,
            elevation_deg=settings.elevation_deg,
            roll_deg=settings.roll_deg,
            aspect=size[0] / size[1],
            field_of_view_deg=settings.field_of_view_deg,
            zoom=settings.zoom,
            orthographic=settings.projection == "orthographic",
        )
        target = settings.target_vox
        return camera if target is None else camera.looking_at(self._loaded().from_voxel(target))

    def _layers(self, slab: tuple[int, int]) -> tuple[int, int]:
        return slab[0] // BRICK, -(-slab[1] // BRICK)

    def accumulate(
        self,
        camera: Camera,
        settings: RenderSettings,
        size: tuple[int, int],
        *,
        frames: int | None = None,
        first_frame: int = 0,
        skip_empty: bool = True,
        jitter: bool = True,
        progress: Progress = silent,
    ) -> None:
        """March frames into the running mean.

        size: (width, height) in pixels. frames: how many; None: settings.frames. first_frame: 0 begins anew; to go
        on with the same camera, settings and size, the number of frames that the mean holds.
        skip_empty = False marches through empty space too (same picture, slower); jitter = False takes the middle
        of every pixel and step. Both are for comparison.
        """
        count = settings.frames if frames is None else frames
        for _ in self.marching(
            camera, settings, size, range(first_frame, first_frame + count), skip_empty, jitter, progress=progress
        ):
            pass
        check_drawn(self._context, "drawing")

    def marching(
        self,
        camera: Camera,
        settings: RenderSettings,
        size: tuple[int, int],
        every: range,
        skip_empty: bool = True,
        jitter: bool = True,
        *,
        band_pixels: int = _BAND_PIXELS,
        progress: Progress = silent,
    ) -> Iterator[None]:
        """`accumulate` in bands of about so many pixels, for a window that has other things to do between them.

        every: numbers of the frames. On a card a frame of the fast modes is one band. The mean is whole when the
        iterator ends; one that is dropped before leaves a picture to begin anew.
        """
        scene = self._loaded()
        width, height = self.check_size(size)
        wide = wants_float32(settings, max(settings.frames, every.stop))  # frames may come one a call
        if every.start == 0 or self._picture is None or self._picture.size != (width, height):
            self._allocate(width, height, wide)
        if not scene.whole and settings.mode == "vpt":
            raise input_error(
                "Renderer.accumulate",
                "mode",
                expected="a volume that fits on the card at once: paths wander through all of it",
                got="vpt in slabs",
                fix='load(..., beyond="bin"), or another mode',
            )
        for n, length in zip(settings.slices, scene.packing.segmentation.shape, strict=True):
            if n is not None and n >= length:
                expected = f"numbers within the volume, {scene.packing.segmentation.shape}"
                raise input_error("RenderSettings", "slices", expected=expected, got=settings.slices)
        scene.wanted_halo = self._wanted_halo(settings)
        if not scene.whole and scene.halo < scene.wanted_halo:
            thin = (
                f"light near the slabs' borders is approximate: it looks {scene.halo} slices beyond a slab, "
                f"and {scene.wanted_halo} are wanted; more memory (--memory) makes slabs thicker"
            )
            self.notices += [] if thin in self.notices else [thin]
        # In slabs every frame needs all slabs before it is whole; so they come up anew for every frame.
        slabs = sorted(scene.slabs, key=lambda slab: self._distance_to(camera, slab))
        if scene.whole:
            yield from self._frames_of(slabs[0], camera, settings, every, skip_empty, jitter, band_pixels, progress)
        else:
            for number in every:
                self._frame_state.write(bytes(8 * width * height))
                for slab in slabs:
                    one = range(number, number + 1)
                    yield from self._frames_of(slab, camera, settings, one, skip_empty, jitter, band_pixels, silent)
                self._fold(number)
                progress("render", number + 1, every.stop)

    def _wanted_halo(self, settings: RenderSettings) -> int:
        """Slices beyond a slab that its light looks at."""
        scene = self._loaded()
        reach = 1.0
        if settings.occlusion > 0:
            reach = max(reach, settings.occlusion_radius_vox * (1 + settings.occlusion_offset))
        if settings.shadow > 0:
            reach = max(reach, settings.shadow_range_vox)
        lit = settings.mode in ("cached", "reference")
        return 2 + math.ceil(reach / scene.texel[2]) if lit else 2

    def _distance_to(self, camera: Camera, slab: tuple[int, int]) -> float:
        """Of a slab from the eye, along z: front to back for every ray, whichever way it goes."""
        scene = self._loaded()
        low, high = scene.heights(slab)
        if camera.orthographic:
            return float(low * np.sign(camera.forward[2]))
        return float(max(low - camera.eye[2], camera.eye[2] - high, 0.0))

    def _frames_of(
        self,
        slab: tuple[int, int],
        camera: Camera,
        settings: RenderSettings,
        every: range,
        skip_empty: bool,
        jitter: bool,
        band_pixels: int,
        progress: Progress,
    ) -> Iterator[None]:
        scene, transfer = self._loaded(), self._transfer
        assert transfer is not None
        scene.make_resident(slab, progress)
        look = self._look(settings, slab)
        inline = settings.mode == "reference"
        lit = settings.occlusion > 0 or settings.shadow > 0
        cached = settings.mode == "cached" and lit
        layers = self._layers(slab)
        self._update_bricks(look, settings, layers, listed=cached)
        light = 2 if inline and lit else int(cached and self._bricks is not None and self._bricks.occupied > 0)
        if light == 1:
            self._use_scene(False)
            self._update_light(look, settings, layers[1], progress)
        self._use_scene(light == 1)
        at = [None if n is None else scene.from_voxel((n, n, n)) for n in settings.slices]
        shown_slices = any(n is not None for n in settings.slices)
        defines = {
            **look.defines,
            "SKIP": int(skip_empty),
            "JITTER": int(jitter),
            "SLABS": int(not scene.whole),
            "WIDE": int(self._picture.dtype == "f4" and scene.whole),
        }
        if _PASSES[settings.mode] == "march.comp":
            defines |= {"LIGHT": light, "SLICES": int(shown_slices), "COUNTING": int(self.counting)}
            if light == 1:
                defines["POINTS"] = self._light.points
            elif light == 2:
                defines |= {
                    "OCCLUSION_SAMPLES": settings.occlusion_samples if settings.occlusion > 0 else 0,
                    "SHADOW_RAYS": int(settings.shadow > 0),
                    "SHADOW_STEPS": settings.shadow_samples if settings.shadow > 0 else 0,
                }
        program = self._programs.get(_PASSES[settings.mode], defines)
        width, height = self._picture.size
        atlas = (1, 1, 1) if light != 1 else self._light.texture.size
        set_uniforms(
            program,
            {
                **look.matter,
                **look.light,
                **_camera_uniforms(camera, width / height),
                "class_color": _colors([transfer.ramps[index].color for index in scene.packing.drawn]),
                "step_length": settings.step_vox,
                "slab": (-_FAR, _FAR) if scene.whole else scene.heights(slab),
                "strength_occlusion": settings.occlusion,
                "strength_shadow": settings.shadow,
                "light_atlas": 4,
                "atlas_scale": tuple(1 / n for n in atlas),
                "iso_value": settings.iso_value,
                "sky": 1.0 - 0.5 * settings.shadow,
                "key": 0.9 * settings.shadow,
                # Index 2, 1, 0 of a position is along z, y, x.
                "slice_at": tuple(
                    _FAR if p is None else float(p[axis]) for axis, p in ((0, at[2]), (1, at[1]), (2, at[0]))
                ),
            },
        )
        target = self._picture if scene.whole else self._frame_state
        target.bind_to_image(0, read=True, write=True)
        # Short enough for a watchdog and for Ctrl-C, where a frame takes long.
        long = is_software(self._context) or settings.mode in _WIDE
        band = max(8, band_pixels // width // 8 * 8) if long else height
        for frame in every:
            started = time.perf_counter()
            # The first two of the seven dimensions of random.glsl's sequence.
            shift = ((0.5 + frame * 0.9115923534820549) % 1, (0.5 + frame * 0.8310006189269519) % 1)
            set_uniforms(program, {"frame": frame, "pixel_shift": shift if jitter else (0.5, 0.5)})
            for row in range(0, height, band):
                if row:
                    yield  # others may bind what they like meanwhile
                    target.bind_to_image(0, read=True, write=True)
                    self._use_scene(light == 1)
                set_uniforms(program, {"first_row": row})
                program.run(-(-width // 8), -(-min(band, height - row) // 8))
                if long:
                    self._context.finish()
            self._context.memory_barrier()
            self._done("march", started)
            progress("render", frame + 1, every.stop)
            yield

    def _use_scene(self, light: bool) -> None:
        """Bind what a march reads; others may have used the units since."""
        assert self._bricks is not None
        self._loaded().use()
        self._bricks.use()
        if self._raw_colors is not None:
            self._raw_colors.use(3)
        if light:
            self._light.texture.use(4)

    def _fold(self, number: int) -> None:
        """A frame that was put together in slabs joins the mean."""
        self._frame_state.bind_to_image(0, read=True, write=False)
        self._picture.bind_to_image(1, read=True, write=True)
        program = self._programs.get("fold.comp", {"WIDE": int(self._picture.dtype == "f4")})
        set_uniforms(program, {"frame": number})
        width, height = self._picture.size
        program.run(-(-width // 8), -(-height // 8))
        self._context.memory_barrier()

    def mean(self) -> Float32Array:
        """The frames' mean: (height, width, 4) float32, premultiplied linear RGB and opacity, exposure not applied."""
        self._drawn()
        width, height = self._picture.size
        dtype = np.float32 if self._picture.dtype == "f4" else np.float16
        return np.frombuffer(self._picture.read(), dtype).reshape(height, width, 4).astype(np.float32)

    def show(self, settings: RenderSettings) -> Any:
        """Bloom and tone-map what was accumulated: the texture, RGBA8, sRGB, straight alpha."""
        self._drawn()
        started = time.perf_counter()
        texture = self._display.draw(self._picture, settings)
        self._done("tone", started)
        return texture

    def present(self, settings: RenderSettings) -> npt.NDArray[np.uint8]:
        """What `show` gives as an array: (height, width, 4) uint8."""
        texture = self.show(settings)
        width, height = texture.size
        return np.frombuffer(texture.read(), np.uint8).reshape(height, width, 4).copy()

    def probe(
        self, camera: Camera, settings: RenderSettings, size: tuple[int, int]
    ) -> tuple[Float32Array, npt.NDArray[np.uint8]]:
        """What each pixel shows: depth in Å along the view (NaN: nothing) and class (0: nothing, else 1 + its index).

        That is where half of the ray is covered (mode "iso": at the surface), and the class that covers most there.
        Both (height, width).
        """
        scene = self._loaded()
        width, height = self.check_size(size)
        found = self._context.texture((width, height), 2, bytes(8 * width * height), dtype="f4")
        state = self._context.texture((width, height), 4, bytes(8 * width * height), dtype="f2")
        try:
            check_allocation(self._context, f"a picture of {width} x {height}")
            for slab in sorted(scene.slabs, key=lambda slab: self._distance_to(camera, slab)):
                scene.make_resident(slab)
                look = self._look(settings, slab)
                self._update_bricks(look, settings, self._layers(slab), listed=settings.mode == "cached")
                scene.use()
                iso = int(settings.mode == "iso")
                program = self._programs.get(
                    "probe.comp", {**look.defines, "SLABS": 1, "WIDE": 0, "JITTER": 0, "ISO": iso}
                )
                set_uniforms(
                    program,
                    {
                        **look.matter,
                        **_camera_uniforms(camera, width / height),
                        "step_length": settings.step_vox,
                        "slab": (-_FAR, _FAR) if scene.whole else scene.heights(slab),
                        "pixel_shift": (0.5, 0.5),
                        "half_way": 0.5,
                        "iso_value": settings.iso_value,
                        "first_row": 0,
                    },
                )
                state.bind_to_image(0, read=True, write=True)
                found.bind_to_image(1, read=True, write=True)
                program.run(-(-width // 8), -(-height // 8))
                self._context.memory_barrier()
            data = np.frombuffer(found.read(), np.float32).reshape(height, width, 2)
        finally:
            found.release()
            state.release()
        nothing = data[..., 1] == 0
        depth = np.where(nothing, np.float32(np.nan), data[..., 0] * np.float32(scene.unit_A)).astype(np.float32)
        of_channel = np.array([0, *(1 + index for index in scene.packing.drawn)], np.uint8)
        return depth, of_channel[np.minimum(data[..., 1].astype(np.int64), len(of_channel) - 1)]

    def memory(self) -> list[tuple[str, int]]:
        """What lies on the card: names and bytes."""
        parts: list[tuple[str, int]] = []
        for part in (self._scene, self._bricks, self._light, self._finer, self._display):
            parts += [] if part is None else part.memory()
        for name, texture in (("picture", self._picture), ("frame in slabs", self._frame_state)):
            if texture is not None:
                bytes_a_pixel = 16 if texture.dtype == "f4" else 8
                parts.append((name, bytes_a_pixel * texture.size[0] * texture.size[1]))
        return [(name, size) for name, size in parts if size]

    def _allocate(self, width: int, height: int, wide: bool) -> None:
        dtype = "f4" if wide else "f2"
        if self._picture is None or self._picture.size != (width, height) or self._picture.dtype != dtype:
            if self._picture is not None:
                self._picture.release()
                self._picture = None
            picture = self._context.texture((width, height), 4, dtype=dtype)
            check_allocation(self._context, f"a picture of {width} x {height}")
            self._picture = picture
        in_slabs = not self._loaded().whole
        if self._frame_state is not None and (not in_slabs or self._frame_state.size != (width, height)):
            self._frame_state.release()
            self._frame_state = None
        if in_slabs and self._frame_state is None:
            state = self._context.texture((width, height), 4, dtype="f2")
            check_allocation(self._context, f"a picture of {width} x {height}")
            self._frame_state = state


def _camera_uniforms(camera: Camera, aspect: float) -> dict[str, Any]:
    return {
        "eye": tuple(camera.eye),
        "forward": tuple(camera.forward),
        "right": tuple(camera.right * camera.half_height * aspect),
        "up": tuple(camera.up * camera.half_height),
        "orthographic": float(camera.orthographic),
    }


def _turned(points: Vector) -> Vector:
    """Points (n, 3) turned about the vertical through their middle, as circles of 48."""
    middle = (points.min(0) + points.max(0)) / 2
    radius = np.hypot(*(points - middle)[:, :2].T)
    heights, which = np.unique(points[:, 2], return_inverse=True)
    largest = np.zeros(len(heights))
    np.maximum.at(largest, which.ravel(), radius)
    angle = np.arange(48) * (2 * np.pi / 48)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    flat = middle[:2] + largest[:, None, None] * circle
    return np.concatenate([flat.reshape(-1, 2), np.repeat(heights, 48)[:, None]], axis=1)


def _fours(values: list[float], spare: float) -> list[tuple[float, ...]]:
    """Values of up to eight classes as two vectors."""
    filled = values + [spare] * (8 - len(values))
    return [(*filled[:4],), (*filled[4:],)]


def _colors(colors: list[Triple]) -> list[tuple[float, float, float, float]]:
    return [(*color, 0.0) for color in colors] + [(0.0, 0.0, 0.0, 0.0)] * (8 - len(colors))
