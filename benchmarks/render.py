# SPDX-License-Identifier: MIT
"""The renderer: techniques, what the design gains over inline light, and VTK beside it on the same OpenGL.

`python benchmarks/render.py` writes results/render.json and results/render_vtk.png; `--paper` adds the paper's table
(on software OpenGL take few views: `--paper --views 2 --runs 1 --depths 227,500`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cryoet_engine.render import Renderer, RenderSettings, benchmark
from cryoet_engine.render.camera import Camera
from cryoet_engine.render.context import opened_context
from harness import RESULTS, commit, machine

SCENE = (96, 256, 360)
SIZE = (960, 540)
POINTS = ((0.0, 0.2, 0.2, 0.2, 0.0), (0.5, 0.2, 0.3, 0.9, 0.0), (0.7, 0.9, 0.6, 0.1, 0.05), (1.0, 1.0, 1.0, 1.0, 0.5))


def in_turn(entries: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Each entry once to warm up, then all in turn: medians and spread in ms."""
    for call in entries.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, call in entries.items():
            started = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - started))
    return {n: {"median_ms": statistics.median(t), "min_ms": min(t), "max_ms": max(t)} for n, t in taken.items()}


def gain_over_inline(rounds: int) -> dict[str, Any]:
    """Cached light and leaps against light at every sample, of the same scene, camera and step."""
    volume, soft, transfer = benchmark.virion_field(SCENE)
    cached = benchmark.settings_for("cached")
    inline = benchmark.settings_for("reference")
    with opened_context() as context:
        renderer = Renderer(context)
        renderer.load(volume, soft, transfer)
        camera = renderer.fit_camera(cached, SIZE)

        def frame(settings: RenderSettings, *, skip: bool) -> Callable[[], None]:
            return lambda: renderer.accumulate(camera, settings, SIZE, frames=1, skip_empty=skip)

        times = in_turn(
            {
                "inline": frame(inline, skip=False),
                "inline, leaps": frame(inline, skip=True),
                "cached, no leaps": frame(cached, skip=False),
                "cached, leaps": frame(cached, skip=True),
            },
            rounds,
        )
        times["building the light, half resolution"] = {"median_ms": 1e3 * rebuilt(renderer, camera, cached)}
        quarter = replace(cached, light_spacing=4)
        times["building the light, quarter resolution"] = {"median_ms": 1e3 * rebuilt(renderer, camera, quarter)}
    ours = times["cached, leaps"]["median_ms"]
    return {"size": SIZE, "volume": SCENE, "times": times, "gain": times["inline"]["median_ms"] / ours}


def rebuilt(renderer: Renderer, camera: Camera, settings: RenderSettings) -> float:
    """Seconds to build the light, median of three lights."""
    taken = []
    for step in range(3):
        look = replace(settings, light_azimuth_deg=settings.light_azimuth_deg + step + 1)
        renderer.accumulate(camera, look, SIZE, frames=1)
        taken.append(renderer.timings["light"])
    return statistics.median(taken)


def beside_vtk(rounds: int, picture: Path) -> dict[str, Any]:
    """Plain DVR of the same 8-bit raw volume, ramps, step, size and camera by VTK's GPU ray caster and by ours."""
    import vtk
    from vtk.util import numpy_support

    volume, soft, transfer = benchmark.virion_field(SCENE)
    settings = RenderSettings(
        mode="dvr", source="raw", raw_colors=POINTS, frames=1, occlusion=0, shadow=0, bloom=0, background="black"
    )
    assert transfer.raw is not None
    whole = volume.block((slice(0, SCENE[0]), slice(0, SCENE[1]), slice(0, SCENE[2])))
    mapped = np.rint(255 * transfer.raw.mapped(whole)).astype(np.uint8)
    image = vtk.vtkImageData()
    image.SetDimensions(*SCENE[::-1])
    image.SetOrigin(*(-(n - 1) / 2 for n in SCENE[::-1]))
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(mapped.ravel(), deep=True))
    mapper = vtk.vtkGPUVolumeRayCastMapper()
    mapper.SetInputData(image)
    mapper.SetAutoAdjustSampleDistances(0)
    mapper.SetSampleDistance(settings.step_vox)
    mapper.SetUseJittering(1)
    color, opacity = vtk.vtkColorTransferFunction(), vtk.vtkPiecewiseFunction()
    for value, red, green, blue, alpha in POINTS:
        color.AddRGBPoint(255 * value, red, green, blue)
        opacity.AddPoint(255 * value, alpha)
    look = vtk.vtkVolumeProperty()
    look.SetColor(color)
    look.SetScalarOpacity(opacity)
    look.SetInterpolationTypeToLinear()
    look.ShadeOff()
    look.SetScalarOpacityUnitDistance(1.0)
    drawn = vtk.vtkVolume()
    drawn.SetMapper(mapper)
    drawn.SetProperty(look)
    scene = vtk.vtkRenderer()
    scene.AddVolume(drawn)
    scene.SetBackground(0, 0, 0)
    window = vtk.vtkEGLRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(*SIZE)
    window.SetMultiSamples(0)
    window.AddRenderer(scene)
    with opened_context() as context:
        renderer = Renderer(context)
        renderer.load(volume, soft, transfer)
        camera = renderer.fit_camera(settings, SIZE)
        eye = scene.GetActiveCamera()
        eye.SetPosition(*camera.eye)
        eye.SetFocalPoint(*(camera.eye + camera.forward))
        eye.SetViewUp(*camera.up)
        eye.SetViewAngle(float(np.degrees(2 * np.arctan(camera.half_height))))
        scene.ResetCameraClippingRange()

        def theirs() -> None:
            eye.Azimuth(1e-3)  # so that it draws again
            window.Render()
            window.WaitForCompletion()

        def ours() -> None:
            with context:  # VTK has made its own the current one
                renderer.accumulate(camera, settings, SIZE, frames=1)

        ours()
        with context:
            mine = np.rint(255 * np.clip(renderer.mean()[..., :3], 0, 1))
        theirs()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(window)
        grab.ReadFrontBufferOff()
        grab.Update()
        scalars = grab.GetOutput().GetPointData().GetScalars()
        other = numpy_support.vtk_to_numpy(scalars).reshape(SIZE[1], SIZE[0], -1)[::-1, :, :3].astype(float)
        error = float(np.sqrt(((mine - other) ** 2).mean()))
        Image.fromarray(np.concatenate([mine, other], axis=1).astype(np.uint8)).save(picture)
        if error > 8:
            raise SystemExit(f"not the same picture: rmse {error:.2f} grey levels; see {picture}")
        times = in_turn({"cryoet-engine": ours, "VTK": theirs}, rounds)
    ratio = times["VTK"]["median_ms"] / times["cryoet-engine"]["median_ms"]
    version = vtk.vtkVersion().GetVTKVersion()
    return {"size": SIZE, "vtk": version, "rmse_grey_levels": error, "times": times, "ours_is_times_faster": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--volume", default="96,128,128")
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--views", type=int, default=36)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--depths", default=",".join(map(str, benchmark.PAPER_DEPTHS)))
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    width, height = (int(n) for n in args.size.split("x"))
    z, y, x = (int(n) for n in args.volume.split(","))
    content: dict[str, Any] = {"commit": commit(), "machine": machine()}
    measured = benchmark.measure((z, y, x), (width, height), runs=args.rounds)
    content |= {"rows": measured.pop("rows"), "measured": measured}
    for row in content["rows"]:
        print(f"{row['mode']:10s} {row['ms_per_frame']:9.2f} ms  rmse {row['rmse_to_converged']:.4f}", flush=True)
    content["inline"] = gain_over_inline(args.rounds)
    for name, entry in content["inline"]["times"].items():
        print(f"{name:40s} {entry['median_ms']:9.1f} ms", flush=True)
    print(f"gain over inline light: {content['inline']['gain']:.1f}", flush=True)
    try:
        content["vtk"] = beside_vtk(args.rounds, args.results / "render_vtk.png")
        times = {name: entry["median_ms"] for name, entry in content["vtk"]["times"].items()}
        print(f"DVR beside VTK: {times}, {content['vtk']['ours_is_times_faster']:.2f} times", flush=True)
    except ImportError as missing:
        print(f"VTK is not here ({missing}): no contest")
    if args.paper:
        depths = tuple(int(n) for n in args.depths.split(","))
        content["paper"] = benchmark.paper_table(depths=depths, views=args.views, runs=args.runs)
        print("\n".join(benchmark.summary(content["paper"])))
    (args.results / "render.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
