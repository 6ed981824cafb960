# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from drawing import Scene
from PIL import Image, ImageFont

from cryoet_engine import CryoETError, SoftSegmentation, TransferFunction
from cryoet_engine.render import RenderSettings, benchmark, figures
from cryoet_engine.render.annotate import Axes, annotate, display_color, font_for
from cryoet_engine.transfer import PRESETS, Ramp

QUICK = RenderSettings(frames=1, light_occlusion_samples=4, light_shadow_rays=1)
SIZE = (64, 48)


@pytest.mark.parametrize(("name", "panels"), [("compare", 8), ("stages", 8), ("journey", 3)])
def test_every_panel_of_a_figure_shows_something(
    gl: Any, scenes: dict[str, Scene], name: str, panels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    sheet = figures._sheet

    def kept(found: Any, **how: Any) -> Image.Image:
        drawn.extend(found)
        return sheet(found, **how)

    monkeypatch.setattr(figures, "_sheet", kept)
    image, _ = getattr(figures, name)(*scenes["spiked_vesicle"], settings=QUICK, size=SIZE)
    assert len(drawn) == panels and len({panel.caption for panel in drawn}) == panels
    assert all(np.asarray(panel.image.convert("RGB")).std() > 5 for panel in drawn)
    different = {np.asarray(panel.image.convert("RGB")).tobytes() for panel in drawn}
    assert len(different) == panels
    assert image.mode == "RGB" and image.width > image.height > 48


def test_foreground_is_the_sum_of_what_is_visible(scenes: dict[str, Scene]) -> None:
    _, soft, transfer = scenes["crowded_vesicles"]
    merged, ramps = figures.foreground(soft, transfer.with_ramp("lumen", visible=False))
    assert np.array_equal(np.asarray(merged.data[1]), soft.data[1])
    rest = np.minimum(soft.data[0].astype(int) + soft.data[2], 255)
    assert np.array_equal(np.asarray(merged.data[0, 3:5]), rest[3:5])
    assert [ramp.visible for ramp in ramps.ramps] == [False, True]
    assert ramps.classes == ("background", "foreground") and ramps.raw == transfer.raw


def test_thresholds_have_a_quadratic() -> None:
    z = np.arange(20)
    curve = 0.3 - 0.001 * (z - 9.0) ** 2
    rows = ((math.nan,) * 20, (*curve[:5], math.nan, *curve[6:]))
    ramps = (Ramp(left=0.5, visible=False), Ramp(left=0.2))
    transfer = TransferFunction(classes=("background", "a"), ramps=ramps, thresholds=rows)
    fit = transfer.threshold_fit("a")
    assert fit is not None and fit.r_squared == pytest.approx(1) and fit.coefficients[0] == pytest.approx(-0.001)
    assert transfer.threshold_fit("background") is None
    image = figures.thresholds(transfer)
    assert image.width > 400 and np.asarray(image).std() > 10
    with pytest.raises(CryoETError, match="estimated"):
        figures.thresholds(dataclasses.replace(transfer, thresholds=()))


def test_rivals_are_not_drawn_from_what_ours_saturates(scenes: dict[str, Scene]) -> None:
    volume, _, transfer = scenes["crowded_vesicles"]
    raw = transfer.raw
    assert raw is not None
    narrow = dataclasses.replace(transfer, raw=dataclasses.replace(raw, at_one=0.5 * raw.at_zero + 0.5 * raw.at_one))
    wide = figures._widened(narrow, above=1.0)
    assert narrow.raw is not None and wide.raw is not None
    whole = volume.numpy().astype(np.float32)
    assert (narrow.raw.mapped(whole) > 0.99).mean() > 0.1
    # Every grey value keeps the opacity that it has in ours.
    before = np.clip((narrow.raw.mapped(whole) - narrow.raw.left) / (narrow.raw.right - narrow.raw.left), 0, 1)
    after = np.clip((wide.raw.mapped(whole) - wide.raw.left) / (wide.raw.right - wide.raw.left), 0, 1)
    assert np.abs(before - after).max() < 1e-5
    shares = [
        (np.rint(255 * wide.raw.mapped(whole)) / 255 >= level).mean()
        for level in figures._levels(volume, wide, figures._ISO_SHARES)
    ]
    assert shares == pytest.approx(figures._ISO_SHARES, abs=0.02)


def test_figures_keep_to_the_memory_allowed(gl: Any, scenes: dict[str, Scene]) -> None:
    volume, soft, transfer = scenes["spiked_vesicle"]
    allowed = int(np.prod(volume.shape)) * 8 // 4  # 16 bit, four values a voxel: a quarter of it
    _, notices = figures.stages(volume, soft, transfer, settings=QUICK, size=SIZE, bits=16, max_bytes=allowed)
    assert any("binned by 2" in notice for notice in notices)


def test_every_letter_of_a_picture_is_known() -> None:
    for words in (["5 Å"], ["0.5 µm", "Ötzi"], ["β-sheet"]):
        font = font_for(words, 20)
        unknown = bytes(font.getmask("\uffff"))
        assert all(bytes(font.getmask(letter)) != unknown for letter in "".join(words) if letter != " ")
    assert font_for(["50 nm", "membrane"], 20).getname() == ImageFont.load_default(20).getname()
    image = Image.new("RGB", (400, 300), "white")
    annotate(image, scale=0.1, axes=None)  # in Å
    assert np.asarray(image).std() > 1


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("a", [0.0, 0.3, 0.99])
def test_a_preset_begins_where_the_ramp_does(name: str, a: float) -> None:
    hidden, shown = Ramp(left=0.5, visible=False), Ramp(left=a, color=(1, 0, 0))
    found = TransferFunction(classes=("background", "a"), ramps=(hidden, shown)).with_preset(name)
    expected = {
        "automatic": (a, 1),
        "soft": (a / 2, 1),
        "solid": (a, a + 0.35 * (1 - a)),
        "surface": (a + 0.3 * (1 - a), a + 0.5 * (1 - a)),
        "translucent": (a, 1),
    }[name]
    assert (found.ramps[1].left, found.ramps[1].right) == pytest.approx(expected)
    assert found.ramps[1].opacity == (0.25 if name == "translucent" else 1)
    assert found.ramps[0] == hidden and found.ramps[1].color == (1, 0, 0)
    with pytest.raises(CryoETError, match="automatic, soft"):
        found.with_preset("hard")


def test_no_two_of_sixteen_classes_look_the_same() -> None:
    many = SoftSegmentation(np.zeros((17, 1, 2, 2), np.uint8), tuple("abcdefghijklmnopq"))
    shown = [display_color(color) for color in many.colors[:16]]
    apart = [math.dist(a, b) for n, a in enumerate(shown) for b in shown[:n]]
    assert min(apart) > 35  # on the scale 0 to 255; the least is 50 among all that repeat
    assert many.colors[16] == many.colors[0]


def test_rivals_need_the_raw_volume(scenes: dict[str, Scene]) -> None:
    _, soft, transfer = scenes["spiked_vesicle"]
    with pytest.raises(CryoETError, match="raw volume"):
        figures.compare(None, soft, transfer, settings=QUICK, size=SIZE)


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_axes_point_where_the_camera_says(background: str, mode: str) -> None:
    image = Image.new(mode, (400, 300), background)
    before = np.asarray(image).astype(int)
    annotate(image, scale=None, axes=Axes((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    changed = np.abs(np.asarray(image).astype(int) - before).max(-1) > 20
    rows, columns = np.nonzero(changed)
    assert rows.min() > 200 and columns.max() < 100  # lower left
    pixels = np.asarray(image.convert("RGB")).astype(int)
    red = changed & (pixels[..., 0] > pixels[..., 1] + 40) & (pixels[..., 0] > pixels[..., 2] + 40)
    green = changed & (pixels[..., 1] > pixels[..., 0] + 40)
    red_rows, red_columns = np.nonzero(red)
    green_rows, green_columns = np.nonzero(green)
    assert np.ptp(red_columns) > 2 * np.ptp(red_rows) and red_columns.max() == columns.max()  # x to the right
    assert np.ptp(green_rows) > 2 * np.ptp(green_columns) and green_rows.min() == rows.min()  # y up


# ------------------------------------------------------------------------------------------------------ benchmark


def test_the_field_of_virions_is_made_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_TILE", (24, 40, 48))
    volume, soft, transfer = benchmark.virion_field((500, 1024, 1440), 3)
    assert volume.shape == soft.shape == (500, 1024, 1440)
    slab = np.asarray(soft.data[:, 300:302, 100:140, 1400:])
    assert slab.shape == (4, 2, 40, 40) and slab.dtype == np.uint8
    assert volume.block((slice(499, 500), slice(0, 3), slice(0, 4))).shape == (1, 3, 4)
    assert transfer.classes == soft.classes
    _, two, _ = benchmark.virion_field((20, 30, 40), 1)
    assert two.classes == ("background", "foreground")
    both = np.asarray(two.data[:, :])
    assert both.shape == (2, 20, 30, 40) and (both.sum(0) == 255).all() and both[1].max() > 200


def test_the_harness_measures_what_it_says(gl: Any) -> None:
    modes = ("cached", "dvr", "vpt")
    result = benchmark.measure(
        (24, 24, 32), (48, 32), modes=modes, views=1, runs=1, truth_size=(32, 24), truth_frames=2
    )
    assert [row["mode"] for row in result["rows"]] == list(modes)
    for row in result["rows"]:
        assert row["ms_per_frame"] > 0 and row["bytes"] > 24 * 24 * 32 * 4 and 0 <= row["rmse_to_converged"] < 1
    assert set(result["dragging_ms"]) == {"ramp", "light"} and result["fetches_per_pixel"]["samples"] > 0
    table = benchmark.paper_table(depths=(16,), sizes=((40, 30),), plane=(16, 24), bits=(8,), views=1, runs=1)
    assert len(table["cells"]) == 2
    lines = benchmark.summary(table)
    assert len(lines) == 4 and "limit" in lines[1]


def test_the_measure_of_error_looks_where_something_is() -> None:
    truth = np.zeros((10, 10, 4), np.float32)
    truth[:5] = 0.5
    other = truth.copy()
    other[5:] = 1.0  # beyond what is seen: no error
    assert benchmark.rmse(other, truth) == 0
    other[:5, :, :3] = 0
    assert benchmark.rmse(other, truth) == pytest.approx(0.735, abs=0.001)  # of sRGB
    assert benchmark.rmse(other, np.zeros_like(truth)) == 0
