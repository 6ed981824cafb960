# SPDX-License-Identifier: MIT
"""Compiles CUDA sources for the CPU, over emulation.h, and launches their kernels."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SANITIZE = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")

_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(')


def compiler() -> str:
    """The C++ compiler: $CXX, else c++ or g++."""
    for candidate in (os.environ.get("CXX"), "c++", "g++"):
        if candidate and shutil.which(candidate):
            return candidate
    raise RuntimeError("CUDA kernels are tested by a C++ compiler: put c++ or g++ on the path, or name one in CXX")


def kernel_names(file: Path) -> list[str]:
    """The kernels of a .cu file."""
    return _KERNEL.findall(file.read_text())


class Emulation:
    """Kernels of .cu files as functions, each file compiled when it is first used, unless `folder` has it already.

    `options` are the compiler's, `SANITIZE` for instance. `sources` maps a name to a file that is not in csrc/ops.
    `launched` collects the names of the kernels that were run.
    """

    def __init__(self, folder: Path, *options: str, sources: dict[str, Path] | None = None) -> None:
        self.folder, self.options, self.sources = folder, options, sources or {}
        self.launched: set[str] = set()
        self._loaded: dict[str, ctypes.CDLL] = {}

    def build(self, name: str) -> Path:
        """The shared library of one file, compiled now if it is not there."""
        built = self.folder / f"{name}.so"
        if not built.exists():
            kernels = self.sources.get(name, ROOT / "csrc" / "ops" / f"{name}.cu")
            lines = [
                '#include "emulation.h"',
                f'#include "{kernels}"',
                "namespace cryoet {}",
                "using namespace cryoet;",
            ]
            lines += [f"EMULATED_KERNEL({kernel})" for kernel in kernel_names(kernels)]
            source = built.with_suffix(".cpp")
            source.write_text("\n".join([*lines, ""]))
            # Sums contracted as the package's are.
            flags = ["-std=c++17", "-O1", "-ffp-contract=fast", "-fPIC", "-shared", "-Wno-unknown-pragmas"]
            includes = [f"-I{HERE}", f"-I{ROOT / 'csrc'}"]
            # What is preloaded for the kernels, the sanitizers' library, would slow the compiler down.
            environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
            command = [compiler(), *flags, *self.options, *includes, source, "-o", built]
            subprocess.run(command, check=True, env=environment)
        return built

    def library(self, name: str) -> ctypes.CDLL:
        """The same, loaded."""
        if name not in self._loaded:
            self._loaded[name] = ctypes.CDLL(str(self.build(name)))
        return self._loaded[name]

    def launch(
        self,
        file: str,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        *arguments: ctypes._SimpleCData | ctypes.Structure,
        seed: int = 0,
    ) -> None:
        """Run `kernel` of `file` to its end; `shared` in bytes; seed 0 takes threads in order, others at random.

        Raises RuntimeError where the launch breaks a rule of CUDA (see emulation.h).
        """
        library = self.library(file)
        sizes = (ctypes.c_int * 16)()
        n = getattr(library, f"sizes_{kernel}")(sizes)
        given = [ctypes.sizeof(one) for one in arguments]
        if list(sizes[:n]) != given:
            raise RuntimeError(f"{kernel} takes arguments of {list(sizes[:n])} bytes, not {given}")
        three = ctypes.c_uint * 3
        values = (ctypes.c_void_p * max(n, 1))(*map(ctypes.addressof, arguments))
        error = ctypes.create_string_buffer(300)
        run = getattr(library, f"launch_{kernel}")
        if run(three(*grid), three(*block), ctypes.c_size_t(shared), ctypes.c_uint(seed), values, error, len(error)):
            raise RuntimeError(f"{kernel}: {error.value.decode()}")
        self.launched.add(kernel)
