# SPDX-License-Identifier: MIT
"""The structures that kernels take, field by field as the .cu files define them. Addresses are the card's."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

_Int3 = ctypes.c_int * 3
_Pointer = ctypes.c_void_p
_Long = ctypes.c_longlong
_Triple = tuple[int, int, int]


def triple(values: _Triple) -> ctypes.Array[ctypes.c_int]:
    """Three numbers along (z, y, x)."""
    return _Int3(*values)


@dataclass(frozen=True)
class Box:
    """Voxels of a block, in its coordinates (z, y, x)."""

    start: _Triple
    shape: _Triple

    @property
    def voxels(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    def grown(self, radius: int, length: _Triple, axes: tuple[int, ...] = (0, 1, 2)) -> Box:
        """With `radius` voxels more on both sides along `axes`, as far as the block, of shape `length`, goes."""
        start, shape = list(self.start), list(self.shape)
        for axis in axes:
            start[axis] = max(self.start[axis] - radius, 0)
            shape[axis] = min(self.start[axis] + self.shape[axis] + radius, length[axis]) - start[axis]
        return Box((start[0], start[1], start[2]), (shape[0], shape[1], shape[2]))


@dataclass(frozen=True)
class Field:
    """float32 voxels of a box, in C order, on the card (csrc/core/field.h)."""

    address: int
    box: Box

    @property
    def job(self) -> DeviceField:
        """As kernels take it."""
        return DeviceField(self.address, triple(self.box.start), triple(self.box.shape))


class DeviceField(ctypes.Structure):
    """csrc/core/field.h."""

    _fields_ = (("data", _Pointer), ("start", _Int3), ("shape", _Int3))


class StageTaps(ctypes.Structure):
    """csrc/voxel/stage_taps.h."""

    _fields_ = (("taps", ctypes.c_float * 10),)


class Convolution(ctypes.Structure):
    """convolve_z, convolve_y, convolve_x, convolve_x_far."""

    _fields_ = (
        ("source", DeviceField),
        ("out", DeviceField),
        ("taps", _Pointer),
        ("length", _Int3),
        ("radius", ctypes.c_int),
        ("derivative", ctypes.c_int),
        ("subtract", ctypes.c_float),
    )


class Eigenvalues(ctypes.Structure):
    """symmetric_eigenvalues."""

    _fields_ = (("tensor", _Pointer * 6), ("out", _Pointer * 3), ("n", _Long))


class Eigenvalues2(ctypes.Structure):
    """symmetric_eigenvalues_2."""

    _fields_ = (("tensor", _Pointer * 3), ("out", _Pointer * 2), ("n", _Long))


class Product(ctypes.Structure):
    """multiply."""

    _fields_ = (("a", _Pointer), ("b", _Pointer), ("out", _Pointer), ("n", _Long))


class Combination(ctypes.Structure):
    """combine."""

    _fields_ = (
        ("gauss", _Pointer),
        ("narrow", _Pointer),
        ("gradient", _Pointer * 3),
        ("second", _Pointer * 3),
        ("smoothed", _Pointer),
        ("laplacian", _Pointer),
        ("magnitude", _Pointer),
        ("difference", _Pointer),
        ("offset", ctypes.c_float),
        ("n", _Long),
    )


class StageTwo(ctypes.Structure):
    """stage_two."""

    _fields_ = (
        ("smoothed", DeviceField),
        ("length", _Int3),
        ("start", _Int3),
        ("shape", _Int3),
        ("planes", ctypes.c_int),
        ("taps", StageTaps),
        ("offset", ctypes.c_float),
        ("channel", _Long),
        ("gaussian", _Pointer),
        ("laplacian", _Pointer),
        ("magnitude", _Pointer),
        ("difference", _Pointer),
        ("structure", _Pointer),
        ("hessian", _Pointer),
    )


class ForestJob(ctypes.Structure):
    """forest_vote_*, forest_add_*."""

    _fields_ = (
        ("features", _Pointer),
        ("channel", _Long),
        ("shape", _Int3),
        ("n_features", ctypes.c_int),
        ("nodes", _Pointer),
        ("tree_start", _Pointer),
        ("n_trees", ctypes.c_int),
        ("n_classes", ctypes.c_int),
        ("share", _Pointer),
        ("leaves", _Pointer),
        ("out", _Pointer),
        ("out_unit", ctypes.c_int),
        ("warps", _Int3),
    )


class Projection(ctypes.Structure):
    """project."""

    _fields_ = (
        ("volume", _Pointer),
        ("shape", _Int3),
        ("rays", _Pointer),
        ("views", _Pointer),
        ("width", ctypes.c_int),
    )


class BackProjection(ctypes.Structure):
    """back_project."""

    _fields_ = (
        ("views", _Pointer),
        ("lines", _Pointer),
        ("n_views", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("out", DeviceField),
    )


class TileBlend(ctypes.Structure):
    """blend_*."""

    strides = _Long * 4
    rows = _Pointer * 3

    _fields_ = (
        ("tile", _Pointer),
        ("stride", strides),
        ("shape", _Int3),
        ("n_classes", ctypes.c_int),
        ("weights", rows),
        ("sums", _Pointer),
        ("at", _Int3),
        ("depth", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
    )


class BlendFinish(ctypes.Structure):
    """finish_blend."""

    _fields_ = (
        ("sums", _Pointer),
        ("n_classes", ctypes.c_int),
        ("depth", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("first", ctypes.c_int),
        ("n", ctypes.c_int),
        ("softmax", ctypes.c_int),
        ("out_unit", ctypes.c_int),
        ("out", _Pointer),
        ("labels", _Pointer),
    )


class RawSpread(ctypes.Structure):
    """spread_raw."""

    strides = _Long * 3

    _fields_ = (
        ("voxels", _Pointer),
        ("stride", strides),
        ("type", ctypes.c_int),
        ("first", ctypes.c_int),
        ("length", _Int3),
        ("out", DeviceField),
        ("zero", ctypes.c_float),
        ("core_start", ctypes.c_int),
        ("core_stop", ctypes.c_int),
        ("nonfinite", _Pointer),
    )


class TexelPack(ctypes.Structure):
    """pack_texels."""

    strides = _Long * 3
    channel = _Pointer * 4

    _fields_ = (
        ("raw", _Pointer),
        ("raw_range", ctypes.c_float),
        ("classes", channel),
        ("stride", strides),
        ("bytes", ctypes.c_int),
        ("shape", _Int3),
        ("channels", ctypes.c_int),
        ("bits", ctypes.c_int),
        ("texels", _Pointer),
        ("nonfinite", _Pointer),
    )
