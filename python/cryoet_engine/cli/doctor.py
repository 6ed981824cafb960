# SPDX-License-Identifier: MIT
"""Check the installation: versions, native kernels, OpenGL, GPU; what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil

from .. import __version__
from .._checks import CryoETError, MissingDependencyError

#: Package -> the extra that brings it ("" for what the package always needs) and what it is for.
PACKAGES = {
    "numpy": ("", "arrays"),
    "scipy": ("", "simulation, interpolation"),
    "scikit-learn": ("", "training forests"),
    "torch": ("", "networks"),
    "mrcfile": ("", "MRC"),
    "zarr": ("", "OME-Zarr"),
    "tifffile": ("", "TIFF"),
    "h5py": ("", "HDF5"),
    "safetensors": ("", "checkpoints"),
    "moderngl": ("", "rendering"),
    "pillow": ("", "pictures"),
    "cupy-cuda13x": ("cuda", "kernels on NVIDIA cards"),
    "glfw": ("viewer", "the viewer's window"),
    "imgui-bundle": ("viewer", "the viewer's panels"),
    "av": ("video", "videos"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments (none)."""


def _line(good: bool | None, name: str, text: str) -> None:
    print(f"  {'ok ' if good else '-- ' if good is None else 'NO '} {name:<16}{text}")


def _native() -> bool:
    try:
        from .. import _core
    except ImportError as error:
        _line(False, "native kernels", f"{error}; reinstall the package: pip install -e .")
        return False
    _line(True, "native kernels", (_core.__doc__ or "").strip().splitlines()[0])
    return True


def _opengl() -> bool:
    try:
        from ..render import describe

        facts = describe()
    except (CryoETError, ImportError) as error:
        _line(False, "OpenGL", str(error))
        return False
    _line(True, "OpenGL", ", ".join(f"{name} {value}" for name, value in facts.items()))
    return True


def _kernels_on_the_card() -> None:
    from ..cuda.device import card

    try:
        _line(True, "CUDA kernels", f"{card('doctor').name}, CuPy")
    except CryoETError as error:
        _line(None, "CUDA kernels", str(error))


def _gpu() -> None:
    try:
        import torch
    except ImportError:
        return
    if torch.cuda.is_available():
        _line(True, "CUDA", f"{torch.cuda.get_device_name()}, torch for CUDA {torch.version.cuda}")
    elif torch.version.cuda is None and shutil.which("nvidia-smi"):
        _line(None, "CUDA", "a card is here, but this torch is built for CPUs: install a CUDA build of torch")
    else:
        _line(None, "CUDA", "no NVIDIA card found; everything runs on the CPU")


def run(args: argparse.Namespace) -> None:
    """Print what is there; fail when something that is always needed is missing."""
    whole = True
    print(f"cryoet-engine {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"{os.cpu_count()} processors\npackages")
    for name, (extra, purpose) in PACKAGES.items():
        try:
            _line(True, name, f"{importlib.metadata.version(name):<14}{purpose}")
        except importlib.metadata.PackageNotFoundError:
            whole &= bool(extra)
            how = f"pip install 'cryoet-engine[{extra}]'" if extra else f"pip install {name}"
            _line(None if extra else False, name, f"{'missing':<14}{purpose}: {how}")
    print("machine")
    whole &= _native()
    whole &= _opengl()
    _gpu()
    _kernels_on_the_card()
    if not whole:
        raise MissingDependencyError("something that is needed is missing; the lines above say how to get it")
