# SPDX-License-Identifier: MIT
"""The window: strokes on slices, labels that grow as one draws, ramps and light, pictures (`cryoet view`)."""

from .app import view

__all__ = ["view"]
