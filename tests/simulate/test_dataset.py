# SPDX-License-Identifier: MIT
"""Data sets: drawn from one seed, whole or absent, resumed to the same bytes, refused where they make no sense."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import io
from cryoet_engine._checks import CryoETError, InputError
from cryoet_engine.simulate import KINDS, DatasetRecipe, make_dataset, read_dataset_recipe
from cryoet_engine.simulate.dataset import SPLITS, built_in_datasets
from cryoet_engine.simulate.storage import FILES, SLICES, Plan, make_folder, read_plan
from cryoet_engine.simulate.workers import Task, run_tasks

TOML = """
seed = 7
split = { train = 2, validation = 0, test = 1 }
[recipe]
kind = "virions"
shape = [16, 40, 48]
fast = true
n_virions = { from = 1, to = 3 }
n_spikes = [4, 8]
defocus_um = { from = 2.5, to = 5.0 }
thickness_nm = 110
diameter_nm = { from = [60, 70], to = [80, 100] }
dtype = { one_of = ["int8", "int16"] }
[strokes]
error_rate = { from = 0.0, to = 0.1 }
"""


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, and its hash."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def recipe() -> DatasetRecipe:
    return DatasetRecipe.from_toml(TOML)


@pytest.fixture(scope="module")
def whole(recipe: DatasetRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "whole"
    made = make_dataset(recipe, folder, jobs=1)
    assert [path.relative_to(folder).as_posix() for path in made] == ["train/000", "train/001", "test/000"]
    return folder


def test_everything_is_there(whole: Path, recipe: DatasetRecipe) -> None:
    assert {path.name for path in whole.iterdir()} == {"train", "test", "dataset.toml", "index.csv"}
    for name in recipe.names:
        assert {path.name for path in (whole / name).iterdir()} == set(FILES) - {SLICES}
    with (whole / "index.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["tomogram"] for row in rows] == list(recipe.names)
    for row in rows:
        made = recipe.plan(row["tomogram"]).recipe
        assert int(row["seed"]) == made.seed
        assert float(row["defocus_um"]) == made.defocus_um
        assert row["dtype"] == made.dtype == io.read_volume(whole / row["tomogram"] / "tomogram.mrc").dtype.name
        n = int(io.read_volume(whole / row["tomogram"] / "instances.mrc").numpy().max())
        assert int(row["particles"]) == n > 0
    assert len({row["seed"] for row in rows}) == 3
    again = DatasetRecipe.from_toml((whole / "dataset.toml").read_text())
    assert [again.plan(name) for name in again.names] == [recipe.plan(name) for name in recipe.names]


def test_a_tomograms_own_recipe_makes_it_again(whole: Path, tmp_path: Path) -> None:
    make_folder(read_plan((whole / "train/001/recipe.toml").read_text()), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(whole / "train/001")


def test_processes_change_no_byte(whole: Path, recipe: DatasetRecipe, tmp_path: Path) -> None:
    make_dataset(recipe, tmp_path / "set", jobs=2)
    assert contents(tmp_path / "set") == contents(whole)


def test_what_was_interrupted_goes_on(whole: Path, recipe: DatasetRecipe, tmp_path: Path) -> None:
    folder = tmp_path / "set"

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if "train/001" in note and "grain" in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_dataset(recipe, folder, jobs=1, progress=stop)
    assert {path.name for path in folder.glob("*/*")} == {"000"}
    before = (folder / "train/000/tomogram.mrc").stat().st_mtime_ns
    make_dataset(recipe, folder, jobs=1)
    assert (folder / "train/000/tomogram.mrc").stat().st_mtime_ns == before
    assert contents(folder) == contents(whole)
    totals = []
    make_dataset(recipe, folder, jobs=2, progress=lambda stage, done, total, note="": totals.append(total))
    assert not totals  # nothing is left to do


def test_cancelled_before_anything_was_made_leaves_nothing(recipe: DatasetRecipe, tmp_path: Path) -> None:
    for jobs in (1, 2):

        def stop(stage: str, done: int, total: int, note: str = "") -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            make_dataset(recipe, tmp_path / "set", jobs=jobs, progress=stop)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_goes_on_to_the_same_bytes(
    how: signal.Signals, whole: Path, recipe: DatasetRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    code = (
        "import sys; from pathlib import Path\n"
        "from cryoet_engine.simulate import DatasetRecipe, make_dataset\n"
        "if __name__ == '__main__':\n"
        "    make_dataset(DatasetRecipe.from_toml(sys.argv[1]), Path(sys.argv[2]), jobs=2)\n"
    )
    (tmp_path / "make.py").write_text(code)
    words = [sys.executable, str(tmp_path / "make.py"), TOML, str(folder)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not list(folder.glob("*/0??")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        # The terminal's Ctrl-C goes to all of them; a kill to the first alone, whose children then end by themselves.
        if how == signal.SIGINT:
            os.killpg(process.pid, how)
        else:
            process.kill()
        process.wait(60)
        assert process.stderr
        process.stderr.read()  # until the last child has closed it
    assert list(folder.glob("*/0??"))
    assert not list(folder.glob("*/*.partial")), "nothing half-written"
    make_dataset(recipe, folder, jobs=1)
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("lost", ["truth.mrc", "tomogram.mrc"])
def test_what_was_lost_or_cut_short_is_made_again(
    whole: Path, recipe: DatasetRecipe, tmp_path: Path, lost: str
) -> None:
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    path = again / "train" / "000" / lost
    path.unlink() if lost == "truth.mrc" else path.write_bytes(b"")
    make_dataset(recipe, again, jobs=1)
    assert contents(again) == contents(whole)


def test_two_runs_do_not_make_one_data_set(recipe: DatasetRecipe, tmp_path: Path) -> None:
    def second(stage: str, done: int, total: int, note: str = "") -> None:
        with pytest.raises(CryoETError, match="another run"):
            make_dataset(recipe, tmp_path / "set")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_dataset(recipe, tmp_path / "set", jobs=1, progress=second)


def test_another_recipe_is_refused_with_what_differs(whole: Path, recipe: DatasetRecipe) -> None:
    before = contents(whole)
    other = dataclasses.replace(recipe, recipe={**recipe.recipe, "n_spikes": [4, 9]}, seed=8)
    with pytest.raises(CryoETError, match=r"seed = 7, now 8; recipe.n_spikes = \[4, 8\], now \[4, 9\]"):
        make_dataset(other, whole)
    assert contents(whole) == before


def test_foreign_folders_and_changed_tomograms_are_refused(recipe: DatasetRecipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CryoETError, match="other data"):
        make_dataset(recipe, tmp_path)
    with pytest.raises(CryoETError, match="a file"):
        make_dataset(recipe, tmp_path / "thesis.txt")
    folder = tmp_path / "set"
    one = dataclasses.replace(recipe, split={"test": 1})
    make_dataset(one, folder, jobs=1)
    path = folder / "test/000/recipe.toml"
    path.write_text(path.read_text().replace("n_gold = 2", "n_gold = 3"))
    with pytest.raises(CryoETError, match=r"test/000.*remove this folder"):
        make_dataset(one, folder)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def _work(fail: str, *, progress: object = None) -> None:
    if fail == "input":
        raise InputError("simulate: shape: expected small, got large")
    if fail == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fail == "bug":
        raise RuntimeError("no such thing")
    time.sleep(0 if fail == "" else 30)


@pytest.mark.parametrize(
    ("fail", "words"),
    [("input", "expected small"), ("killed", "killed.*memory"), ("bug", "internal error .RuntimeError: no such")],
)
def test_a_failure_names_the_tomogram_and_ends_the_others(fail: str, words: str) -> None:
    start = time.monotonic()
    with pytest.raises(CryoETError, match=f"train/001: .*{words}"):
        run_tasks([Task("train/000", _work, ("sleep",)), Task("train/001", _work, (fail,))], jobs=2, stage="s")
    assert time.monotonic() - start < 25  # measured: 3 s; the other one would sleep for 30


def test_fields_vary_within_their_ends_and_on_their_own(recipe: DatasetRecipe) -> None:
    many = dataclasses.replace(recipe, split={"train": 200})
    plans = [many.plan(name) for name in many.names]
    defocus = np.array([plan.recipe.defocus_um for plan in plans])
    assert 2.5 <= defocus.min() < 2.6
    assert 4.9 < defocus.max() <= 5.0
    assert abs(defocus.mean() - 3.75) < 0.15  # three standard errors; measured: 0.02
    counts = np.bincount([plan.recipe.n_virions for plan in plans], minlength=4)
    assert counts[0] == 0
    assert counts[1:].min() > 45  # of 67 each; measured: 59
    assert {plan.recipe.dtype for plan in plans} == {"int8", "int16"}
    least, largest = np.array([plan.recipe.diameter_nm for plan in plans]).T
    assert least.min() >= 60 and least.max() <= 80 and largest.min() >= 70 and largest.max() <= 100
    errors = [plan.strokes.error_rate for plan in plans if plan.strokes]
    assert 0 <= min(errors) < 0.01 and 0.09 < max(errors) <= 0.1
    assert abs(np.corrcoef(defocus, errors)[0, 1]) < 0.2
    # More tomograms, or another field that varies, leave the rest as it was.
    assert recipe.plan("train/001") == plans[1]
    more = dataclasses.replace(recipe, recipe={**recipe.recipe, "n_gold": {"from": 0, "to": 9}})
    assert dataclasses.replace(more.plan("train/001").recipe, n_gold=2) == plans[1].recipe
    assert recipe.plan("test/000").recipe.seed != plans[0].recipe.seed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("seed = 7", "seed = -1"), "seed"),
        (("seed = 7", "seed = 7\ncolour = 3"), "colour"),
        (("seed = 7", "seed ="), "TOML"),
        ((TOML, ""), "recipe"),
        (("train = 2", "training = 2"), "split"),
        (("train = 2", "train = -2"), "split.train"),
        (("train = 2, validation = 0, test = 1", "train = 0"), "1 to 10000"),
        (('"virions"', '"virion"'), "recipe.kind.*virions"),
        (("n_spikes", "n_spike"), "n_spike"),
        (("fast = true", "fast = 1"), "fast"),
        (("fast = true", 'fast = true\nreconstruction = "sirt"'), "train/000.*reconstruction"),
        (("fast = true", "fast = true\nseed = 3"), "leave it out"),
        (("from = 2.5, to = 5.0", "from = 5.0, to = 2.5"), "defocus_um.*from at most to"),
        (("from = 2.5, to = 5.0", "from = 2.5"), "defocus_um.*a table of from"),
        (("from = 2.5, to = 5.0", "from = 2.5, to = 500.0"), "defocus_um"),
        (("from = 1, to = 3", "from = 1, to = 3.5"), "n_virions"),
        (('one_of = ["int8", "int16"]', 'from = "int8", to = "int16"'), "dtype.*one_of"),
        (('one_of = ["int8", "int16"]', 'one_of = ["int8", "int64"]'), "dtype"),
        (('one_of = ["int8", "int16"]', "one_of = []"), "dtype.*a list"),
        (("thickness_nm = 110", "thickness_nm = { from = 61, to = 70 }"), "thickness_nm.*thicker ice"),
        (("error_rate = { from = 0.0, to = 0.1 }", "error = 0.1"), "error"),
        (("error_rate = { from = 0.0, to = 0.1 }", "error_rate = 0.9"), "error_rate"),
        (("[strokes]", "[subtomograms]\nper_class = 3\n[strokes]"), "subtomograms.*complexes"),
    ],
)
def test_bad_recipes_are_refused(change: tuple[str, str], words: str) -> None:
    assert change[0] in TOML
    with pytest.raises(InputError, match=words) as error:
        DatasetRecipe.from_toml(TOML.replace(*change, 1))
    assert "\n" not in str(error.value)


SUBTOMOGRAMS = """
strokes = false
[recipe]
kind = "complexes"
shape = [40, 48, 48]
fast = true
[subtomograms]
n_tomograms = 1
box = 16
resize = 12
"""


def test_subtomograms_of_complexes(tmp_path: Path) -> None:
    from cryoet_engine.simulate.subtomograms import read_subtomograms

    recipe = DatasetRecipe.from_toml(SUBTOMOGRAMS)
    assert recipe.names == ()
    for _ in range(2):  # the second time it is there
        make_dataset(recipe, tmp_path / "set")
        found = read_subtomograms(tmp_path / "set" / "subtomograms.zarr")
        assert found.data.shape[1:] == (12, 12, 12)
        assert len(found) > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("n_tomograms = 1", "n_tomograms = 1\nper_class = 3"), "both"),
        (("n_tomograms = 1", ""), "neither"),
        (("box = 16", "box = 1"), "subtomograms.box"),
        (("box = 16", "edge = 16"), "edge"),
        (("box = 16", "snrs = 0.1"), "subtomograms.snrs"),
        (("fast = true", "fast = true\ndefocus_um = { from = 2, to = 3 }"), "defocus_um vary"),
    ],
)
def test_bad_subtomograms_are_refused(change: tuple[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        DatasetRecipe.from_toml(SUBTOMOGRAMS.replace(*change, 1))


def test_ready_made_recipes() -> None:
    ready = built_in_datasets()
    assert "virions-8-3" in ready
    for name in ready:
        recipe = read_dataset_recipe(name)
        assert recipe.to_toml() == DatasetRecipe.from_toml(recipe.to_toml()).to_toml()
    study = read_dataset_recipe("virions-8-3")
    assert study.split == dict(zip(SPLITS, (8, 0, 3), strict=True))
    plans = [study.plan(name).recipe for name in study.names]
    assert all(min(plan.shape) >= 160 for plan in plans)
    for field in ("defocus_um", "dose_e_per_A2", "thickness_nm", "gain", "offset", "alignment_error_A"):
        assert len({getattr(plan, field) for plan in plans}) == len(plans)


def test_structures_are_meant_from_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.pdb").touch()
    (tmp_path / "sub" / "set.toml").write_text('[recipe]\nkind = "virions"\nspike_structure = "a.pdb"\n')
    monkeypatch.chdir(tmp_path)
    recipe = read_dataset_recipe("sub/set.toml")
    assert recipe.recipe["spike_structure"] == str((tmp_path / "sub" / "a.pdb").resolve())
    text = (tmp_path / "sub" / "set.toml").read_text()
    assert DatasetRecipe.from_toml(text).recipe["spike_structure"] == "a.pdb"


@pytest.mark.parametrize("kind", KINDS)
def test_plans_are_stored_and_read_back(kind: str) -> None:
    for plan in (Plan(recipe=KINDS[kind](seed=3)), Plan(recipe=KINDS[kind](), strokes=None)):
        assert read_plan(plan.to_toml()) == plan
        assert tomllib.loads(plan.to_toml())["kind"] == kind
    with pytest.raises(InputError, match="kind"):
        read_plan(plan.to_toml(), kind="another")
