# SPDX-License-Identifier: MIT
"""Simulated liposomes: topology of membranes and gaps, proteins where they are to be, numbers as asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryoet_engine import io
from cryoet_engine._checks import InputError
from cryoet_engine.simulate import LiposomeRecipe, read_recipe, simulate
from cryoet_engine.simulate.liposomes import _place_gaps, _place_vesicles, build_liposomes
from cryoet_engine.simulate.specimen import Specimen
from cryoet_engine.simulate.surface import Surface, random_harmonics, spiral
from cryoet_engine.volume import Volume

BARE = {
    "clutter_per_um3": 0,
    "n_gold": 0,
    "n_microtubules": 0,
    "n_actin": 0,
    "gap_share": 0,
    "synthases_per_1000_nm2": 0,
    "integrals_per_1000_nm2": 0,
    "fast": True,
}
SMALL = LiposomeRecipe(
    shape=(64, 88, 88), thickness_nm=90, n_vesicles=4, diameter_nm=(40, 60), nested_share=0.5, seed=4, fast=True
)
ONE = LiposomeRecipe(
    **BARE,
    shape=(96, 100, 100),
    thickness_nm=130,
    n_vesicles=1,
    diameter_nm=(60, 60),
    deformation=(0, 0),
    nested_share=0,
    multilamellar_share=0,
    filled_share=0,
    seed=24,  # of those that leave it and its proteins whole
)
AROUND = np.ones((3, 3, 3), bool)


def build(recipe: LiposomeRecipe) -> Specimen:
    return build_liposomes(recipe, np.random.default_rng([recipe.seed, 0]))


def which(recipe: LiposomeRecipe, made: Specimen, *parts: str) -> npt.NDArray[np.bool_]:
    names = list(recipe.parts)
    return np.isin(made.parts, [names.index(part) for part in parts])


def middle_vox(made: Specimen) -> npt.NDArray[np.float64]:
    return np.array(next(p for p in made.particles if p.part == "outer leaflet").centre_vox)


@pytest.fixture(scope="module")
def small() -> Specimen:
    return build(SMALL)


def test_every_class_and_part_is_there(small: Specimen) -> None:
    assert SMALL.classes == ("background", "membrane", "protein", "filaments")
    assert np.unique(small.truth).tolist() == [0, 1, 2, 3]
    recipe = dataclasses.replace(SMALL, filled_share=1)
    assert which(recipe, build(recipe), "lumen matrix").any()


def test_instances_count_membranes_proteins_and_filaments(small: Specimen) -> None:
    classes = {"outer leaflet": 1, "membrane protein": 2, "microtubule": 3, "actin": 3}
    assert [p.instance for p in small.particles] == list(range(1, len(small.particles) + 1))
    for particle in small.particles:
        own = np.unique(small.truth[small.instances == particle.instance])
        # Gold stands among the particles, and belongs to the background.
        assert own.tolist() == [classes.get(particle.part, 0)]
    labelled = small.truth > 0
    assert np.all(small.instances[labelled] > 0)


def test_same_recipe_same_bytes() -> None:
    one, two = simulate(SMALL), simulate(dataclasses.replace(SMALL))
    assert one.tomogram.numpy().tobytes() == two.tomogram.numpy().tobytes()
    assert one.instances.numpy().tobytes() == two.instances.numpy().tobytes()
    assert one.particles == two.particles
    other = build(dataclasses.replace(SMALL, seed=5))
    assert not np.array_equal(other.truth, one.truth.numpy())


@pytest.mark.parametrize("voxel_size_A", [8.0, 12.0, 30.0])
def test_membranes_without_gaps_are_closed(voxel_size_A: float) -> None:
    deformed = {"deformation": (0.05, 0.2), "nested_share": 0.5, "multilamellar_share": 0.5, "n_vesicles": 3}
    recipe = LiposomeRecipe(**BARE, **deformed, shape=(64, 96, 96), voxel_size_A=voxel_size_A, thickness_nm=150, seed=2)
    made = build(recipe)
    outside = ~which(recipe, made, "lumen", "lumen matrix", "outer leaflet", "inner leaflet")
    inside = which(recipe, made, "lumen", "lumen matrix")
    assert inside.any()
    # A leak through an edge or a corner counts.
    assert not np.any(ndimage.binary_dilation(outside, AROUND) & inside)


def test_leaflets_lie_on_their_sides() -> None:
    made = build(ONE)
    from_lumen = ndimage.distance_transform_edt(~which(ONE, made, "lumen"))
    outer, inner = (from_lumen[which(ONE, made, part)] for part in ("outer leaflet", "inner leaflet"))
    # 28 Å each, 2.3 voxels: the inner one ends where the outer one begins.
    assert inner.max() < 4
    assert outer.min() > 1.4  # a step more than the inner's first voxels
    assert outer.mean() - inner.mean() == pytest.approx(28 / 12, abs=0.25)  # measured 2.18


def test_head_groups_are_4_nm_apart() -> None:
    sizes = {"shape": (72, 72, 72), "voxel_size_A": 4.0, "diameter_nm": (26, 26), "thickness_nm": 60}
    recipe = dataclasses.replace(ONE, **sizes, film_nm=0, border_roughness_nm=0)
    made = build(recipe)
    z, y, x = np.indices(made.potential[made.box].shape) * 4.0
    r = np.sqrt(sum((axis - c * 4.0) ** 2 for axis, c in zip((z, y, x), middle_vox(made), strict=True)))
    bins = np.arange(60, 170, 2.0)
    profile = np.array([made.potential[made.box][(r >= low) & (r < low + 2)].mean() for low in bins])
    peaks = bins[1:-1][(profile[1:-1] > profile[:-2]) & (profile[1:-1] > profile[2:]) & (profile[1:-1] > 0.8)] + 1
    assert len(peaks) == 2
    assert peaks[1] - peaks[0] == pytest.approx(40, abs=3)  # measured 42: the tails' dip pushes the peaks apart
    assert peaks.mean() == pytest.approx(130 - 28, abs=2)  # the outer leaflet ends at the radius that was asked for


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_gaps_take_the_share_of_membrane_that_was_asked_for(share: float) -> None:
    whole, torn = build(ONE), build(dataclasses.replace(ONE, gap_share=share, gap_diameter_nm=(15, 25)))
    membrane = which(ONE, whole, "outer leaflet", "inner leaflet")
    left = which(ONE, torn, "outer leaflet", "inner leaflet")
    assert np.all(membrane[left])
    missing = 1 - left.sum() / membrane.sum()
    assert missing == pytest.approx(share, rel=0.06)  # measured 0.0483 and 0.1948
    # And the lumen is open to the ice.
    lumen, ice = (which(ONE, torn, part) for part in ("lumen", "ice"))
    assert np.any(ndimage.binary_dilation(ice) & lumen)
    # Nothing of the bilayer is left in the middle of a gap.
    gone = ndimage.binary_erosion(membrane & ~left, iterations=1)
    assert np.abs(torn.potential[torn.box][gone]).max() < 0.1 * whole.potential[whole.box][membrane].max()


def test_gaps_of_deformed_vesicles_are_as_asked() -> None:
    recipe = LiposomeRecipe(n_vesicles=4, deformation=(0.1, 0.2), gap_share=0.1, gap_diameter_nm=(10, 20))
    rng = np.random.default_rng(0)
    for vesicle in _place_vesicles(recipe, rng, []):
        _place_gaps(vesicle, recipe, rng)
        directions = spiral(40_000)
        points, normals = vesicle.surface.surface(directions)
        reach = np.linalg.norm(points - vesicle.surface.centre[:, None], axis=0)
        area = reach**2 / np.sum(normals * directions, axis=0)
        assert area.mean() * 4 * np.pi == pytest.approx(vesicle.surface.area_A2, rel=1e-3)
        torn = np.zeros(len(area), bool)
        for centre, radius in vesicle.gaps:
            torn |= np.linalg.norm(points - centre[:, None], axis=0) < radius
            assert radius <= 100
        assert area[torn].sum() / area.sum() == pytest.approx(0.1, rel=0.05)  # measured 0.100 to 0.101


@pytest.mark.parametrize("kind", ["nested_share", "multilamellar_share"])
def test_inner_membranes_lie_inside(kind: str) -> None:
    recipe = dataclasses.replace(ONE, **{kind: 1.0}, deformation=(0.1, 0.1), diameter_nm=(80, 80))
    made = build(recipe)
    membranes = [p.instance for p in made.particles if p.part == "outer leaflet"]
    assert len(membranes) >= 2
    for inner in membranes[1:]:
        beside = ndimage.binary_dilation(made.instances == inner, AROUND) & (made.instances != inner)
        # Shells 10 nm apart are 3.7 voxels from leaflet to leaflet, and the distance from a deformed one is exact to
        # first order: a few voxels may touch; measured 4 of 21 455.
        assert which(recipe, made, "lumen", "lumen matrix")[beside].mean() > 0.999


def test_lamellae_keep_their_spacing() -> None:
    recipe = dataclasses.replace(ONE, multilamellar_share=1, n_lamellae=(2, 2), lamella_spacing_nm=9)
    made = build(recipe)
    radii = []
    for particle in made.particles:
        r = np.linalg.norm(np.argwhere(made.instances == particle.instance) - np.array(particle.centre_vox), axis=1)
        radii.append(1.2 * np.sqrt(np.mean(r**2)))
    # The root mean square of a thick shell leans outwards, more so in the smaller one: measured 8.88.
    assert radii[0] - radii[1] == pytest.approx(9.0, abs=0.2)


def test_a_lumen_is_as_dense_as_asked() -> None:
    recipe = dataclasses.replace(ONE, filled_share=1, lumen_density_V=0.5)
    made = build(recipe)
    deep = ndimage.binary_erosion(which(recipe, made, "lumen matrix"), iterations=3)
    values = made.potential[made.box][deep]
    assert values.mean() == pytest.approx(0.5, rel=0.03)  # measured 0.504
    assert values.std() > 0.2


@pytest.mark.parametrize("side", ["outside", "inside"])
def test_synthases_stand_on_the_membrane(side: str) -> None:
    asked = {"synthases_per_1000_nm2": 1.0, "head_diameter_nm": (10, 10), "head_height_nm": (13, 13)}
    recipe = dataclasses.replace(ONE, **asked, protein_side=side)
    made = build(recipe)
    proteins = [p for p in made.particles if p.part == "membrane protein"]
    assert len(proteins) == round(4 * np.pi * 27.2**2 / 1000)
    assert not made.notes
    membrane = which(recipe, made, "outer leaflet", "inner leaflet")
    beside = ndimage.binary_dilation(membrane, AROUND)
    to_middle = ndimage.distance_transform_edt(~membrane) * 12 + 28 - 6
    sign = 1 if side == "outside" else -1
    for protein in proteins:
        own = made.instances == protein.instance
        assert np.any(own & beside)
        assert to_middle[own].max() == pytest.approx(130 + 54, abs=14)  # the head's far end; measured 177 to 183
        assert protein.euler_deg is not None
        outward = np.array(protein.centre_vox) - middle_vox(made)
        assert 12 * np.linalg.norm(outward) == pytest.approx(272 + sign * 130, abs=1)  # the head's middle
        z, y, x = np.rint(protein.centre_vox).astype(int)
        assert made.instances[z, y, x] == protein.instance
        # scipy's ZYZ takes the particle to the reference, RELION's matrix back: its last column is where z went.
        axis = Rotation.from_euler("ZYZ", protein.euler_deg, degrees=True).inv().as_matrix()[::-1, 2]
        assert sign * np.sum(axis * outward) / np.linalg.norm(outward) > 0.98


def test_proteins_keep_to_their_patch_and_out_of_gaps() -> None:
    asked = {"integrals_per_1000_nm2": 4.0, "protein_patch": 0.3, "gap_share": 0.1}
    recipe = dataclasses.replace(ONE, **asked)
    made = build(recipe)
    bases = np.array([p.centre_vox for p in made.particles if p.part == "membrane protein"]) - middle_vox(made)
    assert len(bases) > 8
    directions = bases / np.linalg.norm(bases, axis=1)[:, None]
    # A cap of 0.3 of a sphere is 66 degrees wide: nobody is farther than that from all the others' middle, nearly.
    cap = directions.sum(axis=0) / np.linalg.norm(directions.sum(axis=0))
    assert (directions @ cap).min() > np.cos(np.radians(85))
    hollow = which(recipe, made, "ice", "lumen")
    for base in bases + middle_vox(made):
        z, y, x = np.rint(base).astype(int)
        assert not hollow[z, y, x]


def test_structures_stand_with_their_z_axis_along_the_normal(tmp_path: Path) -> None:
    # A mast through the map's middle, with a knob at +z, as maps of membrane proteins are kept.
    z, y, x = np.indices((41, 41, 41)) - 20.0
    mast = (np.hypot(y, x) < 2.5) & (z > -4) & (z < 15)
    knob = np.sqrt((z - 15) ** 2 + y**2 + x**2) < 4
    density = ndimage.gaussian_filter((mast | knob).astype(np.float32), 0.7)
    io.write(tmp_path / "mast.mrc", Volume(density, voxel_size_A=(10.0,) * 3))
    recipe = dataclasses.replace(ONE, protein_structures=(str(tmp_path / "mast.mrc"),), structures_per_1000_nm2=0.6)
    made = build(recipe)
    proteins = [p for p in made.particles if p.part == "membrane protein"]
    assert len(proteins) == round(0.6 * 4 * np.pi * 27.2**2 / 1000)
    for protein in proteins:
        centre_A = 12 * np.linalg.norm(np.array(protein.centre_vox) - middle_vox(made))
        assert 20 < centre_A - 272 < 150  # the mast's centre of mass, between foot and knob
        points = np.argwhere(made.instances == protein.instance) - middle_vox(made)
        heights = 12 * np.linalg.norm(points, axis=1) - 272
        assert heights.max() == pytest.approx(190, abs=14)  # the knob's top, 19 voxels of 10 Å; measured 186 to 187
        assert heights.min() > -50  # the mast's foot is 4 voxels below the middle, mostly within the membrane


def test_real_membrane_proteins_stand(test_data: Path) -> None:
    folder = test_data / "structures" / "density"
    files = tuple(str(folder / f"{name}_mbz_align_shift.mrc.gz") for name in ("4pe5", "5vai", "5wek"))
    recipe = dataclasses.replace(ONE, protein_structures=files, structures_per_1000_nm2=0.4)
    made = build(recipe)
    proteins = [p for p in made.particles if p.part == "membrane protein"]
    assert len(proteins) == 3 * round(0.4 * 4 * np.pi * 27.2**2 / 1000)
    beside = ndimage.binary_dilation(which(recipe, made, "outer leaflet", "inner leaflet"), AROUND)
    for protein in proteins:
        own = made.instances == protein.instance
        assert np.any(own & beside)
        heights = 12 * (np.linalg.norm(np.argwhere(own) - middle_vox(made), axis=1)) - 272
        assert heights.max() > 70  # measured 79 to 178


def test_says_what_had_no_room() -> None:
    many = {"n_vesicles": 15, "multilamellar_share": 0.5, "lamella_spacing_nm": 40, "n_microtubules": 2, "n_actin": 0}
    crowd = dataclasses.replace(SMALL, **many, shape=(40, 64, 64), diameter_nm=(30, 30), integrals_per_1000_nm2=50)
    notes = build(crowd).notes
    assert any("of 15 vesicles: no room" in note for note in notes)
    assert any("too small" in note for note in notes)
    assert any("membrane proteins: no room" in note for note in notes)
    assert any("of 2 microtubules: no room" in note for note in notes)


@pytest.mark.parametrize(
    "field",
    [
        {"n_vesicles": -1},
        {"diameter_nm": (100, 80)},
        {"diameter_nm": (100, 200), "thickness_nm": 150},
        {"deformation": (0.1, 0.5)},
        {"nested_share": 0.6, "multilamellar_share": 0.5},
        {"gap_share": 0.9},
        {"gap_diameter_nm": (0, 10)},
        {"protein_side": "above"},
        {"protein_structures": "one.mrc"},
        {"protein_patch": 0},
        {"n_microtubules": 1.5},
        {"actin_persistence_um": 0},
        {"lamella_spacing_nm": 3},
    ],
)
def test_bad_fields_are_refused_by_name(field: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        LiposomeRecipe(**field)
    assert any(name in str(error.value) for name in field)


def test_toml_round_trip() -> None:
    recipe = dataclasses.replace(SMALL, protein_structures=("a.mrc", "b.pdb"))
    assert read_recipe(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    "recipe",
    [
        LiposomeRecipe(**BARE, shape=(8, 8, 8), n_vesicles=1),
        LiposomeRecipe(**BARE, shape=(9, 40, 31), voxel_size_A=40, thickness_nm=400),
        LiposomeRecipe(**BARE, shape=(24, 32, 32), n_vesicles=0),
        LiposomeRecipe(shape=(40, 48, 48), diameter_nm=(25, 30), deformation=(0.25, 0.25), fast=True),
    ],
    ids=["tiny", "coarse", "empty", "extreme"],
)
def test_odd_recipes_give_whole_tomograms(recipe: LiposomeRecipe) -> None:
    made = simulate(recipe)
    assert made.tomogram.shape == recipe.shape
    assert made.tomogram.numpy().std() > 0


def test_progress_is_told_and_can_cancel() -> None:
    stages: set[str] = set()

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        assert 0 <= done <= total
        stages.add(stage)
        if stage == "grain":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(SMALL, progress=listen)
    assert {"placing vesicles", "vesicles", "membrane proteins", "microtubules", "actin filaments"} <= stages


def test_a_surface_knows_its_area_and_its_distances() -> None:
    rng = np.random.default_rng(3)
    ball = Surface(np.zeros(3), 300.0, *random_harmonics(rng, 0.0))
    assert ball.area_A2 == pytest.approx(4 * np.pi * 300**2, rel=1e-6)
    bent = Surface(np.zeros(3), 300.0, *random_harmonics(rng, 0.15))
    assert bent.area_A2 > 1.01 * ball.area_A2
    points, normals = bent.surface(spiral(500))
    for step in (-20.0, 20.0):
        # Exact to first order in the distance; measured 0.36 Å at most.
        assert np.abs(bent.signed_distance(points + step * normals) - step).max() < 1
