# SPDX-License-Identifier: MIT
"""Pictures as they were when a person looked at them. `CRYOET_REGENERATE_GOLDEN=1 pytest tests/render/test_golden.py`
makes them anew: look at them before you commit them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import Scene
from PIL import Image

from cryoet_engine.render import Cut, Renderer, RenderSettings
from cryoet_engine.render.picture import draw

FOLDER = Path(__file__).parent / "golden"
MADE_BY = FOLDER / "made_by.txt"
SIZE = (120, 90)
BASE = RenderSettings(
    frames=4, light_occlusion_samples=32, light_shadow_rays=4, scale_bar=False, legend=False, axes=False
)

#: What one should see in each, and how it is made.
PICTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vesicle": (
        "A sandy ball studded with dark red knobs on a pale ground, lit from the left, its lower right in shade.",
        "spiked_vesicle",
        {},
    ),
    "vesicle_cut": (
        "The same, its upper half gone: a ring of membrane around blue granules, on a dark ground.",
        "spiked_vesicle",
        {"cuts": (Cut(normal=(1, 0, 0)),), "background": "dark"},
    ),
    "crowd_slice": (
        "Vesicles that stand half out of a grey, noisy slice, their shadows on none of it.",
        "crowded_vesicles",
        {"slices": (24, None, None)},
    ),
    "sheet_dramatic": (
        "Three bent filaments above a wavy sheet, on which they throw hard shadows to the right.",
        "filaments_and_sheet",
        {"shadow": 1.0, "light_size_deg": 3.0, "light_elevation_deg": 40.0, "background": "black"},
    ),
    "vesicle_surface": (
        "A shiny surface of the ball with its knobs, colours of the classes, lit from the front left.",
        "spiked_vesicle",
        {"mode": "iso", "iso_value": 0.4},
    ),
    "vesicle_projection": (
        "A flat sandy disc with a few blue and red specks in its middle, knobs around it, on black.",
        "spiked_vesicle",
        {"mode": "mip", "background": "black", "bloom": 0.0},
    ),
    "sheet_transparent": (
        "The sheet and filaments from straight above, no ground behind them.",
        "filaments_and_sheet",
        {"elevation_deg": 90.0, "azimuth_deg": 0.0, "projection": "orthographic", "transparent": True},
    ),
}


def made_by(gl: Any) -> str:
    return f"{gl.info['GL_RENDERER']}, {gl.info['GL_VERSION']}"


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_as_it_was(gl: Any, scenes: dict[str, Scene], name: str) -> None:
    sentence, scene, changes = PICTURES[name]
    renderer = Renderer(gl)
    renderer.load(*scenes[scene])
    image = draw(renderer, dataclasses.replace(BASE, **changes), SIZE)
    path = FOLDER / f"{name}.png"
    if os.environ.get("CRYOET_REGENERATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        image.save(path, optimize=True)
        MADE_BY.write_text(made_by(gl) + "\n")
        return
    if MADE_BY.read_text().strip() != made_by(gl):
        pytest.skip(f"golden pictures are of {MADE_BY.read_text().strip()}; here is {made_by(gl)}")
    with Image.open(path) as golden:
        expected = np.asarray(golden).astype(int)
    difference = np.abs(np.asarray(image).astype(int) - expected)
    assert difference.max() <= 1, (
        f"{difference.max()} grey levels at {(difference > 1).any(-1).sum()} pixels: {sentence}"
    )
