# SPDX-License-Identifier: MIT
"""Pictures: raymarched ones (headless OpenGL 4.3) and slices with overlays (no OpenGL)."""

from .animation import KeyFrame, render_animation, turntable
from .context import DeviceError, describe
from .picture import Picture, render_image, save_image
from .renderer import Renderer
from .session import Session
from .settings import LIGHTS, Box, Cut, Projection, RenderSettings
from .slices import slice_overlay, thumbnail

__all__ = [
    "LIGHTS",
    "Box",
    "Cut",
    "DeviceError",
    "KeyFrame",
    "Picture",
    "Projection",
    "RenderSettings",
    "Renderer",
    "Session",
    "describe",
    "render_animation",
    "render_image",
    "save_image",
    "slice_overlay",
    "thumbnail",
    "turntable",
]
