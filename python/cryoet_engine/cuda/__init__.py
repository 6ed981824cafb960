# SPDX-License-Identifier: MIT
"""Kernels on NVIDIA cards."""
