# SPDX-License-Identifier: MIT
"""The passes: load the scene, march frames into a running sum, bloom, present (paper 1, section 5.2).

This is the reference mode: occlusion and shadow are evaluated at every sample of every ray, nothing is cached.
All work is done in compute shaders: on data-centre cards only a small part of the chip runs fragment shaders.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import input_error
from .._progress import Progress, silent
from ..transfer import TransferFunction
from ..volume import Float32Array, SoftSegmentation, Triple, Volume
from .camera import Camera, Vector, direction
from .context import check_allocation, is_software
from .packing import BRICK, Packing, brick_distance, brick_maxima, brick_opacity
from .settings import RenderSettings
from .shaders import compile_shader

_SOFTWARE_BYTES = 2**29  # of one texture; Mesa fails at about 1.8 GiB, and a larger scene takes minutes on a CPU
_DEVICE_BYTES = 2**32
_BAND_PIXELS = 2**19  # marched at once: short enough for a card's watchdog and for Ctrl-C
_BLOOM_SCALE = 4


def _set(program: Any, **values: Any) -> None:
    """Set uniforms. What the compiler found unused is not there: whole uniforms, or the end of an array."""
    for name, value in values.items():
        if name not in program:
            continue
        uniform = program[name]
        if isinstance(value, list):
            value = value[: uniform.array_length] if uniform.array_length > 1 else value[0]
        uniform.value = value


def _linear(display: Triple) -> Triple:
    """sRGB display values to linear light."""
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in display)
    return red, green, blue


class Renderer:
    """Holds one scene on one OpenGL context and draws it.

    context: from `opened_context`, which also releases what is made here.
    notices: what the person should know about the picture: binning, non-finite voxels, nothing visible.
    unit_A: length of the renderer's unit, a voxel's shortest edge, in Å (1 where the voxel size is unknown).
    """

    def __init__(self, context: Any) -> None:
        self.notices: list[str] = []
        self.unit_A = 1.0
        self._context = context
        self._programs: dict[tuple[str, tuple[tuple[str, int], ...]], Any] = {}
        self._packing: Packing | None = None
        self._maxima = np.zeros((1, 1, 1, 4), np.uint8)
        self._voxel = self._half_extent = np.ones(3)  # (x, y, z), in units of the shortest voxel edge
        self._matter: list[Any] = []
        self._distance: Any = None
        self._total: Any = None
        self._frames = 0

    def load(
        self,
        volume: Volume | None,
        segmentation: SoftSegmentation,
        transfer: TransferFunction,
        *,
        max_bytes: int | None = None,
        progress: Progress = silent,
    ) -> None:
        """Bring the scene to the card, slab by slab.

        volume: raw tomogram (z, y, x) or None; segmentation: (class, z, y, x) on the same grid.
        max_bytes: of one texture; a larger scene is binned by 2, 4, ... and a notice says so.
        """
        software = is_software(self._context)
        budget = max_bytes or (_SOFTWARE_BYTES if software else _DEVICE_BYTES)
        edge = int(self._context.info["GL_MAX_3D_TEXTURE_SIZE"])
        packing = Packing.plan(volume, segmentation, transfer, max_edge=edge, max_bytes=budget)
        for texture in self._matter:
            texture.release()
        z, y, x = packing.shape
        self._matter = []
        for _ in range(packing.n_textures):
            texture = self._context.texture3d((x, y, z), 4)
            check_allocation(self._context, f"a texture of {z} x {y} x {x} voxels")
            texture.filter = (self._linear_filter, self._linear_filter)
            texture.repeat_x = texture.repeat_y = texture.repeat_z = False
            self._matter.append(texture)
        maxima, nonfinite = [], 0
        for slab in packing.slabs():
            for texture, content in zip(self._matter, slab.textures, strict=True):
                depth = content.shape[0]
                texture.write(np.ascontiguousarray(content), viewport=(0, 0, slab.first, x, y, depth), alignment=1)
            channels = np.concatenate(slab.textures, axis=-1)
            maxima.append(brick_maxima(brick_maxima(channels, 2), 1))
            nonfinite += slab.nonfinite
            progress("upload", slab.first + slab.textures[0].shape[0], z)
        check_allocation(self._context, "the upload of the volume")
        self._maxima = brick_maxima(np.concatenate(maxima), 0)
        self._packing = packing
        grid = volume if volume is not None else segmentation
        edges = np.array(grid.voxel_size_A[::-1])
        self.unit_A = float(edges.min())
        self._voxel = edges / self.unit_A
        self._half_extent = np.array(packing.shape[::-1]) * packing.bin[::-1] * self._voxel / 2
        if max(packing.bin) > 1:
            self.notices.append(
                f"binned by {max(packing.bin)} to {z} x {y} x {x} voxels for drawing: the full volume is beyond "
                + ("what software OpenGL draws in reasonable time" if software else "the texture limits")
            )
        if nonfinite:
            self.notices.append(f"{nonfinite} voxels that are not finite were drawn as background")
        if not packing.drawn:
            self.notices.append("no class is visible: the picture is empty")

    @property
    def _linear_filter(self) -> int:
        return int(self._context.LINEAR)

    def _program(self, name: str, **defines: int) -> Any:
        key = (name, tuple(sorted(defines.items())))
        if key not in self._programs:
            self._programs[key] = compile_shader(self._context, name, defines)
        return self._programs[key]

    def _scene(self) -> Packing:
        if self._packing is None:
            raise input_error("Renderer", "scene", expected="load() first", got="nothing loaded")
        return self._packing

    def _from_voxel(self, point_zyx: npt.ArrayLike) -> Vector:
        """Position (x, y, z) of a point in voxels (z, y, x), whose whole numbers are the middles of voxels."""
        return np.asarray((np.asarray(point_zyx, float)[::-1] + 0.5) * self._voxel - self._half_extent)

    def _kept(self, settings: RenderSettings) -> tuple[Vector, Vector]:
        """Corners of the box that is drawn."""
        first, stop = settings.drawn_slices(self._scene().segmentation.shape[0])
        low, high = -self._half_extent, self._half_extent.copy()
        low[2] = max(low[2], self._from_voxel((first - 0.5, 0, 0))[2])
        high[2] = min(high[2], self._from_voxel((stop - 0.5, 0, 0))[2])
        return low, high

    def _cut(self, settings: RenderSettings) -> tuple[tuple[float, ...], list[tuple[float, ...]], int]:
        """The plane (x, y, z, offset), which channels it takes, and 0 none, 1 some, 2 all of them."""
        packing, cut = self._scene(), settings.cut
        if cut is None:
            return (0.0, 0.0, 0.0, 0.0), [(0.0,) * 4] * 2, 0
        classes = packing.segmentation.classes
        for name in cut.classes:
            if name not in classes:
                raise input_error("RenderSettings", "cut.classes", expected=f"of {classes}", got=repr(name))
        normal = np.array(cut.normal[::-1]) / math.hypot(*cut.normal)
        offset = 0.0 if cut.point_vox is None else float(normal @ self._from_voxel(cut.point_vox))
        takes = [float(not cut.classes or classes[i] in cut.classes) for i in packing.drawn]
        return (*normal.tolist(), offset), _channels(takes, 0.0), 2 if all(takes) else 1

    def _visible_bricks(self, settings: RenderSettings) -> tuple[npt.NDArray[np.float32], Vector, Vector]:
        """Upper bound of the opacity in every brick; edge of a brick and middles (n, 3) of those worth a look."""
        packing = self._scene()
        bound = brick_opacity(self._maxima, packing, multiply_raw=settings.multiply_raw)
        edge = BRICK * self._voxel * packing.bin[::-1]
        middles = (np.argwhere(bound > 0.25)[:, ::-1] + 0.5) * edge - self._half_extent
        low, high = self._kept(settings)
        middles = middles[((middles + edge / 2 > low) & (middles - edge / 2 < high)).all(axis=1)]
        plane, _, takes = self._cut(settings)
        if takes == 2:
            middles = middles[middles @ np.array(plane[:3]) < plane[3]]
        return bound, edge, middles

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

    def fit_camera(self, settings: RenderSettings, size: tuple[int, int]) -> Camera:
        """A camera that sees all that is visible."""
        _, edge, middles = self._visible_bricks(settings)
        low, high = self._kept(settings)
        corners = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, 8).T
        if len(middles):
            points = np.clip((middles[:, None] + 0.8 * corners * edge).reshape(-1, 3), low, high)
        else:
            points = (low + high) / 2 + corners * (high - low)
        return Camera.fit(
            points,
            azimuth_deg=settings.azimuth_deg,
            elevation_deg=settings.elevation_deg,
            aspect=size[0] / size[1],
            field_of_view_deg=settings.field_of_view_deg,
            zoom=settings.zoom,
            orthographic=settings.projection == "orthographic",
        )

    def accumulate(
        self,
        camera: Camera,
        settings: RenderSettings,
        size: tuple[int, int],
        *,
        skip_empty: bool = True,
        jitter: bool = True,
        progress: Progress = silent,
    ) -> None:
        """March `settings.frames` frames into the running sum. size: (width, height) in pixels.

        skip_empty = False marches through empty space too (same picture, slower); jitter = False takes the middle
        of every pixel and step. Both are for comparison.
        """
        packing = self._scene()
        width, height = self.check_size(size)
        self._allocate_total(width, height)
        plane, cut_classes, cut = self._cut(settings)
        multiply = settings.multiply_raw and packing.has_raw
        program = self._program(
            "march.comp",
            CLASSES=len(packing.drawn),
            MULTIPLY_RAW=int(multiply),
            CUT=cut,
            SKIP=int(skip_empty),
            JITTER=int(jitter),
            OCCLUSION_SAMPLES=settings.occlusion_samples if settings.occlusion > 0 else 0,
            SHADOW_SAMPLES=settings.shadow_samples if settings.shadow > 0 else 0,
        )
        bound, brick_edge, _ = self._visible_bricks(settings)
        self._upload_distance(brick_distance(bound > 0))
        low, high = self._kept(settings)
        aspect = width / height
        light_azimuth = settings.light_azimuth_deg + settings.azimuth_deg * settings.light_follows_camera
        light_distance = 4 * float(np.linalg.norm(self._half_extent))
        light = light_distance * direction(light_azimuth, settings.light_elevation_deg)
        ramps = [packing.transfer.ramps[index] for index in packing.drawn]
        raw = packing.transfer.raw
        _set(
            program,
            half_extent=tuple(self._half_extent),
            ramp_left=_channels([r.left for r in ramps], 1.0),
            ramp_gain=_channels([1 / (r.right - r.left) for r in ramps], 1.0),
            ramp_opacity=_channels([r.opacity for r in ramps], 0.0),
            class_color=_colors([r.color for r in ramps]),
            raw_ramp=(0.0, 1.0) if raw is None else (raw.left, 1 / (raw.right - raw.left)),
            keep_low=tuple(low),
            keep_high=tuple(high),
            cut=plane,
            cut_classes=cut_classes,
            brick_edge=tuple(brick_edge),
            brick_count=tuple(bound.shape[::-1]),
            eye=tuple(camera.eye),
            forward=tuple(camera.forward),
            right=tuple(camera.right * camera.half_height * aspect),
            up=tuple(camera.up * camera.half_height),
            orthographic=float(camera.orthographic),
            step_length=settings.step_vox,
            occlusion_sphere=(
                0.0,
                0.0,
                settings.occlusion_offset * settings.occlusion_radius_vox,
                settings.occlusion_radius_vox,
            ),
            light_sphere=(*light.tolist(), light_distance * math.tan(math.radians(settings.light_size_deg))),
            shadow_range=settings.shadow_range_vox,
            strength_occlusion=settings.occlusion,
            strength_shadow=settings.shadow,
            matter_a=0,
            matter_b=1,
            brick_distance=2,
        )
        for unit, texture in enumerate(self._matter):
            texture.use(unit)
        self._distance.use(2)
        self._total.bind_to_image(0, read=True, write=True)
        band = max(8, _BAND_PIXELS // width // 8 * 8)
        for frame in range(settings.frames):
            shift = (0.5, 0.5)
            if jitter:  # the first two of the seven dimensions of random.glsl's sequence
                shift = ((0.5 + frame * 0.9115923534820549) % 1, (0.5 + frame * 0.8310006189269519) % 1)
            _set(program, frame=frame, pixel_shift=shift)
            for row in range(0, height, band):
                _set(program, first_row=row)
                program.run(-(-width // 8), -(-min(band, height - row) // 8))
                self._context.finish()
            self._frames = frame + 1
            progress("render", frame + 1, settings.frames)
        self._context.memory_barrier()

    def mean(self) -> Float32Array:
        """The frames' mean: (height, width, 4) float32, premultiplied linear RGB and opacity, exposure not applied."""
        width, height = self._total.size
        pixels = np.frombuffer(self._total.read(), np.float32).reshape(height, width, 4)
        return pixels / np.float32(max(self._frames, 1))

    def present(self, settings: RenderSettings) -> npt.NDArray[np.uint8]:
        """Bloom and tone-map what was accumulated: (height, width, 4) uint8 sRGB, straight alpha."""
        width, height = self._total.size
        gain = settings.exposure / max(self._frames, 1)
        small = (-(-width // _BLOOM_SCALE), -(-height // _BLOOM_SCALE))
        glow = [self._context.texture(small, 4, dtype="f2") for _ in range(2)]
        picture = self._context.texture((width, height), 4)
        check_allocation(self._context, f"a picture of {width} x {height}")
        try:
            for texture in glow:
                texture.repeat_x = texture.repeat_y = False
            self._total.bind_to_image(0, read=True, write=False)
            if settings.bloom > 0:
                glow[0].bind_to_image(1, read=False, write=True)
                self._run("bright.comp", small, gain=gain)
                sigma = max(0.012 * height / _BLOOM_SCALE, 0.5)
                for source, target, along in ((0, 1, (1, 0)), (1, 0, (0, 1))):
                    glow[source].bind_to_image(0, read=True, write=False)
                    glow[target].bind_to_image(1, read=False, write=True)
                    self._run("blur.comp", small, along=along, sigma=sigma)
                self._total.bind_to_image(0, read=True, write=False)
            glow[0].use(3)
            picture.bind_to_image(1, read=False, write=True)
            centre, edge = settings.backdrop()
            self._run(
                "present.comp",
                (width, height),
                gain=gain,
                frames=float(max(self._frames, 1)),
                strength_bloom=settings.bloom,
                background_centre=_linear(centre),
                background_edge=_linear(edge),
                opaque=float(not settings.transparent),
                bloom=3,
            )
            return np.frombuffer(picture.read(), np.uint8).reshape(height, width, 4).copy()
        finally:
            for texture in (*glow, picture):
                texture.release()

    def _run(self, name: str, size: tuple[int, int], **uniforms: Any) -> None:
        program = self._program(name)
        _set(program, **uniforms)
        program.run(-(-size[0] // 8), -(-size[1] // 8))
        self._context.memory_barrier()

    def _allocate_total(self, width: int, height: int) -> None:
        if self._total is not None:
            self._total.release()
        self._total = self._context.texture((width, height), 4, dtype="f4")
        check_allocation(self._context, f"a picture of {width} x {height}")
        self._total.write(bytes(16 * width * height))
        self._frames = 0

    def _upload_distance(self, distance: npt.NDArray[np.uint8]) -> None:
        if self._distance is not None:
            self._distance.release()
        self._distance = self._context.texture3d(
            distance.shape[::-1], 1, np.ascontiguousarray(distance), alignment=1, dtype="u1"
        )
        check_allocation(self._context, "the distance map")
        self._distance.filter = (self._context.NEAREST, self._context.NEAREST)


def _channels(values: list[float], spare: float) -> list[tuple[float, ...]]:
    """Values of up to seven classes as two vectors: classes 1 to 3 and a spare, classes 4 to 7."""
    filled = values + [spare] * (7 - len(values))
    return [(*filled[:3], spare), tuple(filled[3:])]


def _colors(colors: list[Triple]) -> list[tuple[float, ...]]:
    filled = [(*color, 0.0) for color in colors] + [(0.0,) * 4] * (7 - len(colors))
    return [*filled[:3], (0.0,) * 4, *filled[3:]]
