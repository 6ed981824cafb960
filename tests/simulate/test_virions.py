# SPDX-License-Identifier: MIT
"""Simulated virions: the truth's topology, the tomogram's statistics, determinism."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from cryoet_engine.simulate import Simulation, VirionRecipe, demo_recipes, simulate_virions
from cryoet_engine.simulate.virions import _place_spikes, _place_virions, _spheres, build_virions

BACKGROUND, MEMBRANE, SPIKES, LUMEN = 0, 1, 2, 3
SMALL = VirionRecipe(shape=(80, 96, 96), n_virions=2, diameter_nm=(60, 70), thickness_nm=110, seed=5)


@pytest.fixture(scope="module")
def small() -> Simulation:
    return simulate_virions(SMALL)


@pytest.fixture(scope="module", params=["small", "demo"])
def truth(request: pytest.FixtureRequest, small: Simulation) -> npt.NDArray[np.uint8]:
    if request.param == "small":
        return small.truth.numpy()
    recipe = demo_recipes()[0]
    return build_virions(recipe, np.random.default_rng([recipe.seed, 0])).truth


def test_shapes_types_and_units(small: Simulation) -> None:
    assert small.tomogram.shape == small.truth.shape == SMALL.shape
    assert small.tomogram.dtype == np.int8
    assert small.truth.dtype == np.uint8
    assert small.tomogram.voxel_size_A == small.truth.voxel_size_A == (12.0, 12.0, 12.0)
    assert "seed 5" in small.tomogram.notes[0]
    assert small.recipe is SMALL


def test_same_recipe_same_bytes(small: Simulation) -> None:
    again = simulate_virions(dataclasses.replace(SMALL))
    assert again.tomogram.numpy().tobytes() == small.tomogram.numpy().tobytes()
    assert again.truth.numpy().tobytes() == small.truth.numpy().tobytes()


def test_another_seed_gives_another_specimen(small: Simulation) -> None:
    other = build_virions(dataclasses.replace(SMALL, seed=6), np.random.default_rng([6, 0]))
    assert not np.array_equal(other.truth, small.truth.numpy())


def test_the_microscope_does_not_change_the_specimen(small: Simulation) -> None:
    other = simulate_virions(dataclasses.replace(SMALL, defocus_um=2.0, tilt_step_deg=10, gain=10))
    assert np.array_equal(other.truth.numpy(), small.truth.numpy())
    assert not np.array_equal(other.tomogram.numpy(), small.tomogram.numpy())


def test_every_voxel_has_one_of_four_classes(small: Simulation) -> None:
    assert np.unique(small.truth.numpy()).tolist() == [BACKGROUND, MEMBRANE, SPIKES, LUMEN]


def test_the_membrane_is_closed(truth: npt.NDArray[np.uint8]) -> None:
    outside = (truth == BACKGROUND) | (truth == SPIKES)
    # A leak through an edge or a corner counts.
    beside = ndimage.binary_dilation(outside, np.ones((3, 3, 3)))
    assert not np.any(beside & (truth == LUMEN))


def test_every_spike_stands_on_a_membrane(truth: npt.NDArray[np.uint8]) -> None:
    spikes, n = ndimage.label(truth == SPIKES, np.ones((3, 3, 3), int))
    assert n > 10
    touching = set(np.unique(spikes[ndimage.binary_dilation(truth == MEMBRANE, np.ones((3, 3, 3)))]))
    inner = np.pad(np.zeros([s - 2 for s in truth.shape], bool), 1, constant_values=True)
    at_border = set(np.unique(spikes[inner]))
    # A spike cut by the border may have its foot beyond it.
    assert set(range(1, n + 1)) <= touching | at_border


def test_spikes_keep_apart_even_between_neighbouring_virions() -> None:
    recipe = dataclasses.replace(SMALL, shape=(80, 160, 160), n_virions=8, n_spikes=(60, 60), spike_tilt_deg=40)
    rng = np.random.default_rng(1)
    virions = _place_virions(recipe, rng)
    assert len(virions) >= 3
    spikes = [spike for virion in virions for spike in _place_spikes(virion, virions, recipe, rng)]
    centres, radii = _spheres(np.stack([s.base for s in spikes]), np.stack([s.axis for s in spikes]))
    gaps = np.linalg.norm(centres[:, None, :, None] - centres[None, :, None, :], axis=-1) - radii[:, None] - radii
    gaps[np.arange(len(spikes)), np.arange(len(spikes))] = np.inf
    # The distance from a deformed surface is exact to first order only; measured 0.06 Å at the least.
    assert gaps.min() > -2


def test_sizes_are_those_asked_for() -> None:
    recipe = VirionRecipe(
        shape=(100, 100, 100), n_virions=1, diameter_nm=(80, 80), deformation=0, n_spikes=(30, 30), thickness_nm=81
    )
    truth = build_virions(recipe, np.random.default_rng(6)).truth  # a seed that leaves the virion whole
    envelope = (truth == MEMBRANE) | (truth == LUMEN)
    assert not envelope[:, [0, -1]].any()
    assert not envelope[:, :, [0, -1]].any()
    diameter_nm = 1.2 * 2 * (envelope.sum() * 3 / (4 * np.pi)) ** (1 / 3)
    assert diameter_nm == pytest.approx(80, rel=0.01)
    thickness_vox = ndimage.distance_transform_edt(truth != LUMEN)[(truth == MEMBRANE)].max()
    assert 5 <= 1.2 * thickness_vox <= 8.5
    height_nm = 1.2 * ndimage.distance_transform_edt(~envelope)[truth == SPIKES].max()
    assert 17 <= height_nm <= 24


@pytest.mark.parametrize("gain, offset, dtype", [(20.0, 7.0, "int8"), (900.0, -50.0, "int16"), (0.1, 3.0, "float32")])
def test_grey_scale_is_as_asked(gain: float, offset: float, dtype: str) -> None:
    recipe = dataclasses.replace(SMALL, gain=gain, offset=offset, dtype=dtype, n_gold=0)
    grey = simulate_virions(recipe).tomogram.numpy()
    assert grey.dtype == np.dtype(dtype)
    assert grey.mean(dtype=np.float64) == pytest.approx(offset, abs=0.01 * gain)
    assert grey.std(dtype=np.float64) == pytest.approx(gain, rel=0.01)  # rounding, clipped tails; measured 0.0001


def test_protein_is_dark(small: Simulation) -> None:
    grey, truth = small.tomogram.numpy().astype(float), small.truth.numpy()
    assert grey[truth == SPIKES].mean() < grey[truth == BACKGROUND].mean() - 0.5 * grey.std()
    assert grey[truth == MEMBRANE].mean() < grey[truth == BACKGROUND].mean()


def test_the_missing_wedge_is_empty_in_the_tomogram(small: Simulation) -> None:
    grey = small.tomogram.numpy().astype(float)
    window = grey - grey.mean()
    for axis, length in enumerate(grey.shape):
        window = window * np.hanning(length).reshape([-1 if a == axis else 1 for a in range(3)])
    power = np.abs(np.fft.fftn(window)) ** 2
    kz, ky, kx = np.meshgrid(*[np.fft.fftfreq(n) for n in grey.shape], indexing="ij")
    tilt = np.degrees(np.arctan2(np.abs(kz), np.abs(kx)))
    across = np.hypot(kz, kx)
    band = (across > 0.1) & (np.sqrt(across**2 + ky**2) < 0.3)
    measured = power[band & (tilt < 55)].mean()
    # The rest is what rounding to int8 spreads over all frequencies, and the window's width. Measured 0.0003.
    assert power[band & (tilt > 68)].mean() < 0.005 * measured
    for low in range(0, 55, 11):
        assert power[band & (tilt >= low) & (tilt < low + 11)].mean() > 0.5 * measured  # measured 0.75


def test_less_dose_means_more_noise() -> None:
    def contrast(dose: float) -> float:
        simulation = simulate_virions(dataclasses.replace(SMALL, dose_e_per_A2=dose, dtype="float32"))
        grey, truth = simulation.tomogram.numpy(), simulation.truth.numpy()
        return float((grey[truth == BACKGROUND].mean() - grey[truth == SPIKES].mean()) / grey.std())

    assert contrast(100) > 1.3 * contrast(20)  # measured 1.8


def test_says_how_many_virions_fit() -> None:
    recipe = dataclasses.replace(SMALL, n_virions=50, n_spikes=(0, 0))
    phantom = build_virions(recipe, np.random.default_rng(0))
    assert len(phantom.notes) == 1
    assert "of 50 virions" in phantom.notes[0]


@pytest.mark.parametrize(
    "recipe",
    [
        VirionRecipe(shape=(8, 8, 8), n_virions=1),
        VirionRecipe(shape=(9, 40, 31), n_virions=1, voxel_size_A=25, thickness_nm=400),
        VirionRecipe(
            shape=(64, 32, 32),
            n_virions=1,
            n_spikes=(0, 0),
            n_gold=0,
            clutter_per_um3=0,
            n_ribonucleoproteins=0,
            film_nm=0,
        ),
        VirionRecipe(shape=(32, 32, 32), n_virions=1, tilt_range_deg=90, deformation=0.15),
    ],
    ids=["tiny", "flat", "bare", "extreme"],
)
def test_odd_recipes_give_whole_tomograms(recipe: VirionRecipe) -> None:
    simulation = simulate_virions(recipe)
    assert simulation.tomogram.shape == recipe.shape
    assert set(np.unique(simulation.truth.numpy())) <= {0, 1, 2, 3}
    assert simulation.tomogram.numpy().std() > 0


def test_progress_is_told_and_can_cancel() -> None:
    stages: list[str] = []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        assert 0 <= done <= total
        stages.append(stage)
        if stage == "tilt series":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_virions(SMALL, progress=listen)
    assert {"virions", "spikes", "free particles", "grain", "tilt series"} == set(stages)


def test_a_spikes_centre_is_its_centre_of_mass(small: Simulation) -> None:
    instances, away = small.instances.numpy(), []
    for particle in small.particles:
        if particle.part == "spike" and particle.whole:
            own = np.argwhere(instances == particle.instance)
            away.append(np.linalg.norm(own.mean(axis=0) - np.array(particle.centre_vox)))
    assert len(away) > 5
    assert max(away) < 1  # voxels of 12 Å; measured 0.3 to 0.6
