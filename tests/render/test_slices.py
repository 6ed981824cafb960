# SPDX-License-Identifier: MIT
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cryoet_engine import SoftSegmentation, Volume
from cryoet_engine._checks import InputError
from cryoet_engine.render import slice_overlay, thumbnail


def scene(**grid: Any) -> tuple[Volume, SoftSegmentation]:
    grey = np.random.default_rng(0).normal(0, 1, (6, 20, 30)).astype(np.float32)
    p = np.zeros((2, 6, 20, 30), np.float32)
    p[1, :, 12:18, 20:26] = 1
    p[0] = 1 - p[1]
    return Volume(grey, **grid), SoftSegmentation(p, ("background", "virion"), colors=((0, 0, 0), (1, 0, 0)), **grid)


def test_the_class_is_colored_where_it_is_with_y_up() -> None:
    volume, soft = scene()
    pixels = np.asarray(slice_overlay(volume, soft, alpha=1.0, size=300)).astype(int)
    assert pixels.shape == (200, 300, 3)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60)
    rows, columns = np.nonzero(red[:, 150:])
    assert np.ptp(rows) == pytest.approx(60, abs=12)
    assert rows.mean() == pytest.approx(200 - 150, abs=3)  # y 12 to 18 of 20, upwards
    assert columns.mean() + 150 == pytest.approx(229.5, abs=3)


@pytest.mark.parametrize(("axis", "aspect"), [("z", 30 / 20), ("y", 30 / 12), ("x", 20 / 12)])
def test_every_axis_keeps_the_physical_aspect(axis: Any, aspect: float) -> None:
    volume, soft = scene(voxel_size_A=(20.0, 10.0, 10.0))
    width, height = slice_overlay(volume, soft, axis=axis, size=600).size
    assert width == 600 and width / height == pytest.approx(aspect, rel=0.02)


def test_truth_is_outlined() -> None:
    volume, soft = scene()
    labels = np.ones((6, 20, 30), np.uint8)
    labels[:, 2:6, 2:8] = 2
    plain = np.asarray(slice_overlay(volume, soft, size=300)).astype(int)
    outlined = np.asarray(slice_overlay(volume, soft, size=300, truth=Volume(labels))).astype(int)
    changed = np.abs(outlined - plain).max(-1) > 30
    assert changed[140:180, 20:80].sum() > 100
    assert not changed[145:175, 25:75].any()  # inside the outline


def test_nan_constant_and_missing_parts_are_drawn() -> None:
    volume, soft = scene()
    volume.data[3, 4, 5] = np.nan
    assert slice_overlay(volume, soft, index=3).size == (640, 427)
    assert slice_overlay(volume, None).size == (640, 427)
    assert slice_overlay(None, soft).size == (640, 427)
    flat = volume.with_data(np.full((6, 20, 30), np.nan, np.float32))
    assert slice_overlay(flat, None).size == (640, 427)
    assert thumbnail(flat).size[0] > 100


def test_wrong_slices_are_refused() -> None:
    volume, soft = scene()
    with pytest.raises(InputError, match="0 to 5 along z"):
        slice_overlay(volume, soft, index=6)
    with pytest.raises(InputError, match="axis"):
        slice_overlay(volume, soft, axis="w")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one of them"):
        slice_overlay(None, None)
    with pytest.raises(InputError, match="shape"):
        slice_overlay(volume, soft, truth=Volume(np.zeros((1, 2, 3))))
    with pytest.raises(InputError, match="alpha"):
        slice_overlay(volume, soft, alpha=2)
    with pytest.raises(InputError, match="size"):
        slice_overlay(volume, soft, size=2)


def test_a_thumbnail_unfolds_the_box() -> None:
    grey = np.zeros((4, 20, 30), np.uint8)
    grey[:, :10] = 200  # low y, which is at the bottom of the z slice
    width, height = thumbnail(Volume(grey), size=384).size
    assert max(width, height) == pytest.approx(384, abs=2)
    pixels = np.asarray(thumbnail(Volume(grey), size=384))[..., 0]
    assert pixels[5, 5] == 0 and pixels[200, 5] == 255
    assert pixels[5, -5] == 0 and pixels[200, -5] == 255  # the x slice at the right shares the y axis


def test_a_real_tomogram_has_a_thumbnail(test_data) -> None:
    from cryoet_engine import io

    volume = io.read_volume(test_data / "lysosome" / "lysosome_bin2.mrc")
    image = thumbnail(volume)
    assert max(image.size) == 768 and np.asarray(image).std() > 20
