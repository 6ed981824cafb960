# SPDX-License-Identifier: MIT
"""Projection and back-projection against the float64 oracle, and what must hold of them whatever the method."""

from __future__ import annotations

import numpy as np
import pytest

from cryoet_engine import Volume, _core, filters, projection
from cryoet_engine._checks import InputError
from reference import projection as reference

ANGLES = [0, 10, -33.3, 45, -45, 46, -46, 60, -60, 89, -89, 90, -90]
SHAPES = [(9, 5, 13), (33, 40, 70), (17, 33, 16), (40, 2, 41), (1, 3, 20), (20, 1, 1), (2, 65, 3), (1, 1, 1)]
# In float32 both are sums of up to 70 terms of deviation 1. Measured: 1.2e-5 forth (values up to 27), 4.3e-6 back.
BOUND = 3e-5


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("width", [None, 7, 40])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_equal_the_oracle(shape, width):
    v = noise(shape)
    views = projection.project(v, ANGLES, width=width)
    assert views.dtype == np.float32
    assert views.shape[:2] == (len(ANGLES), shape[1])
    assert np.abs(views - reference.project(v, ANGLES, views.shape[2])).max() < BOUND
    given = noise(views.shape, 1)
    back = projection.back_project(given, ANGLES, shape)
    assert back.dtype == np.float32
    assert np.abs(back - reference.back_project(given, ANGLES, shape)).max() < BOUND


def test_every_instruction_set_equals_the_oracle(instruction_set):
    v = noise((30, 37, 45), 2)
    views = projection.project(v, ANGLES)
    assert np.abs(views - reference.project(v, ANGLES, views.shape[2])).max() < BOUND
    back = projection.back_project(views, ANGLES, v.shape)  # values up to 80. Measured 2.2e-5
    assert np.abs(back - reference.back_project(views, ANGLES, v.shape)).max() < 6e-5


def test_a_box_is_the_whole_bit_for_bit(instruction_set):
    shape, views = (75, 70, 90), noise((len(ANGLES), 70, 80), 3)
    whole = projection.back_project(views, ANGLES, shape)
    for box in (
        (slice(3, 60), slice(31, 66), slice(7, 81)),
        (slice(70, 75), slice(None), slice(0, 1)),
        (slice(None, 1), slice(69, 70), slice(89, None)),
    ):
        assert np.array_equal(projection.back_project(views, ANGLES, shape, box=box), whole[box])
    assert np.array_equal(projection.back_project(views[:, 5:6], ANGLES, (75, 1, 90)), whole[:, 5:6])


def test_views_do_not_know_each_other(instruction_set):
    v = noise((35, 40, 50), 4)
    together = projection.project(v, ANGLES)
    for i in (0, 4, 7, 12):
        assert np.array_equal(projection.project(v, ANGLES[i : i + 1])[0], together[i])
    assert np.array_equal(projection.project(v[:, 33:34], ANGLES)[:, 0], together[:, 33])


@pytest.mark.parametrize("ny", [3, 70])
def test_threads_change_nothing(ny):
    angles, v = np.array(ANGLES, float), noise((40, ny, 90), 5)
    views, back = [], []
    for threads in (1, 2, 5):
        views.append(_core.project(v, angles, 101, threads))
        back.append(_core.back_project(views[0], angles, v.shape, (0, 0, 0), v.shape, threads))
    assert all(np.array_equal(views[0], other) for other in views[1:])
    assert all(np.array_equal(back[0], other) for other in back[1:])


def test_at_zero_degrees_a_view_is_the_sum_along_z():
    """The central slice theorem where nothing is interpolated: exact, in the order of z."""
    v = noise((21, 7, 30), 6)
    (view,) = projection.project(v, [0.0], width=36)
    assert np.array_equal(view[:, 3:-3], np.cumsum(v, axis=0, dtype=np.float32)[-1])
    assert not view[:, :3].any()
    assert not view[:, -3:].any()
    back = projection.back_project(view[None], [0.0], v.shape)
    assert np.array_equal(back, np.broadcast_to(view[:, 3:-3], v.shape))
    spectrum = np.fft.fft(v.astype(np.float64), axis=0)[0]  # the plane kz = 0
    assert np.abs(view[:, 3:-3] - spectrum).max() < 1e-5


def test_at_ninety_degrees_a_view_is_the_sum_along_x():
    v = noise((20, 5, 31), 7)
    up, down = projection.project(v, [90.0, -90.0], width=20)
    assert np.array_equal(up, np.cumsum(v, axis=2, dtype=np.float32)[..., -1].T)
    assert np.array_equal(down, up[:, ::-1])


def test_a_view_at_t_holds_the_plane_kz_is_kx_tan_t():
    """A Gaussian away from the centre: its views are Gaussians, at u = x cos t + z sin t."""
    shape, sigma, (z0, x0) = (64, 3, 96), 3.0, (9.25, -14.5)
    z, x = np.arange(64)[:, None, None] - 31.5, np.arange(96) - 47.5
    blob = np.exp(-((z - z0) ** 2 + (x - x0) ** 2) / (2 * sigma**2)) * np.ones(shape)
    views = projection.project(blob, ANGLES)
    u = np.arange(views.shape[2]) - (views.shape[2] - 1) / 2
    for view, degrees in zip(views, ANGLES, strict=True):
        t = np.deg2rad(degrees)
        truth = np.sqrt(2 * np.pi) * sigma * np.exp(-((u - x0 * np.cos(t) - z0 * np.sin(t)) ** 2) / (2 * sigma**2))
        # Linear interpolation flattens the top: by 1 / (8 sigma^2) of it at most, 1.4 %. Measured 1.0 %.
        assert np.abs(view[1] - truth).max() < truth.max() / (8 * sigma**2)


def test_the_shadow_of_a_ball_is_its_chord():
    radius, n, fine = 20.0, 49, 8
    edge = (np.arange(n * fine) - (n * fine - 1) / 2) / fine
    y, u = np.arange(7) - 3.0, np.arange(72) - 35.5
    ball = np.zeros((n, 7, n))
    for at in range(7):
        disc = edge[:, None] ** 2 + edge**2 + y[at] ** 2 < radius**2
        ball[:, at] = disc.reshape(n, fine, n, fine).mean(axis=(1, 3))
    views = projection.project(ball, ANGLES, width=72)
    chord = 2 * np.sqrt(np.maximum(radius**2 - y[:, None] ** 2 - u**2, 0))
    error = np.abs(views - chord)
    assert error[:, np.hypot(y[:, None], u) < 17].max() < 0.6  # voxels, of 40. Measured 0.30, at 45 degrees
    assert error.max() < 2.5  # at the rim, where the chord is infinitely steep. Measured 1.5
    assert error.mean() < 0.15  # measured 0.08
    assert np.abs(views.sum(axis=2) / ball.sum(axis=(0, 2)) - 1).max() < 2e-3  # measured 1.0e-3


@pytest.mark.parametrize("degrees", [30, 45, -45, 60])
def test_a_slab_casts_an_even_shadow(degrees):
    """Spreading voxels over pixels ripples by several per cent at 45 degrees; rays do not."""
    long, short = 200, 20
    shape = (short, 1, long) if abs(degrees) <= 45 else (long, 1, short)
    t = abs(np.deg2rad(degrees))
    truth = short / (np.cos(t) if abs(degrees) <= 45 else np.sin(t))
    (view,) = projection.project(np.ones(shape), [degrees], width=61)
    assert np.abs(view / truth - 1).max() < 1e-6  # measured 6e-8


@pytest.mark.parametrize(
    "of",
    [lambda v: projection.project(v, ANGLES), lambda v: projection.back_project(v, ANGLES, (9, 4, 20))],
    ids=["forth", "back"],
)
def test_linear(instruction_set, of):
    a, b = noise((13, 4, 30), 8), noise((13, 4, 30), 9)
    # Values up to 60. Measured: 1.3e-5 forth, 8.6e-6 back.
    assert np.abs(of(2 * a - 3 * b) - (2 * of(a) - 3 * of(b))).max() < 5e-5


def test_nearly_adjoint():
    """<A x, y> and <x, B y> of smooth x and y: equal up to how rays and voxels interpolate."""
    angles = np.arange(-60, 61, 3.0)
    x = np.zeros((48, 6, 64), np.float32)
    x[12:-12, :, 14:-14] = noise((24, 6, 36), 10)
    x = filters.gaussian(x, 2.0)
    forth = projection.project(x, angles)
    y = filters.gaussian(noise(forth.shape, 11), 2.0) + forth
    back = projection.back_project(y, angles, x.shape)
    left, right = np.vdot(forth.astype(np.float64), y), np.vdot(x.astype(np.float64), back)
    assert abs(left / right - 1) < 0.003  # measured 0.0011


def test_types_layouts_and_volumes():
    v = (noise((6, 5, 12), 12) * 100).astype(np.int16)
    plain = projection.project(v.astype(np.float32), ANGLES)
    wide = np.repeat(v, 2, axis=2)
    for same in (v, v.astype(">f8"), np.asfortranarray(v), wide[:, :, ::2], v[::-1][::-1], Volume(v)):
        assert np.array_equal(projection.project(same, np.array(ANGLES)), plain)
    assert plain.shape == (len(ANGLES), 5, 16)  # ceil(hypot(6, 12)) + 2
    back = projection.back_project(plain, ANGLES, v.shape)
    for same in (np.asfortranarray(plain), plain.astype(np.float64), np.repeat(plain, 2, axis=1)[:, ::2]):
        assert np.array_equal(projection.back_project(same, np.array(ANGLES), list(v.shape)), back)


def test_the_default_width_holds_everything():
    v = noise((23, 1, 31), 13)
    views, wide = projection.project(v, ANGLES), projection.project(v, ANGLES, width=61)
    spare = (61 - views.shape[2]) // 2
    assert (61 - views.shape[2]) % 2 == 0
    assert np.array_equal(wide[..., spare:-spare], views)
    assert not wide[..., :spare].any()
    assert not wide[..., -spare:].any()


@pytest.mark.parametrize("angles", [[], [91], [0, -90.001], [np.nan], [np.inf], 5.0, [[0.0]], ["a"], None])
def test_impossible_angles(angles):
    with pytest.raises(InputError, match="project: tilt_angles_deg: expected a list of angles from -90 to 90"):
        projection.project(noise((3, 3, 3)), angles)
    with pytest.raises(InputError, match="back_project: tilt_angles_deg"):
        projection.back_project(noise((1, 3, 3)), angles, (3, 3, 3))


def test_other_errors():
    v = noise((3, 4, 5))
    for width in (0, -3, 2.5, 1 << 30):
        with pytest.raises(InputError, match="project: width"):
            projection.project(v, [0], width=width)
    for bad in (v[0], v[:, :0], v.astype(complex)):
        with pytest.raises(InputError, match="project: volume"):
            projection.project(bad, [0])
        with pytest.raises(InputError, match="back_project: views"):
            projection.back_project(bad, [0] * 3, (3, 4, 5))
    with pytest.raises(InputError, match="expected one a view, 3, got 2"):
        projection.back_project(v, [0, 1], (3, 4, 5))
    for shape in ((3, 5, 5), (3, 4), (0, 4, 5), (3, 4, 1 << 30), (1 << 21, 4, 5)):
        with pytest.raises(InputError, match="back_project: shape"):
            projection.back_project(v, [0] * 3, shape)
    for box in (
        (slice(0, 3), slice(0, 4)),
        (slice(0, 4), slice(0, 4), slice(0, 5)),
        (slice(2, 2), slice(0, 4), slice(0, 5)),
        (slice(-1, 2), slice(0, 4), slice(0, 5)),
        (slice(0, 3, 2), slice(0, 4), slice(0, 5)),
    ):
        with pytest.raises(InputError, match=r"back_project: box: expected parts of \(z, y, x\) \(3, 4, 5\)"):
            projection.back_project(v, [0] * 3, (3, 4, 5), box=box)


def test_the_native_module_refuses_what_it_would_read_beyond():
    v, angle = noise((1, 3, 4)), np.zeros(1)
    for call in (
        lambda: _core.project(v, np.zeros((1, 1)), 4, 1),
        lambda: _core.project(v, np.full(1, np.nan), 4, 1),
        lambda: _core.project(v, angle, 0, 1),
        lambda: _core.project(v, angle, 1 << 21, 1),
        lambda: _core.back_project(v, np.zeros(2), (3, 3, 4), (0, 0, 0), (3, 3, 4), 1),
        lambda: _core.back_project(v, angle, (3, 2, 4), (0, 0, 0), (3, 2, 4), 1),
        lambda: _core.back_project(v, angle, (3, 3, 4), (0, 0, 1), (3, 3, 4), 1),
        lambda: _core.detector_lines(angle, 0, 1, 1),
    ):
        with pytest.raises(ValueError, match="_core"):
            call()
