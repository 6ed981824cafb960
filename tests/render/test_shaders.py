# SPDX-License-Identifier: MIT
from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest

from cryoet_engine.render import DeviceError, shaders

VARIANTS: dict[str, list[dict[str, int]]] = {
    "march.comp": [
        {
            "CLASSES": classes,
            "MULTIPLY_RAW": classes % 2,
            "CUT": cut,
            "SKIP": int(cut != 1),
            "JITTER": 1,
            "OCCLUSION_SAMPLES": 4 * (cut > 0),
            "SHADOW_SAMPLES": 4 * (cut < 2),
        }
        for classes, cut in ((0, 0), (1, 1), (3, 2), (4, 0), (7, 2))
    ],
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
    line = read("light.glsl").splitlines().index("float shadow(vec3 p, uvec3 offset) {") + 1

    def broken(file: str) -> str:
        return read(file).replace("float shadow(vec3 p, uvec3 offset) {", "float shadow(vec3 p, no_type offset) {")

    monkeypatch.setattr(shaders, "_read", broken)
    defines = VARIANTS["march.comp"][0]
    with pytest.raises(DeviceError, match=rf"light\.glsl:{line}\b"):
        shaders.compile_shader(gl, "march.comp", defines)
