# SPDX-License-Identifier: MIT
"""A headless OpenGL 4.3 context through EGL: a graphics card where there is one, Mesa's software renderer otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._checks import CryoETError, MissingDependencyError, message

_NEEDED = 430  # compute shaders
_FIX = (
    "on Debian or Ubuntu: sudo apt-get install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri (software rendering; "
    "no graphics card or display is needed)"
)


class DeviceError(CryoETError, RuntimeError):
    """OpenGL refused something, most often memory, or the card was lost."""


def create_context(device_index: int | None = None) -> Any:
    """Open a moderngl context, on one of EGL's devices or the default one.

    MissingDependencyError, with the packages to install, when that fails.
    """
    try:
        import moderngl

        options: dict[str, Any] = {"backend": "egl"}
        if device_index is not None:
            options["device_index"] = device_index
        context: Any = moderngl.create_context(standalone=True, require=_NEEDED, **options)
    except Exception as error:  # moderngl and glcontext raise plain Exception
        detail = " ".join(str(error).split()) or type(error).__name__
        raise MissingDependencyError(
            message("render", "OpenGL", expected="OpenGL 4.3 or newer through EGL", got=detail, fix=_FIX)
        ) from None
    if context.version_code < _NEEDED:
        got = f"version {context.version_code / 100:.1f} ({context.info.get('GL_RENDERER')})"
        context.release()
        raise MissingDependencyError(
            message("render", "OpenGL", expected="OpenGL 4.3 or newer through EGL", got=got, fix=_FIX)
        )
    return context


@contextmanager
def opened_context(device_index: int | None = None) -> Iterator[Any]:
    """A context that is released at the end, with all that was made in it."""
    context = create_context(device_index)
    try:
        yield context
    finally:
        context.release()


def check_drawn(context: Any, what: str) -> None:
    """Raise DeviceError if the card failed since the last check, as when it was reset or taken away."""
    error = context.error
    if error != "GL_NO_ERROR":
        fix = "see that the card is there and its driver works (cryoet doctor), then draw again"
        raise DeviceError(message("render", what, expected="no error of OpenGL", got=error, fix=fix))


def check_allocation(context: Any, what: str) -> None:
    """Raise DeviceError if the last call failed: moderngl itself never says that an allocation did."""
    error = context.error
    if error != "GL_NO_ERROR":
        raise DeviceError(
            message(
                "render",
                what,
                expected="enough graphics memory",
                got=error,
                fix="make the picture smaller or bin the volume",
            )
        )


def is_software(context: Any) -> bool:
    """Whether Mesa draws on the CPU."""
    renderer = str(context.info.get("GL_RENDERER", "")).lower()
    return any(name in renderer for name in ("llvmpipe", "softpipe", "swrast"))


def describe() -> dict[str, str | int | bool]:
    """The OpenGL that pictures are drawn with, for `cryoet doctor`. Raises MissingDependencyError without one."""
    with opened_context() as context:
        info = context.info
        return {
            "vendor": str(info["GL_VENDOR"]),
            "renderer": str(info["GL_RENDERER"]),
            "version": str(info["GL_VERSION"]),
            "software": is_software(context),
            "max_3d_texture": int(info["GL_MAX_3D_TEXTURE_SIZE"]),
            "max_picture": int(info["GL_MAX_TEXTURE_SIZE"]),
        }
