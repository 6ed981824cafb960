# SPDX-License-Identifier: MIT
"""The panels beside the pictures: classes and brush, ramps, light, view, cuts, networks, what is going on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ..render.settings import BACKGROUNDS, LIGHTS, MAX_CUTS, RAW_COLORS, Box
from ..render.tone import srgb
from ..transfer import PRESETS, Ramp
from .document import Document, diameter_label, middle_cut
from .live import Confinement
from .strokes import Brush

if TYPE_CHECKING:
    from .app import Viewer

_MODES = {
    "cached": "lit, cached",
    "reference": "lit, reference (slow)",
    "dvr": "plain DVR",
    "iso": "iso-surface",
    "mip": "maximum intensity",
    "vpt": "path tracing",
}
_LEAST_GAP = 0.004  # between a ramp's ends


def _linear(display: Any) -> tuple[float, float, float]:
    values = np.asarray(display, float)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    red, green, blue = (float(min(max(v, 0.0), 1.0)) for v in linear)
    return red, green, blue


def _color_edit(viewer: Viewer, name: str, color: tuple[float, float, float]) -> None:
    """A small field that changes the colour of a class."""
    imgui = viewer.imgui
    flags = imgui.ColorEditFlags_.no_inputs | imgui.ColorEditFlags_.no_label
    changed, shown = imgui.color_edit3("##color", [float(v) for v in srgb(color)], flags)
    if changed:
        viewer.recolor(name, _linear([shown[0], shown[1], shown[2]]))
    if imgui.is_item_deactivated_after_edit():
        viewer.recolored()


def _one_of(viewer: Viewer, label: str, names: Iterable[str]) -> str | None:
    """A list to pick something to do from; what was picked."""
    imgui = viewer.imgui
    picked = None
    if imgui.begin_combo(f"##{label}", f"{label} ..."):
        for name in names:
            if imgui.selectable(name, False)[0]:
                picked = name
        imgui.end_combo()
    return picked


# ---- classes and brush


def classes(viewer: Viewer, document: Document) -> None:
    """Classes with colours, counts and confinements; brush, eraser, undo; live labels."""
    imgui, strokes = viewer.imgui, document.strokes
    counts, removed = strokes.counts(), 0  # as the frame begins: what is done below changes them
    for label, one in enumerate(strokes.classes, start=1):
        imgui.push_id(label)
        _color_edit(viewer, one.name, one.color)
        imgui.same_line()
        chosen = viewer.label == label and not viewer.erasing
        width = imgui.get_content_region_avail().x - 6.5 * imgui.get_font_size()
        if imgui.selectable(f"{label}  {one.name}", chosen, 0, (max(width, 40.0), 0))[0]:
            viewer.choose(label)
        if imgui.is_item_hovered():
            imgui.set_tooltip(f"{counts[label - 1]} voxels drawn; key {label}; right click for more")
        if imgui.begin_popup_context_item("##more"):
            removed = label if _class_menu(viewer, document, label) else removed
            imgui.end_popup()
        imgui.same_line()
        imgui.text_disabled(f"{counts[label - 1]}")
        if label > 1 and document.transfer is not None and one.name in document.transfer.classes:
            imgui.same_line(imgui.get_window_width() - 2.6 * imgui.get_font_size())
            changed, shown = imgui.checkbox("##visible", document.transfer.ramp(one.name).visible)
            if changed:
                viewer.change_ramp(one.name, visible=shown)
            if imgui.is_item_hovered():
                imgui.set_tooltip("shown in 3D")
        imgui.pop_id()
    if removed:
        viewer.remove_class(removed)
    if imgui.button("Add class"):
        viewer.add_class()
    imgui.separator()
    for name, on, choose in (
        ("Navigate (N)", not viewer.drawing, viewer.navigate),
        ("Brush (B)", viewer.drawing and not viewer.erasing, viewer.draw_strokes),
        ("Eraser (E)", viewer.drawing and viewer.erasing, viewer.erase),
    ):
        if imgui.radio_button(name, on):
            choose()
    changed, radius = imgui.slider_float(
        "size", viewer.brush.radius_vox, 0.5, 20.0, diameter_label(document, viewer.brush.radius_vox)
    )
    if changed:
        viewer.brush = Brush(radius, viewer.brush.spherical)
    changed, spherical = imgui.checkbox("3D brush", viewer.brush.spherical)
    if changed:
        viewer.brush = Brush(viewer.brush.radius_vox, spherical)
    imgui.begin_disabled(not viewer.can_undo)
    if imgui.button("Undo"):
        viewer.undo()
    imgui.end_disabled()
    imgui.same_line()
    imgui.begin_disabled(not viewer.can_redo)
    if imgui.button("Redo"):
        viewer.redo()
    imgui.end_disabled()
    imgui.separator()
    changed, live = imgui.checkbox("Live labels", viewer.live_wanted)
    if changed:
        viewer.live_wanted = live
        if live:
            viewer.learn()
    if imgui.is_item_hovered():
        imgui.set_tooltip("train a forest after every stroke and predict: visible slices first")
    imgui.same_line()
    changed, whole = imgui.checkbox("and 3D", viewer.live_whole)
    if changed:
        viewer.live_whole = whole
        if whole:
            viewer.learn()
    if imgui.is_item_hovered():
        imgui.set_tooltip("then the whole volume, which 3D shows; off at first for very large ones")
    _overlay(viewer)


def _class_menu(viewer: Viewer, document: Document, label: int) -> bool:
    """Name and confinement of a class; whether it is to be removed."""
    imgui = viewer.imgui
    one = document.strokes.classes[label - 1]
    changed, name = imgui.input_text("name", one.name, imgui.InputTextFlags_.enter_returns_true)
    if changed and name.strip() and name != one.name:
        viewer.rename(label, name.strip())
        imgui.close_current_popup()
    if label > 1 and len(document.strokes.classes) > 2 and imgui.menu_item("Remove, with its strokes", "", False)[0]:
        return True
    if label == 1:
        return False
    imgui.separator()
    imgui.text_disabled("keep this class")
    mine = next((c for c in document.confinements if c.class_name == one.name), Confinement(one.name))
    near = ["anywhere", *(c.name for c in document.strokes.classes if c.name != one.name)]
    at = near.index(mine.near) if mine.near in near else 0
    changed, at = imgui.combo("near", at, near)
    if changed:
        mine = replace(mine, near=None if at == 0 else near[at], distance_vox=mine.distance_vox or 8.0)
        viewer.confine(mine)
    if mine.near is not None:
        changed, distance = imgui.slider_float("within", mine.distance_vox, 1.0, 40.0, "%.0f voxels")
        if changed:
            viewer.confine(replace(mine, distance_vox=distance), learn=False)
        if imgui.is_item_deactivated_after_edit():
            viewer.learn()
    changed, boxed = imgui.checkbox("in a box about the cross-hair", mine.box is not None)
    if changed:
        half = [n // 4 for n in document.volume.shape]
        box = tuple(
            (max(0, at - h), min(n, at + h)) for at, h, n in zip(document.at, half, document.volume.shape, strict=True)
        )
        viewer.confine(replace(mine, box=(box[0], box[1], box[2]) if boxed else None))
    if mine.box is not None:
        sides = list(mine.box)
        for axis, length in enumerate(document.volume.shape):
            first, last = sides[axis]
            changed, pair = imgui.slider_int2("zyx"[axis] + "##box", [first, last], 0, length)
            if changed and pair[0] < pair[1]:
                sides[axis] = (int(pair[0]), int(pair[1]))
                viewer.confine(replace(mine, box=(sides[0], sides[1], sides[2])), learn=False)
            if imgui.is_item_deactivated_after_edit():
                viewer.learn()
    return False


def _overlay(viewer: Viewer) -> None:
    imgui, overlay = viewer.imgui, viewer.overlay
    changed, value = imgui.slider_float("labels", overlay.classes, 0.0, 1.0, "%.2f")
    if changed:
        viewer.overlay = replace(viewer.overlay, classes=value)
    changed, value = imgui.slider_float("strokes", overlay.strokes, 0.0, 1.0, "%.2f")
    if changed:
        viewer.overlay = replace(viewer.overlay, strokes=value)
    changed, low, high = imgui.drag_float_range2("contrast", *overlay.contrast, 0.005, -0.5, 1.5, "%.2f")
    if changed and high - low > 0.02:
        viewer.overlay = replace(viewer.overlay, contrast=(low, high))
    changed, value = imgui.checkbox("Uncertainty (U)", overlay.uncertainty)
    if changed:
        viewer.overlay = replace(viewer.overlay, uncertainty=value)
    if imgui.is_item_hovered():
        imgui.set_tooltip("where classes are undecided: draw there next")


# ---- ramps


def ramps(viewer: Viewer, document: Document) -> None:
    """A ramp a class over its histogram, dragged at its ends; presets; the raw volume's."""
    imgui, transfer = viewer.imgui, document.transfer
    if transfer is None or document.scene is None:
        imgui.text_disabled("nothing to draw yet")
        return
    for number, name in enumerate(transfer.classes[1:], start=1):
        imgui.push_id(name)
        ramp = transfer.ramp(name)
        changed, visible = imgui.checkbox("##visible", ramp.visible)
        if changed:
            viewer.change_ramp(name, visible=visible)
        imgui.same_line()
        _color_edit(viewer, name, ramp.color)
        imgui.same_line()
        imgui.text(name)
        imgui.same_line(imgui.get_window_width() - 8 * imgui.get_font_size())
        imgui.set_next_item_width(7 * imgui.get_font_size())
        changed, opacity = imgui.slider_float("##opacity", ramp.opacity, 0.0, 1.0, "opacity %.2f")
        if changed:
            viewer.change_ramp(name, opacity=opacity)
        _ramp_plot(viewer, name, ramp, document.scene.counts[number])
        imgui.pop_id()
    if len(transfer.classes) > 1 and (chosen := _one_of(viewer, "preset", PRESETS)) is not None:
        viewer.ramp_preset(chosen)
    if transfer.raw is not None:
        imgui.separator()
        changed, low, high = imgui.drag_float_range2(
            "raw ramp", transfer.raw.left, transfer.raw.right, 0.005, 0.0, 1.0, "%.2f"
        )
        if changed and high - low > _LEAST_GAP:
            document.transfer = replace(transfer, raw=replace(transfer.raw, left=max(low, 0.0), right=min(high, 1.0)))
        changed, multiply = imgui.checkbox("multiply with the raw volume", document.settings.multiply_raw)
        if changed:
            document.settings = replace(document.settings, multiply_raw=multiply)


def _ramp_plot(viewer: Viewer, name: str, ramp: Ramp, counts: Any) -> None:
    """The class's histogram (log) with the ramp over it."""
    imgui, implot = viewer.imgui, viewer.implot
    flags, axis = implot.Flags_, implot.AxisFlags_
    bare = axis.no_label | axis.no_grid_lines | axis.lock
    height = 5.0 * imgui.get_font_size()
    implot.push_style_var(implot.StyleVar_.plot_padding, (6.0, 4.0))
    shown = implot.begin_plot("##ramp", (-1, height), flags.no_legend | flags.no_mouse_text | flags.no_menus)
    implot.pop_style_var()
    if not shown:
        return
    implot.setup_axes("", "", bare, bare | axis.no_tick_labels | axis.no_tick_marks)
    implot.setup_axes_limits(0.0, 1.0, 0.0, 1.08, implot.Cond_.always)
    tall = np.log1p(np.asarray(counts, float))
    tall = np.ascontiguousarray(tall / max(float(tall.max()), 1e-9))
    middles = (np.arange(len(tall)) + 0.5) / len(tall)
    shade = srgb(ramp.color)
    spec = implot.Spec()
    spec.fill_color = imgui.ImVec4(float(shade[0]), float(shade[1]), float(shade[2]), 0.45)
    implot.plot_bars("##histogram", middles, tall, 1 / len(tall), spec)
    line = implot.Spec()
    line.line_color = imgui.ImVec4(float(shade[0]), float(shade[1]), float(shade[2]), 1.0)
    line.line_weight = 2.0
    implot.plot_line(
        "##ramp", np.array([0.0, ramp.left, ramp.right, 1.0]), np.array([0.0, 0.0, ramp.opacity, ramp.opacity]), line
    )
    ink = imgui.get_style().color_(imgui.Col_.text)
    moved_left, left = implot.drag_line_x(0, ramp.left, ink, 1.5)[:2]
    moved_right, right = implot.drag_line_x(1, ramp.right, ink, 1.5)[:2]
    implot.end_plot()
    if moved_left:
        viewer.change_ramp(name, left=min(max(left, 0.0), ramp.right - _LEAST_GAP))
    elif moved_right:
        viewer.change_ramp(name, right=max(min(right, 1.0), ramp.left + _LEAST_GAP))


# ---- light, view, cuts


def _slider(viewer: Viewer, document: Document, label: str, name: str, low: float, high: float, form: str) -> None:
    changed, value = viewer.imgui.slider_float(label, getattr(document.settings, name), low, high, form)
    if changed:
        document.settings = replace(document.settings, **{name: min(max(value, low), high)})


def _switch(viewer: Viewer, document: Document, label: str, name: str) -> None:
    changed, value = viewer.imgui.checkbox(label, getattr(document.settings, name))
    if changed:
        document.settings = replace(document.settings, **{name: value})


def light(viewer: Viewer, document: Document) -> None:
    """Presets, direction, occlusion, shadow, bloom, background."""
    imgui = viewer.imgui
    if (preset := _one_of(viewer, "preset", LIGHTS)) is not None:
        document.settings = document.settings.with_light(preset)
    imgui.text_disabled("ctrl and drag in 3D moves the light")
    _slider(viewer, document, "azimuth", "light_azimuth_deg", -180, 180, "%.0f°")
    _slider(viewer, document, "elevation", "light_elevation_deg", -89, 89, "%.0f°")
    _slider(viewer, document, "softness", "light_size_deg", 0, 45, "%.0f°")
    _slider(viewer, document, "occlusion", "occlusion", 0, 1, "%.2f")
    _slider(viewer, document, "its radius", "occlusion_radius_vox", 2, 40, "%.0f voxels")
    _slider(viewer, document, "shadow", "shadow", 0, 1, "%.2f")
    _slider(viewer, document, "its range", "shadow_range_vox", 5, 200, "%.0f voxels")
    _slider(viewer, document, "bloom", "bloom", 0, 2, "%.2f")
    _slider(viewer, document, "exposure", "exposure", 0.2, 4, "%.2f")
    _switch(viewer, document, "light follows the camera", "light_follows_camera")
    grounds = list(BACKGROUNDS)
    ground = document.settings.background
    changed, chosen = imgui.combo("background", grounds.index(ground) if ground in grounds else -1, grounds)
    if changed:
        document.settings = replace(document.settings, background=grounds[chosen])


def view(viewer: Viewer, document: Document) -> None:
    """Technique, camera, what is drawn onto the picture, quality, planes, dust."""
    imgui, settings = viewer.imgui, document.settings
    modes = list(_MODES)
    changed, chosen = imgui.combo("technique", modes.index(settings.mode), list(_MODES.values()))
    if changed:
        document.settings = settings = replace(settings, mode=modes[chosen])
    if settings.mode not in ("cached", "reference"):
        changed, raw = imgui.checkbox("of the raw volume", settings.source == "raw")
        if changed:
            document.settings = settings = replace(settings, source="raw" if raw else "classes")
        if settings.mode == "iso":
            _slider(viewer, document, "level", "iso_value", 0.01, 0.99, "%.2f")
        if settings.source == "raw" and settings.mode in ("dvr", "vpt"):
            names = list(RAW_COLORS)
            at = names.index(settings.raw_colors) if settings.raw_colors in names else -1
            changed, chosen = imgui.combo("colours", at, names)
            if changed:
                document.settings = replace(settings, raw_colors=names[chosen])
    if imgui.button("Fit (R)"):
        viewer.reset_view()
    for name, angles in (("Top", (0.0, 90.0)), ("Front", (0.0, 0.0)), ("Side", (90.0, 0.0))):
        imgui.same_line()
        if imgui.button(name):
            document.settings = replace(document.settings, azimuth_deg=angles[0], elevation_deg=angles[1], roll_deg=0)
    changed, flat = imgui.checkbox("orthographic", settings.projection == "orthographic")
    if changed:
        document.settings = replace(document.settings, projection="orthographic" if flat else "perspective")
    for label, name in (("scale bar", "scale_bar"), ("legend", "legend"), ("axes", "axes")):
        _switch(viewer, document, label, name)
        imgui.same_line()
    imgui.new_line()
    imgui.begin_disabled(settings.mode not in ("cached", "reference", "dvr"))  # others draw none
    _, document.slices_in_3d = imgui.checkbox("slices in 3D", document.slices_in_3d)
    imgui.end_disabled()
    imgui.separator()
    _cuts(viewer, document)
    imgui.separator()
    _dust(viewer, document)
    imgui.separator()
    _quality(viewer, document)


def _cuts(viewer: Viewer, document: Document) -> None:
    imgui = viewer.imgui
    settings = document.settings
    full = len(settings.cuts) >= MAX_CUTS
    imgui.text_disabled("planes (drag the dots in 3D)")
    imgui.begin_disabled(full)
    for name, normal in (("z", (1.0, 0.0, 0.0)), ("y", (0.0, -1.0, 0.0)), ("x", (0.0, 0.0, 1.0))):
        if imgui.button(f"cut {name}"):
            document.settings = replace(settings, cuts=(*settings.cuts, middle_cut(document, normal)))
        imgui.same_line()
    imgui.end_disabled()
    imgui.new_line()
    for number, cut in enumerate(document.settings.cuts):
        imgui.push_id(number)
        names = ["all classes", *document.transfer.classes[1:]] if document.transfer is not None else ["all classes"]
        at = names.index(cut.classes[0]) if cut.classes and cut.classes[0] in names else 0
        imgui.set_next_item_width(8 * imgui.get_font_size())
        changed, at = imgui.combo("##takes", at, names)
        cuts = list(document.settings.cuts)
        if changed:
            cuts[number] = replace(cut, classes=() if at == 0 else (names[at],))
            document.settings = replace(document.settings, cuts=tuple(cuts))
        imgui.same_line()
        if imgui.button("flip"):
            z, y, x = cut.normal
            cuts[number] = replace(cut, normal=(-z, -y, -x))
            document.settings = replace(document.settings, cuts=tuple(cuts))
        imgui.same_line()
        removed = imgui.button("remove")
        if removed:
            document.settings = replace(document.settings, cuts=tuple(c for i, c in enumerate(cuts) if i != number))
        imgui.pop_id()
        if removed:
            break
    boxed = document.settings.box is not None
    changed, boxed = imgui.checkbox("only a box", boxed)
    if changed:
        high = tuple(n - 0.5 for n in document.volume.shape)
        whole = Box(low_vox=(-0.5, -0.5, -0.5), high_vox=(high[0], high[1], high[2]))
        document.settings = replace(document.settings, box=whole if boxed else None)
    box = document.settings.box
    if box is not None:
        low, high_vox = list(box.low_vox), list(box.high_vox)
        for axis, length in enumerate(document.volume.shape):
            ends = [round(low[axis] + 0.5), round(high_vox[axis] + 0.5)]
            changed, pair = imgui.slider_int2("zyx"[axis], ends, 0, length)
            if changed and pair[0] < pair[1]:
                low[axis], high_vox[axis] = pair[0] - 0.5, pair[1] - 0.5
                document.settings = replace(
                    document.settings,
                    box=Box(low_vox=(low[0], low[1], low[2]), high_vox=(high_vox[0], high_vox[1], high_vox[2])),
                )


def _dust(viewer: Viewer, document: Document) -> None:
    imgui = viewer.imgui
    known = document.volume.voxel_size_status != "unknown" and document.has_classes
    imgui.begin_disabled(not known)
    imgui.set_next_item_width(8 * imgui.get_font_size())
    changed, value = imgui.input_float(
        "hide dust below", viewer.dust_nm, 0.0, 0.0, "%.1f nm", imgui.InputTextFlags_.enter_returns_true
    )
    if changed:
        viewer.dust_nm = max(value, 0.0)
        viewer.hide_dust()
    imgui.end_disabled()


def _quality(viewer: Viewer, document: Document) -> None:
    imgui, settings = viewer.imgui, document.settings
    changed, frames = imgui.slider_int("frames", settings.frames, 1, 256)
    if changed:
        document.settings = replace(settings, frames=min(max(frames, 1), 256))
    changed, step = imgui.slider_float("step", settings.step_vox, 0.25, 4.0, "%.2f voxels")
    if changed:
        document.settings = replace(document.settings, step_vox=min(max(step, 0.25), 4.0))


def state(viewer: Viewer, document: Document | None) -> None:
    """Frame rate, memory, work in the background, notes."""
    imgui, window = viewer.imgui, viewer.window
    if window.frame_s:
        imgui.text(f"{1 / window.frame_s:.0f} frames/s, longest {1e3 * window.longest_stall_s:.0f} ms")
    held = viewer.scene.memory()
    imgui.text(f"graphics memory {sum(size for _, size in held) / 2**20:.0f} MiB")
    if imgui.is_item_hovered() and held:
        imgui.set_tooltip("\n".join(f"{name}: {size / 2**20:.1f} MiB" for name, size in held))
    if viewer.scene.wanted:
        imgui.text(f"frame {viewer.scene.frames} of {viewer.scene.wanted}")
    for job in list(viewer.jobs.running):
        if job.cancelled:
            continue
        imgui.push_id(job.name)
        left = job.seconds_left
        text = f"{job.name}: {job.stage}" + (f" ({left:.0f} s left)" if left is not None else "")
        imgui.progress_bar(job.share if job.share is not None else -0.3 * job.seconds, (-60 * window.scale, 0), text)
        imgui.same_line()
        if imgui.small_button("cancel"):
            job.cancel()
        imgui.pop_id()
    if viewer.live is not None:
        word, share = viewer.live.status
        if word and document is not None and sum(n > 0 for n in document.strokes.counts()) >= 2:
            imgui.progress_bar(share if share is not None else 0.0, (-60 * window.scale, 0), f"live labels: {word}")
            imgui.same_line()
            if imgui.small_button("cancel##live"):
                viewer.live.cancel()
    if document is not None and sum(n > 0 for n in document.strokes.counts()) < 2 and not document.has_classes:
        imgui.text_wrapped("Choose a class and draw on a slice: with strokes of two classes, labels follow.")
    for note in viewer.scene.notices:
        imgui.text_wrapped(f"note: {note}")
    for line in reversed(viewer.messages[-20:]):
        imgui.text_wrapped(line)


def pictures(viewer: Viewer, document: Document) -> None:
    """Pictures of any size, turns and key frames."""
    imgui = viewer.imgui
    changed, size = imgui.input_int2("pixels", list(viewer.saving.picture_size))
    if changed:
        width, height = (min(max(int(n), 16), 16384) for n in size)
        viewer.saving.picture_size = (width, height)
    _switch(viewer, document, "transparent", "transparent")
    changed, times = imgui.slider_int("supersampling", document.settings.supersampling, 1, 4)
    if changed:
        document.settings = replace(document.settings, supersampling=min(max(times, 1), 4))
    changed, title = imgui.input_text("title", document.settings.title)
    if changed:
        document.settings = replace(document.settings, title=title)
    imgui.text_wrapped("Scale bar, legend and axes: as in the panel View.")
    imgui.begin_disabled(document.scene is None)
    if imgui.button("Save picture (Ctrl+P)"):
        viewer.saving.ask_picture()
    imgui.separator()
    changed, fps = imgui.slider_float("frames a second", viewer.saving.fps, 5, 60, "%.0f")
    if changed:
        viewer.saving.fps = float(round(min(max(fps, 5), 60)))
    changed, seconds = imgui.slider_float("turn", viewer.saving.turn_s, 1, 30, "%.0f s")
    if changed:
        viewer.saving.turn_s = min(max(seconds, 1.0), 60.0)
    if imgui.button("Save turntable"):
        viewer.saving.ask_turntable()
    imgui.separator()
    changed, seconds = imgui.slider_float("key frames", viewer.saving.key_step_s, 0.5, 10, "%.1f s")
    if changed:
        viewer.saving.key_step_s = min(max(seconds, 0.1), 60.0)
    if imgui.button("Add this view as key frame"):
        viewer.saving.add_key_frame()
    for number, frame in enumerate(viewer.saving.key_frames):
        imgui.push_id(number)
        if imgui.small_button(f"{frame.time_s:.1f} s"):
            document.settings = replace(document.settings, **frame.settings)
        imgui.same_line()
        removed = imgui.small_button("remove")
        imgui.pop_id()
        if removed:
            del viewer.saving.key_frames[number]
            break
    imgui.begin_disabled(len(viewer.saving.key_frames) < 2)
    if imgui.button("Save animation"):
        viewer.saving.ask_key_frames()
    imgui.end_disabled()
    imgui.end_disabled()


def networks(viewer: Viewer, document: Document) -> None:
    """Run a trained network, or train one on the strokes."""
    imgui = viewer.imgui
    if find_spec("torch") is None:
        imgui.text_wrapped("Networks need PyTorch, which is not part of this installation: pip install torch")
        return
    imgui.text_disabled("a folder that `cryoet train` wrote")
    changed, path = imgui.input_text("model", viewer.model_path)
    if changed:
        viewer.model_path = path
    imgui.same_line()
    if imgui.button("..."):
        viewer.browse("Choose a model (folder)", viewer.choose_model, folders=True)
    imgui.begin_disabled(not viewer.model_path or viewer.jobs.running_named("segment") is not None)
    if imgui.button("Segment with it"):
        viewer.segment()
    imgui.end_disabled()
    imgui.separator()
    changed, steps = imgui.input_int("steps", viewer.train_steps, 50)
    if changed:
        viewer.train_steps = min(max(steps, 1), 100_000)
    enough = sum(n > 0 for n in document.strokes.counts()) >= 2
    imgui.begin_disabled(not enough or viewer.jobs.running_named("train") is not None)
    if imgui.button("Train on these strokes, then segment"):
        viewer.train()
    imgui.end_disabled()
    if not enough:
        imgui.text_disabled("draw strokes of at least two classes first")
