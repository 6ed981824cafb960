# SPDX-License-Identifier: MIT
"""Whole-volume constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cryoet_engine import CryoETError, Volume
from cryoet_engine.models import Normalisation

VOXELS = np.random.default_rng(0).normal(50, 7, (9, 30, 40)).astype(np.float32)


def test_constants() -> None:
    volume = Volume(VOXELS)
    minmax = Normalisation.measure(volume, "minmax")
    assert (minmax.offset, minmax.offset + minmax.scale) == pytest.approx((VOXELS.min(), VOXELS.max()))
    zscore = Normalisation.measure(volume, "zscore")
    assert (zscore.offset, zscore.scale) == pytest.approx((VOXELS.mean(dtype=float), VOXELS.std(dtype=float)), rel=1e-6)
    percentile = Normalisation.measure(volume, "percentile")
    low, median, high = np.percentile(VOXELS, [1, 50, 99])
    # Bins are 70 / 65536 wide; one order statistic more or less: 0.02 at most, measured 0.004
    assert (percentile.offset, percentile.scale) == pytest.approx((median, (high - low) / 2), abs=0.02)
    block = zscore(VOXELS[:2])
    assert block.dtype == np.float32
    np.testing.assert_allclose(block, (VOXELS[:2] - 50) / 7, atol=0.05)


def test_an_outlier_moves_only_min_and_max() -> None:
    spoilt = VOXELS.copy()
    spoilt[0, 0, 0] = 5000.0
    for kind, most in (("percentile", 0.01), ("minmax", 100.0)):
        before = Normalisation.measure(Volume(VOXELS), kind)  # type: ignore[arg-type]
        after = Normalisation.measure(Volume(spoilt), kind)  # type: ignore[arg-type]
        assert (abs(after.scale / before.scale - 1) < most) and (
            kind == "percentile" or after.scale > 50 * before.scale
        )


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, ">i2", ">f4", np.float16])
@pytest.mark.parametrize("kind", ["minmax", "percentile", "zscore"])
def test_any_dtype_and_order(dtype: Any, kind: Any) -> None:
    data = VOXELS.astype(dtype)[::2, :, ::-1]
    ours = Normalisation.measure(Volume(data), kind)
    same = Normalisation.measure(Volume(np.ascontiguousarray(data.astype(np.float64))), kind)
    assert (ours.offset, ours.scale) == pytest.approx((same.offset, same.scale), rel=1e-9)


@pytest.mark.parametrize("kind", ["minmax", "percentile", "zscore"])
def test_refuses(kind: Any) -> None:
    spoilt = VOXELS.copy()
    spoilt[1, 2, 3:5] = np.nan
    with pytest.raises(CryoETError, match=r"got 2 NaN or infinite; replace them \(--fill\)"):
        Normalisation.measure(Volume(spoilt), kind)
    with pytest.raises(CryoETError, match="voxels that differ"):
        Normalisation.measure(Volume(np.full((2, 3, 4), 7.0)), kind)
    with pytest.raises(CryoETError, match="kind"):
        Normalisation.measure(Volume(VOXELS), "max")  # type: ignore[arg-type]
