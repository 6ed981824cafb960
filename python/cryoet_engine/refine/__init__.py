# SPDX-License-Identifier: MIT
"""What is done to a segmentation after it was predicted."""

from .components import remove_dust

__all__ = ["remove_dust"]
