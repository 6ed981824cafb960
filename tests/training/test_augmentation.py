# SPDX-License-Identifier: MIT
"""Variations move voxels and targets together, leave classes as they are, and leave alone what they do not vary."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft, ndimage
from scipy.interpolate import BSpline

from cryoet_engine import CryoETError
from cryoet_engine.training.augmentation import Augmentation, _gaussian, _positions, _targets_at, _voxels_at, augment

NONE: dict[str, Any] = {
    field.name: 0.0 for field in dataclasses.fields(Augmentation) if field.name not in ("flips", "turns")
}
STILL = NONE | {"flips": False, "turns": False}
STRENGTHS = {name: 0.8 for name in NONE} | {"rotation_deg": 20.0, "elastic": 3.0}
RNG = np.random.default_rng(0)
X = torch.from_numpy(RNG.normal(size=(1, 1, 6, 8, 8)).astype(np.float32))
BATCH = torch.from_numpy(RNG.normal(size=(9, 1, 10, 12, 12)).astype(np.float32))
CLASSES = torch.from_numpy(RNG.integers(-1, 3, (9, 10, 12, 12)))


def _run(x: torch.Tensor, target: torch.Tensor, seed: int, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return augment(x, target, Augmentation(**options), np.random.default_rng(seed))


def test_all_sixteen_orientations_and_targets_follow() -> None:
    index = torch.arange(6 * 8 * 8).reshape(1, 6, 8, 8).expand(20, 6, 8, 8)
    seen = set()
    for seed in range(10):
        x, target = _run(X.expand(20, 1, 6, 8, 8), index, seed, **NONE)
        assert torch.equal(x[:, 0], X.flatten()[target])  # to the last bit
        seen |= {tuple(one.flatten().tolist()) for one in target}
    assert len(seen) == 16  # eight in the plane, times the mirror in z


def test_turns_alone_keep_handedness_and_soft_targets_follow() -> None:
    soft = torch.stack([X[:, 0], -X[:, 0]], 1)
    for seed in range(20):
        x, target = _run(X, soft, seed, **NONE, flips=False)
        assert torch.equal(target[:, :1], x)
        assert torch.equal(x, X) or torch.equal(x, X.rot90(1, (-2, -1)))


def test_a_patch_that_is_not_square_is_not_turned() -> None:
    for seed in range(10):
        assert _run(X[..., :4], X[:, 0, :, :, :4], seed, **NONE)[0].shape == X[..., :4].shape


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some twenty small arrays a batch: one that blocks lets the CPU wait for all that a card has to do."""
    real, sent = torch.Tensor.to, []

    def to(self: torch.Tensor, *words: Any, **more: Any) -> torch.Tensor:
        if any(isinstance(word, torch.device | str) for word in words):
            sent.append(more.get("non_blocking", False))
        return real(self, *words, **more)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch, "tensor", None)  # its copies block
    _run(BATCH, CLASSES, 0, **STRENGTHS)
    assert all(sent)
    assert len(sent) > 10


def test_the_same_generator_gives_the_same_patches() -> None:
    x, classes = BATCH.clone(), CLASSES.clone()
    first, second, other = (_run(x, classes, seed, **STRENGTHS) for seed in (5, 5, 6))
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert torch.equal(x, BATCH)  # what was handed in stays
    assert torch.equal(classes, CLASSES)


@pytest.mark.parametrize("name", NONE)
def test_a_strength_changes_its_share_of_patches_and_no_bit_of_the_others(name: str) -> None:
    options = STILL | {name: STRENGTHS[name]}
    always = name in ("contrast", "brightness")
    shares, carried = [], 0
    for seed in range(6):
        x, target = _run(BATCH, CLASSES, seed, **options)
        assert x.shape == BATCH.shape
        assert x.isfinite().all()
        changed = (x != BATCH).flatten(1).any(1)
        shares.append(changed.double().mean().item())
        moved = (target != CLASSES).flatten(1).any(1)
        assert not (moved & ~changed).any()
        carried += int(moved.sum())
        if name not in ("contrast", "brightness", "gamma"):  # as normalisation would leave another tomogram
            torch.testing.assert_close(x.std((1, 2, 3, 4)), BATCH.std((1, 2, 3, 4)), rtol=1e-5, atol=0)
    expected = 1.0 if always else 0.8 if name == "missing_wedge" else 0.5
    assert np.mean(shares) == pytest.approx(expected, abs=0.0 if always else 0.2)  # standard error 0.07
    assert (carried > 10) == (name in ("rotation_deg", "zoom", "elastic"))
    flat = torch.ones_like(BATCH)
    assert _run(flat, CLASSES, 0, **options)[0].isfinite().all()  # a flat patch, too


def test_nothing_asked_nothing_changed() -> None:
    x, target = _run(BATCH, CLASSES, 0, **STILL)
    assert torch.equal(x, BATCH)
    assert torch.equal(target, CLASSES)


def test_what_one_option_does_does_not_hang_on_the_others() -> None:
    """The same patches are turned the same way, whatever else is done to them."""
    everything = _run(BATCH, CLASSES, 3, **(STRENGTHS | {"rotation_deg": 0, "zoom": 0, "elastic": 0}))[1]
    assert torch.equal(everything, _run(BATCH, CLASSES, 3, **NONE)[1])


def _oracle(shape: Any, angle: float, scale: float, knots: np.ndarray) -> np.ndarray:
    """Where voxels come from, (3, z, y, x), in voxels and float64: a turn about z, a zoom, and cubic B-splines."""
    centre = (np.array(shape) - 1) / 2
    index = np.indices(shape).astype(float)
    z, y, x = (axis - c for axis, c in zip(index, centre, strict=True))
    turned = z, np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    spline = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    bases = [
        np.nan_to_num(spline((np.arange(n) + 0.5)[:, None] / 16 - (np.arange(k) - 1)))
        for n, k in zip(shape, knots.shape[1:], strict=True)
    ]
    moved = np.einsum("cijk,zi,yj,xk->czyx", knots, *bases)
    return np.stack([t / scale + c for t, c in zip(turned, centre, strict=True)]) + moved


def test_resampling_is_a_turn_a_zoom_and_a_spline_deformation() -> None:
    """Against float64: positions, linear interpolation, reflection, and targets outside."""
    rng = np.random.default_rng(1)
    shape = (9, 20, 35)
    x = rng.normal(size=(2, 1, *shape)).astype(np.float32)
    classes = rng.integers(-1, 3, (2, *shape))
    soft = np.stack([classes == k for k in range(3)], 1).astype(np.float32)
    angle, scale = np.array([0.3, -0.2]), np.array([1.2, 0.9])
    knots = rng.uniform(-3, 3, (2, 3, 4, 5, 6))
    at = _positions(torch.from_numpy(x), angle, scale, knots)
    got = _voxels_at(torch.from_numpy(x), at)
    got_classes = _targets_at(torch.from_numpy(classes), at).numpy()
    got_soft = _targets_at(torch.from_numpy(soft), at).numpy()
    for k in range(2):
        source = _oracle(shape, angle[k], scale[k], knots[k])
        expected = ndimage.map_coordinates(x[k, 0].astype(float), source, order=1, mode="reflect")
        np.testing.assert_allclose(got[k, 0].numpy(), expected, atol=5e-5)  # measured: 1.1e-5
        nearest = np.rint(source).astype(int)
        inside = np.all([(n >= 0) & (n < length) for n, length in zip(nearest, shape, strict=True)], axis=0)
        assert 0.6 < inside.mean() < 0.99
        clipped = [np.clip(n, 0, length - 1) for n, length in zip(nearest, shape, strict=True)]
        expected_classes = np.where(inside, classes[k][tuple(clipped)], -1)
        assert np.mean(got_classes[k] != expected_classes) < 1e-3  # measured: 0
        padded = np.pad(soft[k], [(0, 0), (9, 9), (9, 9), (9, 9)]).astype(float)
        weights = np.stack([ndimage.map_coordinates(channel, source + 9, order=1) for channel in padded])
        total = weights.sum(0)
        sure = np.abs(total - 0.5) > 1e-4
        expected_soft = np.where(total > 0.5, weights / np.maximum(total, 0.5), 0)
        np.testing.assert_allclose(got_soft[k][:, sure], expected_soft[:, sure], atol=2e-5)  # measured: 4.3e-6


def test_targets_follow_when_resampled() -> None:
    """Voxels are the probability of a class: whatever moves, both kinds of targets say the same."""
    z, y, x = np.mgrid[:24, :32, :32].astype(np.float32)
    distance = 9 + np.sin(x / 5) - np.sqrt((z - 12) ** 2 + 1.5 * (y - 14) ** 2 + (x - 18) ** 2)
    voxels = torch.from_numpy(distance).sigmoid().expand(8, 1, -1, -1, -1)
    options = NONE | {"rotation_deg": 25.0, "zoom": 0.2, "elastic": 4.0}
    moved, soft = _run(voxels, torch.cat([voxels, 1 - voxels], 1), 2, **options)
    hard = _run(voxels, (voxels[:, 0] < 0.5).long(), 2, **options)[1]
    known = hard >= 0
    assert 0.9 < known.double().mean() < 1  # measured: 0.98
    labelled = soft.sum(1) > 0
    assert (known != labelled).double().mean() < 0.005  # at edges of the patch alone; measured: 4e-5
    sure = known & labelled & ((soft[:, 0] - 0.5).abs() > 0.3)
    assert sure.double().mean() > 0.8  # measured: 0.87
    assert torch.equal((soft[:, 0] < 0.5)[sure], hard[sure] == 1)
    for a, b, k in zip(
        moved[:, 0], soft[:, 0], known & labelled, strict=True
    ):  # voxels keep their deviation, targets do not
        assert np.corrcoef(a[k].numpy(), b[k].numpy())[0, 1] > 1 - 1e-9  # measured: 1 - 3e-15
    assert (hard != (voxels[:, 0] < 0.5)).double().mean() > 0.03  # something was moved; measured: 0.07


def test_deformations_stay_smooth_and_within_their_bound() -> None:
    x = torch.zeros(6, 1, 40, 40, 40)
    knots = np.random.default_rng(0).choice([-6.0, 6.0], (6, 3, 6, 6, 6))  # the worst that the strongest can draw
    at = _positions(x, np.zeros(6), np.ones(6), knots).double().flip(-1) * 20
    voxels = torch.arange(40) - 19.5
    moved = at - torch.stack(torch.meshgrid(voxels, voxels, voxels, indexing="ij"), -1)
    assert moved.abs().max() < 6
    assert moved.abs().max() > 3
    jacobian = torch.stack(torch.gradient(at, dim=(1, 2, 3)), -1)
    assert torch.linalg.det(jacobian).min() > 0.2  # nowhere folded; measured: 0.39
    usual = np.random.default_rng(1).uniform(-6, 6, (6, 3, 6, 6, 6))
    at = _positions(x, np.zeros(6), np.ones(6), usual).double().flip(-1) * 20
    moved = at - torch.stack(torch.meshgrid(voxels, voxels, voxels, indexing="ij"), -1)
    assert moved.square().mean().sqrt().item() / 6 == pytest.approx(0.19, abs=0.02)  # as its docstring says


def _spectra(x: torch.Tensor) -> np.ndarray:
    """Of patches continued by their mirror images: the cosine transform; component k has k / 2n cycles a voxel."""
    return np.asarray(fft.dctn(x[:, 0].double().numpy(), axes=(1, 2, 3), norm="ortho"))


def _frequencies(shape: tuple[int, ...]) -> list[np.ndarray]:
    return list(np.meshgrid(*[np.arange(n) / (2 * n) for n in shape], indexing="ij"))


def test_a_further_wedge_is_about_the_tilt_axis() -> None:
    x, _ = _run(BATCH, CLASSES, 0, **(STILL | {"missing_wedge": 1.0}))
    before, after = _spectra(BATCH), _spectra(x)
    kz, _, kx = _frequencies(BATCH.shape[2:])
    missing = np.mean(np.abs(after) < 1e-4, axis=0) == 1
    assert missing[kz > kx * np.tan(np.radians(60)) + 1e-6].all()  # no matter what y is
    kept = kz <= kx * np.tan(np.radians(40))
    factor = (after[:, kept] / before[:, kept])[:, 1:]  # without the mean, which stays
    np.testing.assert_allclose(
        factor, np.broadcast_to(np.median(factor, 1)[:, None], factor.shape), rtol=2e-3
    )  # 5.6e-4
    assert (np.median(factor, 1) > 1.05).all()  # the deviation is that of before, so what is left is stronger
    assert len({int((np.abs(one) > 1e-4).sum()) for one in after}) > 3  # and ranges differ


def test_amplitudes_change_smoothly_with_the_radius_alone() -> None:
    strength = 0.5
    x, _ = _run(BATCH, CLASSES, 1, **(STILL | {"fourier_amplitude": strength}))
    changed = (x != BATCH).flatten(1).any(1).numpy()
    gain = (_spectra(x) / _spectra(BATCH))[changed]
    radius = np.sqrt(sum(k * k for k in _frequencies(BATCH.shape[2:])))
    order = np.argsort(radius, axis=None)
    gain, radius = gain.reshape(len(gain), -1)[:, order], radius.ravel()[order]
    for one in gain[:, 1:]:  # the mean is apart
        assert one.min() > 0
        assert one.max() / one.min() <= (1 + strength) ** 2 * 1.01
        assert one.max() / one.min() > 1.03
        steps = np.abs(np.diff(np.log(one)))
        assert np.percentile(steps / np.maximum(np.diff(radius[1:]), 4e-3), 99) < 8  # measured: 1.0 to 2.9
    torch.testing.assert_close(x.mean((1, 2, 3, 4)), BATCH.mean((1, 2, 3, 4)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 16, 16), (8, 1, 9), (5, 7, 1), (1, 1, 1)])
def test_thin_patches(shape: tuple[int, int, int]) -> None:
    x, target = torch.randn(4, 1, *shape, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 2, *shape)
    target[:, 0] = 1
    for seed in range(3):
        moved, soft = _run(x, target, seed, **(STRENGTHS | {"missing_wedge": 1.0}))
        assert moved.shape == x.shape
        assert moved.isfinite().all()
        total = soft.sum(1)
        assert ((total - 1).abs().minimum(total.abs()) < 1e-5).all()  # labelled or not, nothing between


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
def test_gaussian_is_a_gaussian(sigma: float) -> None:
    radius = int(3 * sigma + 0.5)
    expected = ndimage.gaussian_filter(X[0, 0].double().numpy(), sigma, mode="nearest", radius=radius)
    smooth = _gaussian(X.expand(2, 1, 6, 8, 8), np.array([sigma, 1.2]))  # beside another patch's
    np.testing.assert_allclose(smooth[0, 0].numpy(), expected, atol=1e-6)  # measured: 2e-7


def test_options_are_checked() -> None:
    for options in (
        *({"noise": -1}, {"blur": "much"}, {"flips": 1}, {"gamma": float("nan")}, {"contrast": True}),
        *({"elastic": 7}, {"missing_wedge": 1.1}, {"zoom": 2}, {"rotation_deg": 181}, {"fourier_amplitude": "all"}),
    ):
        with pytest.raises(CryoETError, match="Augmentation"):
            Augmentation(**options)  # type: ignore[arg-type]
