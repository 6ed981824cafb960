# SPDX-License-Identifier: MIT
"""Test-time augmentation: what commutes with mirrors and turns does not change, what does not is told as variance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cryoet_engine import CryoETError, Volume
from cryoet_engine.inference import segment
from cryoet_engine.inference.orientations import orientations

MANY = [("none", 1), ("turn", 4), ("mirror", 8), ("all", 16)]


@pytest.mark.parametrize(("kind", "count"), MANY)
def test_orientations_differ_and_come_back(kind: Any, count: int) -> None:
    x = torch.arange(2 * 3 * 4 * 4.0).reshape(1, 2, 3, 4, 4)
    chosen = orientations(kind)
    assert len({one.apply(x).numpy().tobytes() for one in chosen}) == len(chosen) == count
    assert all(torch.equal(one.undo(one.apply(x)), x) for one in chosen)
    assert torch.equal(chosen[0].apply(x), x)
    # No missing wedge is turned: z stays z.
    assert all(one.apply(x).shape[2] == 3 for one in chosen)


def run(model: Any, volume: Volume, kind: Any, **how: Any) -> tuple[Any, Any]:
    variance = np.full(volume.shape, np.nan, np.float32)
    found = segment(model, volume, tta=kind, dtype="float32", maps={"variance": variance}, **how)
    return found.data, variance


@pytest.mark.parametrize("kind", ["mirror", "turn", "all"])
def test_an_equivariant_network_is_sure(kind: Any, network: Callable, volume: Volume) -> None:
    for name, bound in (("test_pointwise", 0), ("test_smoothing", 1e-6)):  # measured: 0 and 1.2e-7
        model = network(name)
        mean, variance = run(model, volume, kind, tile=12, overlap=6)
        plain = segment(model, volume, tile=12, overlap=6, dtype="float32").data
        assert np.abs(mean - plain).max() <= bound
        assert 0 <= variance.min() <= variance.max() <= bound**2
        assert plain.std() > 0.05  # else anything would do


def test_the_variance_is_that_of_the_orientations(network: Callable, volume: Volume) -> None:
    """A ramp r along x: mirrors give r and 1 - r; turns also those along y. Measured: 6e-8."""
    model = network("test_ramp", activation="none")
    r_x = np.linspace(0, 1, 22)[None, None]
    r_y = np.linspace(0, 1, 26)[None, :, None]
    for kind, expected in (
        ("mirror", (r_x - 0.5) ** 2 + 0 * r_y),
        ("turn", ((r_x - 0.5) ** 2 + (r_y - 0.5) ** 2) / 2),
        ("all", ((r_x - 0.5) ** 2 + (r_y - 0.5) ** 2) / 2),
    ):
        mean, variance = run(model, volume, kind)
        np.testing.assert_allclose(mean, 0.5, atol=1e-6)
        np.testing.assert_allclose(variance, np.broadcast_to(expected, volume.shape), atol=1e-6)


def test_tiles_do_not_show_in_mean_and_variance(network: Callable, volume: Volume) -> None:
    """Turned tiles meet as upright ones do."""
    smoothing = network("test_smoothing")
    smoothing.layer = torch.nn.Conv3d(1, 2, 3, padding=1)
    smoothing.forward = smoothing.layer.forward
    whole, tiled = (run(smoothing, volume, "all", tile=tile, overlap=4) for tile in (64, 10))
    for one, other in zip(whole, tiled, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)  # measured: 1.2e-7, 7e-9
    assert whole[1].max() > 1e-3


def test_variance_needs_orientations(network: Callable, volume: Volume) -> None:
    with pytest.raises(CryoETError, match="variance: expected test-time augmentation with it, got tta none"):
        run(network("test_pointwise"), volume, "none")
    with pytest.raises(CryoETError, match="tta: expected none or mirror or turn or all, got 'flip'"):
        segment(network("test_pointwise"), volume, tta="flip")  # type: ignore[arg-type]
