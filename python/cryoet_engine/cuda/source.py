# SPDX-License-Identifier: MIT
"""CUDA sources of the installed package, put together for NVRTC."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

#: What every kernel is compiled with, whoever compiles it.
COMPILE_OPTIONS = ("-std=c++17",)

_INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]\s*$')
_KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(')


def source_names() -> list[str]:
    """Every file of kernels, without its suffix: "features", "forest", ..."""
    folder = resources.files("cryoet_engine.csrc").joinpath("ops")
    return sorted(entry.name.removesuffix(".cu") for entry in folder.iterdir() if entry.name.endswith(".cu"))


def _read(file: str) -> str:
    folder, name = file.split("/")
    return resources.files("cryoet_engine.csrc").joinpath(folder).joinpath(name).read_text("utf-8")


@cache
def compose(name: str) -> str:
    """One self-contained source: our headers put in, each once; those of the system left out, NVRTC has none.

    Self-contained, since CuPy knows a compiled kernel by its source: a change in a header has to be seen there.
    `#line` keeps file and line of errors.
    """
    seen: set[str] = set()

    def expand(file: str) -> list[str]:
        seen.add(file)
        text = _read(file)
        out = [f'#line 1 "{file}"']
        for number, line in enumerate(text.splitlines(), 1):
            include = _INCLUDE.match(line)
            if line.strip() == "#pragma once":
                out.append("")
            elif include is None:
                out.append(line)
            elif include[1] == '"' and include[2] not in seen:
                out += [*expand(include[2]), f'#line {number + 1} "{file}"']
            else:
                out.append("")
        return out

    return "\n".join(expand(f"ops/{name}.cu")) + "\n"


def kernel_names(name: str) -> list[str]:
    """The kernels of a file, in its order of definition."""
    return _KERNEL.findall(_read(f"ops/{name}.cu"))
