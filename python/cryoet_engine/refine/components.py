# SPDX-License-Identifier: MIT
"""Connected components of a segmentation."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from .._checks import input_error
from ..volume import SoftSegmentation


def remove_dust(segmentation: SoftSegmentation, *, min_diameter_A: float) -> SoftSegmentation:
    """Give particles smaller than a diameter to the background, as paper 1's expert asks (section 7).

    A particle is a connected component (26 neighbours) of voxels whose most probable class is not the background,
    whatever their classes: a spike on a membrane is part of it. Its diameter is that of a sphere of its volume.
    The voxels around it that are less certain follow the particle that is nearest; without any, nothing is left.

    segmentation: (class, z, y, x), background first; read into memory, as is the result.
    Errors: InputError for a diameter that is not a number above 0.
    """
    if not 0 < min_diameter_A < math.inf:
        raise input_error("remove_dust", "min_diameter_A", expected="a number above 0, in Å", got=min_diameter_A)
    data = np.asarray(segmentation.data[:])
    foreground = data.argmax(axis=0) > 0
    particles, count = ndimage.label(foreground, np.ones((3, 3, 3)))
    voxels = np.bincount(particles.ravel(), minlength=count + 1)
    smallest_voxels = math.pi / 6 * min_diameter_A**3 / math.prod(segmentation.voxel_size_A)
    kept = voxels >= smallest_voxels
    kept[0] = False
    if kept.any() and not kept[1:].all():
        nearest = ndimage.distance_transform_edt(
            ~foreground, sampling=segmentation.voxel_size_A, return_distances=False, return_indices=True
        )
        kept = kept[particles[tuple(nearest)]]
    else:
        kept = np.full(foreground.shape, bool(kept.any()))
    cleaned = np.where(kept, data, data.dtype.type(0))
    cleaned[0] = np.where(kept, data[0], data.dtype.type(segmentation.unit))
    return SoftSegmentation(cleaned, segmentation.classes, segmentation.colors, **segmentation.grid())
