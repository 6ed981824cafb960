# SPDX-License-Identifier: MIT
"""Every CUDA source is compiled for every target by NVRTC, which needs no card: as a user's machine will compile it."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest
from emulation.structures import BY_FILE

from cryoet_engine.cuda.source import COMPILE_OPTIONS, compose, kernel_names, source_names

TARGETS = (75, 86, 89, 90)
REGISTERS = 65536  # of a multiprocessor
SHARED = 48 << 10  # bytes that a block may have without asking for more
# Threads that a multiprocessor is to hold at once by its registers: 1024 is all that sm_75 has.
THREADS = 1024
# More than 16 classes are counted in the thread's own memory, and NVRTC 13.5 (not 13.0) keeps one constant of stage_two
# there, which is read once a plane; nothing else may leave the registers.
LOCAL_BYTES = {"forest_vote_255": 512, "forest_add_255": 2048, "stage_two": 8}


@cache
def nvrtc() -> ctypes.CDLL:
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for library in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            # NVRTC asks for this one by name, and not all versions look beside themselves.
            for builtins in library.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins))
            return ctypes.CDLL(str(library))
    raise RuntimeError("no NVRTC to compile CUDA kernels with: pip install -c constraints.txt nvidia-cuda-nvrtc")


def ok(status: int) -> None:
    if status:
        text = nvrtc().nvrtcGetErrorString
        text.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {text(status).decode()}")


def text_of(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    ok(getattr(nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    room = ctypes.create_string_buffer(size.value)
    ok(getattr(nvrtc(), f"nvrtcGet{what}")(program, room))
    return room.raw


def compiled(source: str, name: str, target: int) -> tuple[bytes, str]:
    """The machine code for a target, and the compiler's log."""
    program = ctypes.c_void_p()
    ok(nvrtc().nvrtcCreateProgram(ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None))
    try:
        options = [*COMPILE_OPTIONS, f"-arch=sm_{target}", "--ptxas-options=-v"]
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = nvrtc().nvrtcCompileProgram(program, len(options), given)
        log = text_of(program, "ProgramLog").rstrip(b"\0").decode()
        assert not failed, log
        return text_of(program, "CUBIN"), log
    finally:
        ok(nvrtc().nvrtcDestroyProgram(ctypes.byref(program)))


def layout(name: str) -> str:
    """Assertions that the structures of a file are laid out as Python lays them out. NVRTC has no offsetof."""
    lines = []
    for one in BY_FILE[name]:
        lines.append(f"static_assert(sizeof(cryoet::{one.__name__}) == {ctypes.sizeof(one)});")
        lines += [
            f"static_assert(__INTADDR__(&((cryoet::{one.__name__}*)0)->{field}) == {getattr(one, field).offset});"
            for field, _ in one._fields_
        ]
    return "\n".join(lines)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", source_names())
def test_compiles_within_registers(name: str, target: int) -> None:
    code, log = compiled(f"{compose(name)}\n{layout(name)}\n", name, target)
    assert code.startswith(b"\x7fELF")
    assert not re.search("warning|error", log), log
    reports = re.split(r"Compiling entry function '(\w+)'", log)[1:]
    found = dict(zip(reports[::2], reports[1::2], strict=True))
    assert set(found) == set(kernel_names(name))
    for kernel, report in found.items():
        numbers = {what: int(n) for n, what in re.findall(r"(\d+) (registers|bytes (?:stack|spill \w+|smem))", report)}
        local = LOCAL_BYTES.get(kernel, 0)
        assert max(numbers[f"bytes {what}"] for what in ("stack", "spill stores", "spill loads")) <= local, kernel
        assert numbers.get("bytes smem", 0) <= SHARED, kernel
        assert -(-numbers["registers"] // 8) * 8 * THREADS <= REGISTERS, kernel  # handed out by eights


def test_a_warning_would_show() -> None:
    """The log is read where the compiler writes it."""
    _, log = compiled('extern "C" __global__ void idle(int* out) { int unused; out[0] = 1; }', "planted", 90)
    assert "warning" in log
    with pytest.raises(AssertionError, match=r"planted\.cu"):
        compiled("__global__ void wrong() { missing(); }", "planted", 90)
    with pytest.raises(AssertionError, match="static assertion"):
        compiled(f"{compose('forest')}\nstatic_assert(sizeof(cryoet::ForestJob) == 1);", "forest", 90)
