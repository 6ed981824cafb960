# SPDX-License-Identifier: MIT
"""Putting shaders together: `#include "name"` once, defines after `#version`, errors with file and line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from .context import DeviceError

_INCLUDE = re.compile(r'^\s*#include\s+"([^"]+)"\s*$')
# Mesa writes file:line(column), NVIDIA file(line) :
_ERROR_PLACE = re.compile(r"\b(\d+):(\d+)(?=\()|\b(\d+)\((\d+)\)(?= : )")


def shader_names() -> list[str]:
    """Every compute shader there is."""
    folder = resources.files("cryoet_engine.shaders")
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".comp"))


def _read(file: str) -> str:
    return resources.files("cryoet_engine.shaders").joinpath(file).read_text("utf-8")


@dataclass(frozen=True)
class ComposedShader:
    """`source` is ready to compile; `#line` numbers its files by their place in `files`."""

    source: str
    files: tuple[str, ...]

    def located(self, log: str) -> str:
        """A compiler's log with file names in place of file numbers."""

        def name(match: re.Match[str]) -> str:
            number, line = (group for group in match.groups() if group is not None)
            return f"{self.files[int(number)] if int(number) < len(self.files) else number}:{line}"

        return _ERROR_PLACE.sub(name, log)


def compose(name: str, defines: Mapping[str, int] | None = None) -> ComposedShader:
    """Read a shader, put in its includes (each once, at its first place) and the defines."""
    files: list[str] = []
    settings = [f"#define {key} {value}" for key, value in (defines or {}).items()]

    def expand(file: str) -> list[str]:
        number = len(files)
        files.append(file)
        lines = _read(file).splitlines()
        out = [] if number == 0 else [f"#line 1 {number}"]
        for at, line in enumerate(lines, 1):
            if line.startswith("#version"):
                # Nothing but comments may stand before #version; a #line after it starts the count anew.
                out += [line, *settings, f"#line {at + 1} {number}"]
            elif include := _INCLUDE.match(line):
                out += expand(include[1]) if include[1] not in files else []
                out.append(f"#line {at + 1} {number}")
            else:
                out.append(line)
                if line.startswith("#endif"):  # what an include counted may have been skipped
                    out.append(f"#line {at + 1} {number}")
        return out

    return ComposedShader("\n".join(expand(name)) + "\n", tuple(files))


def compile_shader(context: Any, name: str, defines: Mapping[str, int] | None = None) -> Any:
    """A compute program; DeviceError with file and line when the driver refuses it."""
    import moderngl

    composed = compose(name, defines)
    try:
        return context.compute_shader(composed.source)
    except moderngl.Error as error:
        raise DeviceError(f"shader {name}: {composed.located(str(error))}") from None


def set_uniforms(program: Any, values: Mapping[str, Any]) -> None:
    """Set uniforms. What the compiler found unused is not there: whole uniforms, or the end of an array."""
    for name, value in values.items():
        uniform = program.get(name, None)  # `in` would list all members, for each name of each frame
        if uniform is None:
            continue
        if isinstance(value, list):
            value = value[: uniform.array_length] if uniform.array_length > 1 else value[0]
        uniform.value = value


class Programs:
    """Compiled shaders of one context, each once."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._compiled: dict[tuple[str, tuple[tuple[str, int], ...]], Any] = {}

    def get(self, name: str, defines: Mapping[str, int] | None = None) -> Any:
        """The program of a shader with these defines. DeviceError when the driver refuses it."""
        key = (name, tuple(sorted((defines or {}).items())))
        if key not in self._compiled:
            self._compiled[key] = compile_shader(self._context, name, defines)
        return self._compiled[key]
