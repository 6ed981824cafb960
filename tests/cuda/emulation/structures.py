# SPDX-License-Identifier: MIT
"""The arguments of the kernels, as csrc/ops/*.cu declare them; test_compilation.py checks every offset.

Those that the package launches are the package's own; the kernels of preprocessing have no caller in it yet.
"""

from __future__ import annotations

import ctypes

import numpy as np

from cryoet_engine.cuda.structures import (
    BackProjection,
    BlendFinish,
    Combination,
    Convolution,
    Eigenvalues,
    Eigenvalues2,
    ForestJob,
    Product,
    Projection,
    RawSpread,
    StageTwo,
    TexelPack,
    TileBlend,
)
from cryoet_engine.cuda.structures import DeviceField as Field

INT, FLOAT, LONG, LONG_LONG, POINTER = (
    ctypes.c_int,
    ctypes.c_float,
    ctypes.c_long,
    ctypes.c_longlong,
    ctypes.c_void_p,
)
I3 = INT * 3


def structure(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


Bins = structure("GreyBins", low=ctypes.c_double, high=ctypes.c_double, scale=ctypes.c_double, n_bins=LONG)

BilateralFilter = structure(
    "BilateralFilter", source=Field, out=Field, spatial=POINTER, length=I3, radius=INT, factor=FLOAT
)
Histogram = structure("Histogram", voxels=POINTER, n_voxels=LONG_LONG, bins=Bins, counts=POINTER)
KeyCount = structure("KeyCount", voxels=POINTER, n_voxels=LONG_LONG, row_of=POINTER, counts=POINTER)
TileCount = structure("TileCount", planes=Field, length=I3, tile=I3, tiles=I3, bins=Bins, counts=POINTER)
TileMapping = structure("TileMapping", counts=POINTER, maps=POINTER, n_tiles=LONG, n_bins=LONG, voxels=LONG, clip=LONG)
TileApplication = structure("TileApplication", block=Field, out=POINTER, tile=I3, tiles=I3, bins=Bins, maps=POINTER)

# Their tables are made by _core.
GridLine = structure("GridLine", per_i=LONG_LONG, per_j=LONG_LONG, origin=LONG_LONG)
TiltedRays = structure("TiltedRays", line=GridLine, step=FLOAT, steep=INT)

#: By the file that declares them.
BY_FILE = {
    "pack": (Field, RawSpread, TexelPack),
    "separable": (Field, Convolution, Eigenvalues, Eigenvalues2, Product, Combination),
    "features": (StageTwo,),
    "forest": (ForestJob,),
    "bilateral": (BilateralFilter,),
    "histogram": (Bins, Histogram, KeyCount),
    "clahe": (TileCount, TileMapping, TileApplication),
    "blend": (TileBlend, BlendFinish),
    "projection": (GridLine, TiltedRays, Projection, BackProjection),
}


def address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


def field(data: np.ndarray, start: tuple[int, ...] = (0, 0, 0)) -> ctypes.Structure:
    """A contiguous float32 array whose first voxel stands at `start` of the volume."""
    assert data.flags.c_contiguous and data.dtype == np.float32
    return Field(data.ctypes.data, I3(*start), I3(*data.shape))


def bins(low: float, high: float, n: int) -> ctypes.Structure:
    return Bins(low, high, n / (high - low), n)


def across(n: int, step: int) -> int:
    """How many steps cover n."""
    return -(-n // step)
