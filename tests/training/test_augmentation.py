# SPDX-License-Identifier: MIT
"""Variations move voxels and targets together, and leave classes as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from cryoet_engine import CryoETError
from cryoet_engine.training.augmentation import _gaussian, augment
from cryoet_engine.training.settings import Augmentation

NONE: dict[str, Any] = {"noise": 0.0, "blur": 0.0, "contrast": 0.0, "brightness": 0.0, "gamma": 0.0}
X = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 6, 8, 8)).astype(np.float32))


def _run(x: torch.Tensor, target: torch.Tensor, seed: int, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return augment(x, target, Augmentation(**options), np.random.default_rng(seed))


def test_all_sixteen_orientations_and_targets_follow() -> None:
    index = torch.arange(6 * 8 * 8).reshape(1, 6, 8, 8)
    seen = set()
    for seed in range(100):
        x, target = _run(X, index, seed, **NONE)
        torch.testing.assert_close(x[0, 0], X.flatten()[target[0]], atol=1e-5, rtol=0)
        seen.add(tuple(target.flatten().tolist()))
    assert len(seen) == 16  # eight in the plane, times the mirror in z


def test_turns_alone_keep_handedness_and_soft_targets_follow() -> None:
    soft = torch.stack([X[:, 0], -X[:, 0]], 1)
    for seed in range(20):
        x, target = _run(X, soft, seed, flips=False, **NONE)
        torch.testing.assert_close(target[:, :1], x, atol=1e-5, rtol=0)
        same = [torch.allclose(x, X.rot90(k, (-2, -1)), atol=1e-5) for k in range(4)]
        assert any(same)


def test_a_patch_that_is_not_square_is_not_turned() -> None:
    for seed in range(10):
        assert _run(X[..., :4], X[:, 0, :, :, :4], seed, **NONE)[0].shape == X[..., :4].shape


def test_the_same_generator_gives_the_same_patch() -> None:
    target = torch.zeros(1, 6, 8, 8)
    assert torch.equal(_run(X, target, 5)[0], _run(X, target, 5)[0])
    assert not torch.equal(_run(X, target, 5)[0], _run(X, target, 6)[0])


@pytest.mark.parametrize("name", ["noise", "blur", "contrast", "brightness", "gamma"])
def test_each_strength_changes_something_and_stays_finite(name: str) -> None:
    target = torch.zeros(1, 6, 8, 8)
    changed = 0
    for seed in range(12):
        x, _ = _run(X, target, seed, flips=False, turns=False, **(NONE | {name: 0.8}))
        assert x.shape == X.shape
        assert x.isfinite().all()
        changed += not torch.allclose(x, X, atol=1e-4)
        if name in ("noise", "blur"):  # as normalisation would leave a noisier or smoother tomogram
            assert x.std(correction=0).item() == pytest.approx(X.std(correction=0).item(), rel=1e-4)
    assert changed >= 3
    assert torch.isfinite(_run(torch.ones_like(X), target, 0, **NONE | {name: 0.8})[0]).all()  # a flat patch, too


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
def test_gaussian_is_a_gaussian(sigma: float) -> None:
    radius = int(3 * sigma + 0.5)
    expected = ndimage.gaussian_filter(X[0, 0].double().numpy(), sigma, mode="nearest", radius=radius)
    np.testing.assert_allclose(_gaussian(X[0], sigma)[0].numpy(), expected, atol=1e-6)  # measured: 2e-7


def test_options_are_checked() -> None:
    for options in ({"noise": -1}, {"blur": "much"}, {"flips": 1}, {"gamma": float("nan")}, {"contrast": True}):
        with pytest.raises(CryoETError, match="Augmentation"):
            Augmentation(**options)  # type: ignore[arg-type]
