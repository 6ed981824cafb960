# SPDX-License-Identifier: MIT
"""Pictures: raymarched ones (headless OpenGL 4.3) and slices with overlays (no OpenGL)."""

from .context import DeviceError, describe
from .picture import Picture, render_image, save_image
from .renderer import Renderer
from .settings import Cut, Projection, RenderSettings
from .slices import slice_overlay, thumbnail

__all__ = [
    "Cut",
    "DeviceError",
    "Picture",
    "Projection",
    "RenderSettings",
    "Renderer",
    "describe",
    "render_image",
    "save_image",
    "slice_overlay",
    "thumbnail",
]
