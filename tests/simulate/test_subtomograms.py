# SPDX-License-Identifier: MIT
"""Boxes about particles, their masks and labels, resized or not; stores and sets of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cryoet_engine._checks import CryoETError, FileFormatError, InputError
from cryoet_engine.simulate import (
    ComplexRecipe,
    Simulation,
    Subtomograms,
    VirionRecipe,
    cut_subtomograms,
    read_subtomograms,
    simulate,
    subtomogram_set,
    write_subtomograms,
)
from cryoet_engine.simulate.subtomograms import stratified_split
from cryoet_engine.volume import Volume

RECIPE = ComplexRecipe(shape=(56, 96, 96), crowding=0.12, thickness_nm=70, seed=7, fast=True, snr=0.3)
TINY = ComplexRecipe(
    shape=(28, 40, 40), crowding=0, n_particles=6, abundances=(0, 0, 1, 1), thickness_nm=40, fast=True, seed=9
)


@pytest.fixture(scope="module")
def made() -> Simulation:
    return simulate(RECIPE)


@pytest.fixture(scope="module")
def boxes(made: Simulation) -> Subtomograms:
    return cut_subtomograms(made, box=24)


def many(labels: npt.NDArray[Any], ratios: npt.NDArray[Any]) -> Subtomograms:
    """Columns with boxes of 2^3 voxels."""
    n = len(labels)
    blank = np.zeros((n, 2, 2, 2), np.uint8)
    return Subtomograms(
        data=np.arange(8 * n, dtype=np.float32).reshape(n, 2, 2, 2),
        mask=blank,
        labels=blank,
        class_number=labels.astype(np.uint8),
        instance=np.arange(n, dtype=np.uint16),
        seed=np.zeros(n, np.int64),
        snr=ratios.astype(np.float64),
        centre_vox=np.zeros((n, 3)),
        euler_deg=np.full((n, 3), np.nan),
        classes=("background", "a", "b"),
        voxel_size_A=10.0,
        source="",
    )


def test_all_whole_boxes_and_no_others(made: Simulation, boxes: Subtomograms) -> None:
    size = np.array(RECIPE.shape)
    expected = []
    for particle in made.particles:
        centre = np.rint(particle.centre_vox)
        if np.all(centre - 12 >= 0) and np.all(centre + 12 <= size):
            expected.append(particle.instance)
    assert boxes.instance.tolist() == expected
    assert 10 < len(boxes) < len(made.particles)
    assert boxes.data.shape == boxes.mask.shape == boxes.labels.shape == (len(boxes), 24, 24, 24)


def test_boxes_are_the_tomogram_and_its_truth(made: Simulation, boxes: Subtomograms) -> None:
    grey, truth, instances = made.tomogram.numpy(), made.truth.numpy(), made.instances.numpy()
    for i in range(len(boxes)):
        z, y, x = (slice(int(c) - 12, int(c) + 12) for c in np.rint(boxes.centre_vox[i]))
        assert np.array_equal(boxes.data[i], grey[z, y, x].astype(np.float32))
        assert np.array_equal(boxes.labels[i], truth[z, y, x])
        assert np.array_equal(boxes.mask[i], instances[z, y, x] == boxes.instance[i])
    assert boxes.data[0].dtype == np.float32
    assert boxes.mask[0].dtype == boxes.labels[0].dtype == np.uint8


def test_masks_hold_their_particle_and_nothing_else(made: Simulation) -> None:
    boxes = cut_subtomograms(made, box=32)  # larger than a ribosome
    counts = np.bincount(made.instances.numpy().ravel())
    particles = {p.instance: p for p in made.particles}
    neighbours = 0
    for i in range(len(boxes)):
        mask, labels = boxes.mask[i], boxes.labels[i]
        assert mask.sum() == counts[boxes.instance[i]]  # to the last voxel
        assert np.all(labels[mask == 1] == boxes.class_number[i])
        assert np.abs(np.argwhere(mask).mean(axis=0) - 16).max() < 1  # a barrel's own middle is a hole
        assert boxes.classes[boxes.class_number[i]] == particles[int(boxes.instance[i])].part
        assert tuple(boxes.euler_deg[i]) == particles[int(boxes.instance[i])].euler_deg
        neighbours += int(np.count_nonzero(labels[mask == 0]))
    assert len(boxes) > 3
    assert neighbours > 0  # they stay in the box
    assert set(boxes.snr) == {0.3}
    assert set(boxes.seed) == {RECIPE.seed}
    assert "crowding = 0.12" in boxes.source


@pytest.mark.parametrize(("box", "resize"), [(24, 16), (25, 16), (24, 36), (40, 32), (9, 9)])
def test_resizing_keeps_the_centre_and_the_scale(made: Simulation, box: int, resize: int) -> None:
    """Of a plane wave's slope, a ramp, interpolation makes the same ramp at the coordinates that are promised."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in RECIPE.shape), indexing="ij")
    ramp = dataclasses.replace(made, tomogram=Volume(z + 2 * y - x, voxel_size_A=(10.0,) * 3))
    found = cut_subtomograms(ramp, box=box, resize=resize)
    assert len(found) > 0
    assert found.voxel_size_A == pytest.approx(10 * box / resize)
    steps = (np.arange(resize) - resize // 2) * (box / resize)
    inner = np.flatnonzero((steps + box // 2 >= 3) & (steps + box // 2 <= box - 4))
    for i in range(min(len(found), 3)):
        c = np.rint(found.centre_vox[i])
        expected = (c[0] + steps)[:, None, None] + 2 * (c[1] + steps)[:, None] - (c[2] + steps)
        some = np.ix_(inner, inner, inner)
        # The spline's and the filter's edges reach three voxels in; measured 0.02.
        assert np.abs(found.data[i] - expected)[some].max() < 0.1
        middle = resize // 2
        assert found.data[i][middle, middle, middle] == pytest.approx(c[0] + 2 * c[1] - c[2], abs=0.01)


def test_resized_masks_are_masks(made: Simulation) -> None:
    whole, small = cut_subtomograms(made, box=40), cut_subtomograms(made, box=40, resize=32)
    assert len(whole) == len(small) > 0
    for i in range(len(whole)):
        assert set(np.unique(small.mask[i])) == {0, 1}
        assert set(np.unique(small.labels[i])) <= set(np.unique(whole.labels[i]))
        assert np.all(small.labels[i][small.mask[i] == 1] == small.class_number[i])
        share = small.mask[i].sum() / (whole.mask[i].sum() * 0.8**3)
        assert share == pytest.approx(1, abs=0.1)  # measured 0.03
        before = np.argwhere(whole.mask[i]).mean(axis=0) - 20
        after = np.argwhere(small.mask[i]).mean(axis=0) - 16
        assert np.abs(after - 0.8 * before).max() < 0.3  # measured 0.1


def test_only_so_many_of_a_class(made: Simulation, boxes: Subtomograms) -> None:
    few = cut_subtomograms(made, box=24, at_most={"ring": 2, "barrel": 0})
    counts = dict(zip(*np.unique(few.class_number, return_counts=True), strict=True))
    everything = dict(zip(*np.unique(boxes.class_number, return_counts=True), strict=True))
    assert counts[3] == 2
    assert 1 not in counts
    assert counts[4] == everything[4]


def test_no_box_where_none_is_whole(made: Simulation) -> None:
    assert len(cut_subtomograms(made, box=60)) == 0


@pytest.mark.parametrize("fields", [{"box": 1}, {"box": 2000}, {"box": 8.5}, {"resize": 1}])
def test_impossible_edges_are_refused(made: Simulation, fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(fields))):
        cut_subtomograms(made, **fields)


def test_virions_give_boxes_too() -> None:
    recipe = VirionRecipe(
        shape=(40, 48, 48), n_virions=1, diameter_nm=(60, 60), thickness_nm=70, fast=True, clutter_per_um3=0, seed=1
    )
    found = cut_subtomograms(simulate(recipe), box=16)
    assert len(found) > 0
    assert set(found.class_number) <= {2, 3}  # spikes and virions; gold is background


def test_split_shares_are_exact_and_disjoint() -> None:
    labels = np.repeat([1, 2, 1, 2], [1000, 1000, 1000, 7])
    ratios = np.repeat([0.03, 0.03, 0.05, 0.05], [1000, 1000, 1000, 7])
    found = many(labels, ratios)
    split = stratified_split(found, seed=3)
    for ratio, label, counts in ((0.03, 1, [700, 150, 150]), (0.03, 2, [700, 150, 150]), (0.05, 1, [700, 150, 150])):
        assert np.bincount(split[(ratios == ratio) & (labels == label)]).tolist() == counts
    assert sorted(np.bincount(split[-7:]).tolist()) == [1, 1, 5]
    whole = dataclasses.replace(found, split=split)
    parts = [whole.indices(name) for name in ("train", "validation", "test")]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(3007))
    assert np.array_equal(stratified_split(found, seed=3), split)
    assert not np.array_equal(stratified_split(found, seed=4), split)
    assert stratified_split(found, shares=(1, 0, 0)).max() == 0


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.2, 0.2), (1.2, -0.2, 0), "abc"])
def test_impossible_shares_are_refused(shares: Any) -> None:
    with pytest.raises(InputError, match="shares"):
        stratified_split(many(np.ones(3), np.zeros(3)), shares=shares)


def test_indices_need_a_split(boxes: Subtomograms) -> None:
    with pytest.raises(InputError, match="not split yet"):
        boxes.indices("train")
    with pytest.raises(InputError, match="train, validation, test"):
        dataclasses.replace(boxes, split=np.zeros(len(boxes), np.uint8)).indices("val")


def test_a_store_gives_back_what_it_got(tmp_path: Path, made: Simulation) -> None:
    cut = cut_subtomograms(made, box=24, resize=20)
    path = tmp_path / "boxes.zarr"
    write_subtomograms(path, cut, seed=1)
    found = read_subtomograms(path)
    assert not isinstance(found.data, np.ndarray)  # read as it is sliced
    for name in ("data", "mask", "labels"):
        assert np.array_equal(np.asarray(getattr(found, name)), np.asarray(getattr(cut, name)))
        assert np.array_equal(getattr(found, name)[3, 2:5], np.asarray(getattr(cut, name)[3])[2:5])
    for name in ("class_number", "instance", "seed", "snr", "centre_vox", "euler_deg"):
        assert np.array_equal(getattr(found, name), getattr(cut, name))
        assert getattr(found, name).dtype == getattr(cut, name).dtype
    assert found.classes == cut.classes
    assert found.voxel_size_A == cut.voxel_size_A == 12.0
    assert found.source == cut.source
    assert found.split is not None
    assert np.array_equal(found.split, stratified_split(cut, seed=1))
    assert not list(tmp_path.glob("*.partial"))
    again = tmp_path / "again.zarr"
    write_subtomograms(again, found)  # what is split stays so
    second = read_subtomograms(again)
    assert second.split is not None
    assert np.array_equal(second.split, found.split)


def test_an_empty_store(tmp_path: Path, made: Simulation) -> None:
    write_subtomograms(tmp_path / "none.zarr", cut_subtomograms(made, box=60))
    assert len(read_subtomograms(tmp_path / "none.zarr")) == 0


def test_several_chunks_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoet_engine.simulate.subtomograms._CHUNK_VOXELS", 24)
    found = many(np.ones(10), np.zeros(10))
    write_subtomograms(tmp_path / "ten.zarr", found)
    assert np.array_equal(np.asarray(read_subtomograms(tmp_path / "ten.zarr").data), found.data)


def test_cancelled_writing_leaves_nothing(tmp_path: Path, boxes: Subtomograms) -> None:
    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_subtomograms(tmp_path / "boxes.zarr", boxes, progress=listen)
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused(tmp_path: Path, boxes: Subtomograms) -> None:
    with pytest.raises(InputError, match=r"\.zarr"):
        write_subtomograms(tmp_path / "boxes.h5", boxes)


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    meta = path / "zarr.json"
    content = json.loads(meta.read_text())
    change(content["attributes"]["cryoet_engine"])
    content.pop("consolidated_metadata", None)
    meta.write_text(json.dumps(content))


def _column(path: Path, name: str, value: Any) -> None:
    import zarr

    zarr.open_group(str(path), mode="r+")[name][0] = value  # type: ignore[index]


def _replace(path: Path, name: str, shape: tuple[int, ...], dtype: str) -> None:
    import zarr

    zarr.open_group(str(path), mode="r+").create_array(name, shape=shape, dtype=dtype, overwrite=True)


TAMPERINGS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "kind": (lambda p: _edit(p, lambda r: r.update(kind="volume")), "subtomograms of cryoet-engine"),
    "version": (lambda p: _edit(p, lambda r: r.update(version=99)), "version"),
    "no classes": (lambda p: _edit(p, lambda r: r.pop("classes")), "classes"),
    "a class twice": (lambda p: _edit(p, lambda r: r.update(classes=["background", "a", "a"])), "classes"),
    "too few classes": (lambda p: _edit(p, lambda r: r.update(classes=["background", "a"])), "class_number"),
    "voxel size": (lambda p: _edit(p, lambda r: r.update(voxel_size_A=0)), "voxel_size_A"),
    "voxel size true": (lambda p: _edit(p, lambda r: r.update(voxel_size_A=True)), "voxel_size_A"),
    "source": (lambda p: _edit(p, lambda r: r.update(source=3)), "source"),
    "an array gone": (lambda p: shutil.rmtree(p / "mask"), "mask"),
    "a chunk gone": (lambda p: next(q for q in (p / "data" / "c").rglob("*") if q.is_file()).unlink(), "chunks"),
    "a broken column": (lambda p: (p / "seed" / "c" / "0").write_bytes(b"abc"), "store"),
    "background as a target": (lambda p: _column(p, "class_number", 0), "class_number"),
    "a split of its own": (lambda p: _column(p, "split", 3), "split"),
    "a place of no number": (lambda p: _column(p, "centre_vox", np.nan), "centre_vox"),
    "other shapes": (lambda p: _replace(p, "mask", (4, 2, 2, 3), "uint8"), "mask"),
    "fewer": (lambda p: _replace(p, "labels", (3, 2, 2, 2), "uint8"), "labels"),
    "other types": (lambda p: _replace(p, "data", (4, 2, 2, 2), "float64"), "data"),
    "broken metadata": (lambda p: (p / "zarr.json").write_text("{"), "store"),
    "no origin": (lambda p: (p / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}'), "another origin"),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_foreign_and_tampered_stores_are_refused(tmp_path: Path, tampering: str) -> None:
    change, words = TAMPERINGS[tampering]
    path = tmp_path / "boxes.zarr"
    write_subtomograms(path, many(np.array([1, 2, 1, 2]), np.zeros(4)))
    read_subtomograms(path)
    change(path)
    with pytest.raises(FileFormatError, match=words) as error:
        read_subtomograms(path)
    assert str(path) in str(error.value)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="existing"):
        read_subtomograms(tmp_path / "none.zarr")
    (tmp_path / "file.zarr").write_text("x")
    with pytest.raises(FileFormatError, match="something else"):
        read_subtomograms(tmp_path / "file.zarr")


def test_a_broken_chunk_shows_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "boxes.zarr"
    write_subtomograms(path, many(np.array([1, 2]), np.zeros(2)))
    chunk = next(one for one in (path / "data" / "c").rglob("*") if one.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 255
    chunk.write_bytes(content)
    found = read_subtomograms(path)
    with pytest.raises(FileFormatError, match="cannot be read"):
        np.asarray(found.data)


def test_a_set_has_as_many_of_each_class_at_each_ratio(tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, shape=(32, 48, 48), n_particles=9, abundances=(1, 0, 1, 1), snr_box=16)
    found = subtomogram_set(recipe, tmp_path, per_class=2, snrs=(0.5, 0.05), box=16, resize=12)
    assert found.data.shape == (12, 12, 12, 12)
    for ratio in (0.5, 0.05):  # ribosomes have no abundance
        assert np.bincount(found.class_number[found.snr == ratio]).tolist() == [0, 2, 0, 2, 2]
    # No tomogram, and so no specimen, at two ratios.
    assert not set(found.seed[found.snr == 0.5]) & set(found.seed[found.snr == 0.05])
    assert len(set(zip(found.seed.tolist(), found.instance.tolist(), strict=True))) == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["subtomograms.zarr"]
    again = subtomogram_set(recipe, tmp_path, per_class=2, snrs=(0.5, 0.05), box=16, resize=12)
    assert np.array_equal(np.asarray(again.data), np.asarray(found.data))  # made once


def test_an_interrupted_set_goes_on_by_tomogram(tmp_path: Path) -> None:
    asked: list[str] = []

    def stop_in_the_third(stage: str, done: int, total: int, note: str = "") -> None:
        assert stage == "subtomograms"
        assert total == 4
        asked.append(note)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subtomogram_set(TINY, tmp_path / "set", n_tomograms=4, box=12, progress=stop_in_the_third)
    assert any("seed 9" in note for note in asked)
    kept = sorted((tmp_path / "set" / "tomograms").iterdir())
    assert [p.name for p in kept] == ["0-00000.zarr", "0-00001.zarr"]
    times = [p.stat().st_mtime_ns for p in kept]
    seeds: set[str] = set()

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 2 and kept[0].exists():
            assert [p.stat().st_mtime_ns for p in kept] == times  # not made again
        seeds.add(note.split(":")[0])

    found = subtomogram_set(TINY, tmp_path / "set", n_tomograms=4, box=12, progress=listen)
    assert {"seed 11", "seed 12"} <= seeds
    assert not {"seed 9", "seed 10"} & seeds
    straight = subtomogram_set(TINY, tmp_path / "straight", n_tomograms=4, box=12)
    assert np.array_equal(np.asarray(found.data), np.asarray(straight.data))
    assert found.split is not None
    assert straight.split is not None
    assert np.array_equal(found.split, straight.split)
    assert set(found.seed) <= {9, 10, 11, 12}


def test_a_folder_with_another_set_is_refused(tmp_path: Path) -> None:
    subtomogram_set(TINY, tmp_path, n_tomograms=1, box=12)
    with pytest.raises(FileFormatError, match="n_tomograms"):
        subtomogram_set(TINY, tmp_path, n_tomograms=2, box=12)
    with pytest.raises(FileFormatError, match="recipe"):
        subtomogram_set(dataclasses.replace(TINY, seed=10), tmp_path, n_tomograms=1, box=12)


def test_a_class_that_never_fits_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoet_engine.simulate.subtomograms._BARREN", 2)
    recipe = dataclasses.replace(TINY, abundances=(0, 1, 1, 0), shape=(20, 40, 40), thickness_nm=12)
    with pytest.raises(InputError, match="2 tomograms in a row without ribosome"):
        subtomogram_set(recipe, tmp_path / "set", per_class=1, box=8)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "one of the two"),
        ({"per_class": 1, "n_tomograms": 1}, "one of the two"),
        ({"per_class": -1}, "per_class"),
        ({"n_tomograms": 1, "snrs": (0.1, 0.1)}, "different ratios"),
        ({"n_tomograms": 1, "snrs": (-0.1,), "box": 12}, "snr"),
        ({"n_tomograms": 1, "shares": (1, 1, 1)}, "shares"),
        ({"per_class": 1, "box": 30}, "box: expected a whole number from 2 to 28"),
        ({"per_class": 1, "box": 12, "resize": 0}, "resize"),
    ],
)
def test_contradictory_sets_are_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(CryoETError, match=words):
        subtomogram_set(TINY, tmp_path / "set", **fields)
    assert list(tmp_path.iterdir()) == []
