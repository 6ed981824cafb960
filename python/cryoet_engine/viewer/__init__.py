# SPDX-License-Identifier: MIT
"""A window on a tomogram: draw strokes, watch the pseudo labels grow."""
