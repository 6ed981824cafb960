# SPDX-License-Identifier: MIT
"""What surrounds a specimen: borders of the asked roughness on a canvas of any size, grain of the asked strength."""

from __future__ import annotations

import numpy as np
import pytest

from cryoet_engine.simulate import LiposomeRecipe, VirionRecipe
from cryoet_engine.simulate.ice import _rough, paint_borders, paint_grain
from cryoet_engine.simulate.specimen import Canvas


@pytest.mark.parametrize("correlation_vox", [4.0, 40.0, 4000.0])
def test_roughness_does_not_depend_on_the_canvas(correlation_vox: float) -> None:
    heights = np.stack([_rough((40, 56), correlation_vox, np.random.default_rng(seed)) for seed in range(400)])
    assert heights.std() == pytest.approx(1, abs=0.1)  # 400 surfaces: 0.035; measured 0.99 to 1.01
    assert abs(heights.mean()) < 0.2
    assert np.abs(heights).max() < 6
    # Correlated as exp(-r^2 / (4 correlation^2)).
    step = min(round(correlation_vox), 30)
    found = np.mean(heights[:, :, step:] * heights[:, :, :-step]) / np.mean(heights**2)
    assert found == pytest.approx(np.exp(-(step**2) / (4 * correlation_vox**2)), abs=0.05)


@pytest.mark.parametrize(("voxel_size_A", "thickness_nm"), [(1.0, 60.0), (4.0, 28.0), (24.0, 200.0)])
def test_borders_lie_where_the_ice_ends(voxel_size_A: float, thickness_nm: float) -> None:
    roughness_nm = voxel_size_A / 8
    recipe = LiposomeRecipe(
        shape=(96, 24, 24), voxel_size_A=voxel_size_A, thickness_nm=thickness_nm, n_vesicles=0, film_nm=1,
        border_roughness_nm=roughness_nm,
    )  # fmt: skip
    canvas = Canvas(recipe)
    paint_borders(canvas, np.random.default_rng(0))
    beyond = canvas.parts[canvas.box] == canvas.number["beyond the ice"]
    ice_vox = 10 * thickness_nm / voxel_size_A
    if ice_vox >= 96:  # thicker than the tomogram
        assert not beyond.any()
        return
    depth = (~beyond).sum(axis=0)
    assert depth.mean() == pytest.approx(ice_vox, abs=4 * 10 * roughness_nm / voxel_size_A + 1)
    assert (canvas.parts[canvas.box] == canvas.number["film at the ice's border"]).any()
    assert np.abs(canvas.potential).max() < 12


def test_grain_is_a_fifth_of_the_potential_whatever_the_slab() -> None:
    canvas = Canvas(VirionRecipe(shape=(40, 40, 40), seed=1))
    canvas.potential[:] = 1
    paint_grain(canvas, np.random.default_rng(1), {})
    assert canvas.potential.mean() == pytest.approx(1, abs=0.01)
    assert canvas.potential.std() == pytest.approx(0.2, rel=0.03)  # measured 0.201
    planes = canvas.potential.std(axis=(1, 2))
    assert planes.min() > 0.17  # slabs of 32 planes leave no seam
