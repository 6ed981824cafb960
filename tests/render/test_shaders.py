# SPDX-License-Identifier: MIT
from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest

from cryoet_engine.render import DeviceError, shaders


def matter(classes: int, raw: int, **more: int) -> dict[str, int]:
    """Defines of shaders/matter.glsl, ray.glsl and light.glsl for so many classes."""
    textures = 1 + int(classes > (3 if raw else 4))
    return {
        "CLASSES": classes,
        "TEXTURES": textures if raw < 2 else 2,
        "RAW": raw,
        "MULTIPLY_RAW": int(raw > 0),
        "CUTS": classes % 4,
        "BOX": int(classes > 3),
        "SOURCE_RAW": 0,
        "SKIP": 1,
        "JITTER": 1,
        "SLABS": int(classes == 3),
        "WIDE": int(classes == 4),
        "SCALAR": 0,
        "LISTED": 1,
        "POINTS": 4,
        "FAR": classes % 2,
        "LIGHT": classes % 3,
        "SLICES": int(classes > 2),
        "ISO": int(classes == 1),
        "COUNTING": int(classes == 4),
        "OCCLUSION_SAMPLES": 4 * (classes % 2),
        "SHADOW_RAYS": 1,
        "SHADOW_STEPS": 4 * int(classes != 3),
        **more,
    }


SCENES = [
    *(matter(classes, raw) for classes, raw in ((0, 0), (1, 1), (3, 1), (4, 0), (4, 2), (7, 0), (7, 2))),
    matter(3, 1, SOURCE_RAW=1),
    matter(5, 2, SOURCE_RAW=1, SCALAR=1, LISTED=0),
]
VARIANTS: dict[str, list[dict[str, int]]] = {
    **dict.fromkeys(("march.comp", "surface.comp", "projection.comp", "paths.comp", "probe.comp"), SCENES),
    **dict.fromkeys(("occupancy.comp", "light.comp"), SCENES),
    "cell_max.comp": [{"CELL": 4, "COMPONENTS": n} for n in (1, 2, 4)],
    "distance.comp": [{"AXIS": axis} for axis in range(3)],
    "bright.comp": [{"WIDE": 0}, {"WIDE": 1}],
    "fold.comp": [{"WIDE": 0}, {"WIDE": 1}],
    "present.comp": [{"WIDE": wide, "BLOOM": bloom} for wide in (0, 1) for bloom in (0, 1)],
}


@pytest.mark.parametrize("name", shaders.shader_names())
def test_every_shader_compiles(gl: Any, name: str) -> None:
    for defines in VARIANTS.get(name, [{}]):
        shaders.compile_shader(gl, name, defines).release()


@pytest.mark.parametrize("name", shaders.shader_names())
def test_every_line_keeps_its_file_and_number(name: str) -> None:
    composed = shaders.compose(name, {"CLASSES": 3, "SKIP": 1})
    folder = resources.files("cryoet_engine.shaders")
    texts = [folder.joinpath(file).read_text().splitlines() for file in composed.files]
    assert len(set(composed.files)) == len(composed.files)  # each once
    file, number, seen = None, 0, 0
    for line in composed.source.splitlines():
        if match := re.fullmatch(r"#line (\d+) (\d+)", line):
            number, file = int(match[1]), int(match[2])
            continue
        if file is not None and not line.startswith("#define"):
            assert line == texts[file][number - 1]
            seen += 1
        number += 1
    assert seen > 10
    assert composed.source.count("#version") == 1


def test_a_compiler_error_names_file_and_line(gl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = shaders._read
    line = read("light.glsl").splitlines().index("float shadow(vec3 p, uvec3 offset, uint first) {") + 1

    def broken(file: str) -> str:
        return read(file).replace(
            "float shadow(vec3 p, uvec3 offset, uint first) {", "float shadow(vec3 p, no_type offset, uint first) {"
        )

    monkeypatch.setattr(shaders, "_read", broken)
    defines = matter(2, 1)
    with pytest.raises(DeviceError, match=rf"light\.glsl:{line}\b"):
        shaders.compile_shader(gl, "march.comp", defines)


def test_lines_are_right_after_an_include_that_is_skipped(gl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "main.comp": '#version 430\n#if 0\n#include "part.glsl"\n#endif\nlayout(local_size_x = 1) in;\nwrong here;\n',
        "part.glsl": "float part;\n\n\n\n",
    }
    monkeypatch.setattr(shaders, "_read", files.__getitem__)
    with pytest.raises(DeviceError, match=r"main\.comp:6"):
        shaders.compile_shader(gl, "main.comp")
