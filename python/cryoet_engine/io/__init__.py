# SPDX-License-Identifier: MIT
"""Read and write volumes and soft segmentations: MRC, OME-Zarr, TIFF and HDF5, lazily and in slabs.

`read` opens anything; data come as (z, y, x) with lengths in Å, and are read from the disk as they are sliced.
What is written appears under its name when it is whole (`partial_path` gives other writers the same).
"""

from ._files import Work, partial_path, resumable_path
from ._lazy import LazyArray, fill_nonfinite, slabs
from .omezarr import SegmentationWriter, create_segmentation
from .segmentation import as_soft, export_classes, labels_from_zero, read_segmentation
from .volumes import create_volume, read, read_volume, write

__all__ = [
    "LazyArray",
    "SegmentationWriter",
    "Work",
    "as_soft",
    "create_segmentation",
    "create_volume",
    "export_classes",
    "fill_nonfinite",
    "labels_from_zero",
    "partial_path",
    "read",
    "read_segmentation",
    "read_volume",
    "resumable_path",
    "slabs",
    "write",
]
