# SPDX-License-Identifier: MIT
"""Crowded complexes: no overlap, crowding and numbers as asked, uniform orientations, truth that fits."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from cryoet_engine._checks import CryoETError, InputError
from cryoet_engine.simulate import ComplexRecipe, read_recipe, simulate
from cryoet_engine.simulate.complexes import build_complexes, builtin_shapes, read_complexes
from cryoet_engine.simulate.recipe import SURROUNDINGS
from cryoet_engine.simulate.specimen import Specimen

SMALL = ComplexRecipe(shape=(64, 96, 96), crowding=0.2, seed=3, thickness_nm=80)


def build(recipe: ComplexRecipe) -> Specimen:
    return build_complexes(recipe, np.random.default_rng([recipe.seed, 0]))


def near_pairs(instances: npt.NDArray[np.uint16], within_vox: float) -> int:
    """Pairs of voxels of different particles whose centres are no farther apart."""
    n = int(within_vox)
    found = 0
    for shift in itertools.product(range(-n, n + 1), repeat=3):
        if shift > (0, 0, 0) and np.linalg.norm(shift) <= within_vox:
            first = instances[tuple(slice(max(-s, 0), min(-s, 0) or None) for s in shift)]
            second = instances[tuple(slice(max(s, 0), min(s, 0) or None) for s in shift)]
            found += int(np.count_nonzero((first > 0) & (second > 0) & (first != second)))
    return found


def ice_voxels(specimen: Specimen) -> int:
    """Ice, what is in it included, without film and what is beyond."""
    return int(np.count_nonzero((specimen.parts == 0) | (specimen.parts >= len(SURROUNDINGS))))


@pytest.fixture(scope="module")
def crowd() -> Specimen:
    return build(SMALL)


@pytest.mark.parametrize("gap_A", [0.0, 10.0, 25.0])
def test_complexes_keep_their_distance(gap_A: float) -> None:
    specimen = build(dataclasses.replace(SMALL, gap_A=gap_A))
    assert near_pairs(specimen.instances, gap_A / 10) == 0
    # In such a crowd somebody stands as near as is allowed: the gap decides, and nothing coarser.
    assert near_pairs(specimen.instances, gap_A / 10 + 1) > 0
    for particle in specimen.particles:
        mask = specimen.instances == particle.instance
        assert set(np.unique(specimen.parts[mask])) == {list(SMALL.parts).index(particle.part)}


def test_no_complex_lost_a_voxel_to_another(crowd: Specimen) -> None:
    """Masks of whole complexes hold as many voxels as the structure: nobody painted over them."""
    sizes = {s.name: np.count_nonzero(s.fine > s.threshold_V) / 8 for s in builtin_shapes(10.0)}
    counts = np.bincount(crowd.instances.ravel())
    whole = [p for p in crowd.particles if p.whole]
    assert len(whole) > 20
    for particle in whole:
        # Sampled at other places; measured 2.3 % at the most.
        assert counts[particle.instance] == pytest.approx(sizes[particle.part], rel=0.05)


@pytest.mark.parametrize("crowding", [0.05, 0.15, 0.25])
def test_crowding_is_as_asked(crowding: float) -> None:
    specimen = build(dataclasses.replace(SMALL, crowding=crowding, shape=(80, 128, 128), thickness_nm=100))
    assert specimen.notes == ()
    reached = np.count_nonzero(specimen.truth) / ice_voxels(specimen)
    assert reached == pytest.approx(crowding, rel=0.06)  # complexes cut by the border; measured 2 to 3.3 %


def test_numbers_are_as_asked() -> None:
    recipe = dataclasses.replace(SMALL, crowding=0, n_particles=41, abundances=(1, 2, 3, 4))
    specimen = build(recipe)
    centres = np.array([p.centre_vox for p in specimen.particles])
    inside = np.all((centres >= -0.5) & (centres < np.array(SMALL.shape) - 0.5), axis=1)
    parts = np.array([p.part for p in specimen.particles])[inside]
    assert [int(np.sum(parts == name)) for name in recipe.names] == [4, 8, 12, 17]  # 4.1, 8.2, 12.3, 16.4
    assert not inside.all()  # the crowd goes on beyond the border, and reaches in
    assert specimen.notes == ()


def test_a_class_of_no_abundance_stays_away() -> None:
    specimen = build(dataclasses.replace(SMALL, abundances=(0, 0, 1, 0)))
    assert {p.part for p in specimen.particles} == {"ring"}


def test_the_crowd_goes_on_beyond_the_tomogram(crowd: Specimen) -> None:
    z, y, x = crowd.box
    inside = crowd.potential[z, y, x][20:44].mean()
    beyond = crowd.potential[z][20:44].copy()
    beyond[:, y, x] = np.nan
    assert np.nanmean(beyond) == pytest.approx(inside, rel=0.3)  # some 40 complexes; measured 0.16


def test_complexes_stay_in_the_ice() -> None:
    thin = dataclasses.replace(SMALL, thickness_nm=30, crowding=0.1, film_nm=0, border_roughness_nm=0)
    specimen = build(thin)
    low, high = 31.5 - 15, 31.5 + 15
    z = np.flatnonzero(specimen.truth.any(axis=(1, 2)))
    assert z.min() >= low - 0.5
    assert z.max() <= high + 0.5
    assert specimen.truth.any()


def test_orientations_are_uniform_even_in_a_crowd() -> None:
    recipe = ComplexRecipe(
        shape=(48, 160, 160), thickness_nm=60, crowding=0.12, abundances=(0, 0, 0, 1), seed=1, film_nm=0
    )
    specimen = build(recipe)
    angles = np.radians([p.euler_deg for p in specimen.particles if p.euler_deg is not None])
    assert len(angles) > 250
    # Uniform on SO(3): rot, psi and cos(tilt) are uniform and independent. Measured p: 0.7 to 1.0.
    for values, low, width in (
        (angles[:, 0], -np.pi, 2 * np.pi),
        (np.cos(angles[:, 1]), -1, 2),
        (angles[:, 2], -np.pi, 2 * np.pi),
    ):
        assert stats.kstest(values, stats.uniform(low, width).cdf).pvalue > 0.02
    matrices = Rotation.from_euler("ZYZ", angles).as_matrix()
    # Each entry has mean 0 and variance 1/3; measured 0.7 standard errors at the most for means, 1.6 for squares.
    assert np.abs(matrices.mean(axis=0)).max() < 3.5 * np.sqrt(1 / 3 / len(angles))
    assert np.abs((matrices**2).mean(axis=0) - 1 / 3).max() < 3.5 * np.sqrt(4 / 45 / len(angles))


def test_centres_fill_the_tomogram_evenly() -> None:
    recipe = ComplexRecipe(
        shape=(64, 160, 160), thickness_nm=120, crowding=0, n_particles=250, abundances=(0, 0, 1, 0), film_nm=0
    )
    centres = np.array([p.centre_vox for p in build(recipe).particles])
    size = np.array(recipe.shape)
    inside = np.all((centres >= -0.5) & (centres < size - 0.5), axis=1)
    for axis in range(3):
        share = (centres[inside, axis] + 0.5) / size[axis]
        assert stats.kstest(share, stats.uniform().cdf).pvalue > 0.02  # measured 0.7 to 1.0


def test_instances_and_particles_name_each_other(crowd: Specimen) -> None:
    numbers = [p.instance for p in crowd.particles]
    assert numbers == list(range(1, len(numbers) + 1))
    assert np.unique(crowd.instances).tolist() == [0, *numbers]
    for particle in crowd.particles:
        if particle.whole:
            middle = np.argwhere(crowd.instances == particle.instance).mean(axis=0)
            # The mask's middle is the potential's but for rounding to voxels; measured 0.11.
            assert np.abs(middle - particle.centre_vox).max() < 0.3


def test_truth_parts_and_instances_agree(crowd: Specimen) -> None:
    assert SMALL.classes == ("background", "barrel", "ribosome", "ring", "dumbbell")
    expected = np.where(crowd.parts >= len(SURROUNDINGS), crowd.parts.astype(int) - len(SURROUNDINGS) + 1, 0)
    assert np.array_equal(crowd.truth, expected)
    assert np.array_equal(crowd.truth > 0, crowd.instances > 0)
    potential = crowd.potential[crowd.box]
    assert potential[crowd.truth > 0].mean() > 1.5
    assert abs(potential[crowd.parts == 0].mean()) < 0.1


def test_same_seed_same_bytes(crowd: Specimen) -> None:
    again, other = build(SMALL), build(dataclasses.replace(SMALL, seed=4))
    assert again.potential.tobytes() == crowd.potential.tobytes()
    assert again.instances.tobytes() == crowd.instances.tobytes()
    assert again.particles == crowd.particles
    assert not np.array_equal(other.truth, crowd.truth)


def test_says_how_many_fitted() -> None:
    recipe = dataclasses.replace(SMALL, shape=(48, 64, 64), thickness_nm=60, crowding=0, n_particles=400)
    specimen = build(recipe)
    centres = np.array([p.centre_vox for p in specimen.particles])
    inside = np.all((centres >= -0.5) & (centres < np.array(recipe.shape) - 0.5), axis=1)
    assert len(specimen.notes) == 1
    assert f"placed {inside.sum()} of 400 complexes" in specimen.notes[0]
    assert near_pairs(specimen.instances, 1) == 0


def test_nothing_fits_into_ice_that_is_too_thin() -> None:
    specimen = build(dataclasses.replace(SMALL, thickness_nm=4, crowding=0, n_particles=5))
    assert "placed 0 of 5" in specimen.notes[0]
    assert not specimen.truth.any()


def test_aligned_copies_are_the_same_voxel_for_voxel() -> None:
    alone = dataclasses.replace(SMALL, crowding=0, n_particles=20, gap_A=130, film_nm=0, border_roughness_nm=0)
    specimen = build(dataclasses.replace(alone, aligned=True, abundances=(0, 0, 1, 0)))
    whole = [p for p in specimen.particles if p.whole]
    assert len(whole) > 2
    boxes = []
    for particle in whole:
        centre = np.array(particle.centre_vox)
        assert np.array_equal(centre, np.rint(centre))
        assert particle.euler_deg == (0, 0, 0)
        z, y, x = (
            slice(int(c) + int(b.start) - 10, int(c) + int(b.start) + 11)
            for c, b in zip(centre, specimen.box, strict=True)
        )
        boxes.append(specimen.potential[z, y, x])
    # But for the far tails of neighbours; measured 1e-13.
    assert all(np.abs(box - boxes[0]).max() < 1e-6 for box in boxes)  # volts: a neighbour's tail


def test_builtin_shapes_are_centred_and_sized() -> None:
    for voxel in (6.0, 10.0, 14.0):
        shapes = {shape.name: shape for shape in builtin_shapes(voxel)}
        for shape in shapes.values():
            fine = shape.fine.astype(np.float64)
            middle = [
                float(np.sum(fine * (np.arange(n) - n // 2).reshape([-1 if a == b else 1 for b in range(3)])))
                for a, n in enumerate(fine.shape)
            ]
            assert np.abs(np.array(middle) / fine.sum()).max() < 0.005  # measured 0.001
            assert shape.fine.shape[0] % 4 == 1
            assert max(shape.fine[[0, -1]].max(), shape.fine[:, [0, -1]].max(), shape.fine[:, :, [0, -1]].max()) < 0.02
        # Volumes in 10^6 Å^3; a bacterial ribosome has 3.2, GroEL 1.0, p97 0.7.
        volumes = {
            name: np.count_nonzero(s.fine > s.threshold_V) * (voxel / 2) ** 3 / 1e6 for name, s in shapes.items()
        }
        assert volumes["ribosome"] == pytest.approx(3.1, rel=0.05)
        assert volumes["barrel"] == pytest.approx(2.0, rel=0.05)
        assert volumes["ring"] == pytest.approx(0.86, rel=0.05)
        assert volumes["dumbbell"] == pytest.approx(0.63, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_particles": 10}, "one of the two"),
        ({"crowding": 0}, "one of the two"),
        ({"crowding": 0.9}, "crowding"),
        ({"n_particles": -1}, "n_particles"),
        ({"abundances": (1, 2)}, "one for each of the 4 classes"),
        ({"abundances": (0, 0, 0, 0)}, "above 0"),
        ({"abundances": (1, -1, 1, 1)}, "abundances"),
        ({"abundances": "1111"}, "abundances"),
        ({"structures": "1bxn.pdb"}, "a list of texts"),
        ({"structures": ("a/1bxn.pdb", "b/1bxn.mrc.gz")}, "1bxn"),
        ({"structures": ("gold.pdb",)}, "rename"),
        ({"structures": ("background.mrc",)}, "rename"),
        ({"structures": tuple(f"{i}.pdb" for i in range(252))}, "up to 251"),
        ({"snr_reference": "spike"}, "barrel, ribosome, ring, dumbbell"),
        ({"snr": -0.1}, "snr"),
        ({"snr": 0.1, "readout_noise_e": 2}, "leave one of them out"),
        ({"snr": 0.1, "reconstruction": "sirt"}, "wbp"),
        ({"gap_A": float("nan")}, "gap_A"),
        ({"aligned": 1}, "aligned"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ComplexRecipe(**fields)  # type: ignore[arg-type]


def test_stored_and_read_back() -> None:
    recipe = ComplexRecipe(
        structures=("maps/1bxn.mrc.gz", "4v4r_30S.pdb"), abundances=(1, 2.5), snr=0.05, snr_reference="4v4r_30S"
    )
    assert recipe.classes == ("background", "1bxn", "4v4r_30S")
    assert read_recipe(recipe.to_toml()) == recipe


def test_a_missing_file_is_named() -> None:
    with pytest.raises(CryoETError, match="no_such"):
        build(ComplexRecipe(shape=(16, 16, 16), structures=("no_such.pdb",)))


def test_a_whole_tomogram() -> None:
    recipe = dataclasses.replace(SMALL, shape=(40, 64, 64), fast=True, crowding=0.1)
    simulation = simulate(recipe)
    grey, truth = simulation.tomogram.numpy().astype(float), simulation.truth.numpy()
    assert grey[truth > 0].mean() < grey[truth == 0].mean()  # protein is dark
    again = simulate(recipe)
    assert again.tomogram.numpy().tobytes() == simulation.tomogram.numpy().tobytes()


def test_progress_is_told_and_can_cancel() -> None:
    stages: list[str] = []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        assert 0 <= done <= total
        stages.append(stage)
        if stage == "complexes" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_complexes(SMALL, np.random.default_rng(0), progress=listen)
    assert stages[-1] == "complexes"


def test_real_structures_crowd(test_data: Path) -> None:
    folder = test_data / "structures" / "density"
    files = tuple(str(folder / f"{name}.mrc.gz") for name in ("1bxn", "4v94_10A", "5mrc_10A"))
    recipe = dataclasses.replace(SMALL, structures=files, crowding=0.15)
    assert recipe.names == ("1bxn", "4v94_10A", "5mrc_10A")
    assert read_complexes(recipe)[0] is read_complexes(recipe)[0]  # read once
    specimen = build(recipe)
    assert specimen.notes == ()
    assert near_pairs(specimen.instances, 1) == 0
    assert {p.part for p in specimen.particles} == set(recipe.names)
    reached = np.count_nonzero(specimen.truth) / ice_voxels(specimen)
    assert reached == pytest.approx(0.15, rel=0.08)  # measured 4 %
