# SPDX-License-Identifier: MIT
"""What goes wrong is told in one sentence: memory refused, a card gone, scenes and sizes that do not fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from drawing import AS_IT_IS, BARE, looking, opened, ramps, soft, waves

from cryoet_engine import CryoETError, SoftSegmentation, TransferFunction, Volume
from cryoet_engine.render import DeviceError, Renderer, RenderSettings
from cryoet_engine.transfer import Ramp

LIT = dataclasses.replace(BARE, occlusion=0.9, shadow=0.8, bloom=0.2)
SIZE = (16, 16)


class Failing:
    """A context whose `error`, from the n-th time it is asked, is that of a card without memory or gone."""

    def __init__(self, context: Any, after: int, error: str) -> None:
        self._context, self._after, self._error = context, after, error
        self.asked = 0

    @property
    def error(self) -> str:
        self.asked += 1
        return self._error if self.asked > self._after else self._context.error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def draw_on(context: Any) -> np.ndarray:
    field = waves((12, 12, 12), 1)
    renderer = Renderer(context)
    renderer.load(Volume(field), soft(field), ramps(1, AS_IT_IS, left=0.4))
    renderer.accumulate(renderer.fit_camera(LIT, SIZE), LIT, SIZE)
    return renderer.present(LIT)


@pytest.mark.parametrize("error", ["GL_OUT_OF_MEMORY", "GL_CONTEXT_LOST"])
def test_a_failure_at_any_stage_ends_in_one_sentence(gl: Any, error: str) -> None:
    healthy = Failing(gl, 10**9, error)
    assert draw_on(healthy)[..., :3].any()
    assert healthy.asked >= 8  # textures, maps, light, picture, bloom, after drawing
    for after in range(healthy.asked):
        with pytest.raises(DeviceError, match=error) as caught:
            draw_on(Failing(gl, after, error))
        assert "\n" not in str(caught.value)
    assert draw_on(gl)[..., :3].any()  # and the context still draws


def test_more_classes_than_fit_are_named_with_the_way_out(gl: Any) -> None:
    names = ("background", *(f"class {n}" for n in range(8)))
    scene = SoftSegmentation(np.zeros((9, 4, 4, 4), np.uint8), names)
    transfer = TransferFunction(classes=names, ramps=tuple(Ramp(left=0.5, visible=0 < n < 4) for n in range(9)))
    opened(gl, None, scene, transfer)  # three of the eight are visible: they fit
    with pytest.raises(CryoETError, match=r"at most 7 classes.*got 8"):
        opened(gl, None, scene, transfer, keep_hidden=True)


def test_what_comes_before_its_time_is_told(gl: Any) -> None:
    renderer = Renderer(gl)
    for call in (
        lambda: renderer.accumulate(looking(), BARE, SIZE),
        lambda: renderer.probe(looking(), BARE, SIZE),
        lambda: renderer.set_transfer(ramps(1)),
        lambda: renderer.fit_camera(BARE, SIZE),
    ):
        with pytest.raises(CryoETError, match="load"):
            call()


@pytest.mark.parametrize("size", [(0, 16), (16, 0), (-4, 16), (10**6, 16), (16.5, 16), (True, 16), (16,)])
def test_no_picture_and_no_probe_has_an_impossible_size(gl: Any, size: Any) -> None:
    renderer = opened(gl, None, soft(np.ones((4, 4, 4))), ramps(1))
    for call in (renderer.accumulate, renderer.probe):
        with pytest.raises(CryoETError, match="size"):
            call(looking(), BARE, size)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "fast"},
        {"source": "both"},
        {"iso_value": 0.0},
        {"iso_value": float("nan")},
        {"light_spacing": 3},
        {"raw_colors": "rainbow"},
        {"raw_colors": ((0.0, 1, 1, 1, 0), (0.5, 1, 1, 1, 1))},
        {"raw_colors": ((0.0, 1, 1, 1, 0), (0.6, 1, 1, 1, 1), (0.6, 1, 1, 1, 1), (1.0, 1, 1, 1, 1))},
        {"slices": (1, 2)},
        {"slices": (-1, None, None)},
        {"supersampling": 5},
        {"frames": 0},
        {"step_vox": 0.0},
        {"exposure": float("inf")},
        {"target_vox": (1.0, float("nan"), 2.0)},
    ],
)
def test_settings_out_of_range_name_the_field(changes: dict[str, Any]) -> None:
    with pytest.raises(CryoETError, match=next(iter(changes))):
        RenderSettings(**changes)


@pytest.mark.parametrize("mode", ["cached", "reference", "dvr", "iso", "mip", "vpt"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 7), (9, 1, 1)])
def test_one_thick_volumes_are_drawn(gl: Any, mode: Any, shape: tuple[int, int, int]) -> None:
    renderer = opened(gl, None, soft(np.ones(shape)), ramps(1))
    settings = dataclasses.replace(LIT, mode=mode)
    renderer.accumulate(renderer.fit_camera(settings, SIZE), settings, SIZE)
    seen = renderer.mean()
    assert np.isfinite(seen).all() and seen[..., 3].max() > 0.9
