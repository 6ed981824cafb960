# SPDX-License-Identifier: MIT
"""`cryoet run` with several tomograms: one network, a folder for each, and a report of all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import io
from cryoet_engine.cli._console import Bars
from cryoet_engine.cli._job import job
from cryoet_engine.cli.run import names_of
from cryoet_engine.volume import Volume

CLASSES = "background,ball"
QUICK = ("--trees", 5, "--steps", 8, "--patch", 16, "--batch", 2, "--size", "80x45", "--frames", 1, "--tile", 32)
QUICK = (*QUICK, "--overlap", 8, "--device", "cpu")


def ball(folder: Path, name: str, seed: int, shape: tuple[int, int, int] = (16, 32, 32)) -> None:
    """NAME.mrc and NAME_strokes.mrc: a dark ball in noise, drawn on three slices."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    truth = 1 + ((z - 8) ** 2 + (y - 14) ** 2 + (x - 16) ** 2 < 49)
    grey = np.where(truth == 2, -30, 0) + rng.normal(0, 6, shape)
    strokes = np.where(np.isin(z, (3, 8, 12)) & (y % 3 == 0), truth, 0)
    folder.mkdir(exist_ok=True)
    for file, data in ((name, grey.astype(np.float32)), (f"{name}_strokes", strokes.astype(np.uint8))):
        io.write(folder / f"{file}.mrc", Volume(data, voxel_size_A=12.0))


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tomograms `a` and `b` with strokes, one more `a` in another folder without any."""
    folder = tmp_path_factory.mktemp("several")
    ball(folder, "a", 0)
    ball(folder, "b", 1, (16, 40, 32))
    ball(folder / "more", "a", 2)
    return folder


def words(room: Path, out: Path, *more: object) -> tuple[object, ...]:
    pairs = [("--pair", room / f"{name}.mrc", room / f"{name}_strokes.mrc") for name in "ab"]
    files = (*pairs[0], *pairs[1], room / "more" / "a.mrc", "--classes", CLASSES)
    return ("run", *files, *QUICK, "--leave-out-slices", "2,1", "-o", out, *more)


@pytest.fixture(scope="module")
def finished(room: Path, cryoet: Callable) -> Path:
    """Two rounds over three tomograms."""
    out = room / "out"
    outcome = cryoet(*words(room, out, "--rounds", 2))
    assert outcome.status == 0, outcome.err
    assert "segmentation, round 2: a_2" in outcome.err
    return out


def test_every_tomogram_has_a_folder_and_the_report_all_of_them(finished: Path) -> None:
    top = {path.name for path in finished.iterdir()}
    assert top == {"a", "b", "a_2", "net", "net_round1", "report.md", "job.json"}
    drawn = {"forest.safetensors", "soft.zarr", "picture_pseudo_labels.png"}
    every = {"proba.zarr", "proba_round1.zarr", "transfer.json", "picture.png", "picture_cut.png"}
    for name, shape in (("a", (16, 32, 32)), ("b", (16, 40, 32)), ("a_2", (16, 32, 32))):
        left = {path.name for path in (finished / name).iterdir() if not path.name.startswith("slice_")}
        assert left == every | (drawn if name != "a_2" else set())
        proba = io.read_segmentation(finished / name / "proba.zarr")
        assert (proba.shape, proba.classes, proba.voxel_size_A) == (shape, ("background", "ball"), (12.0,) * 3)
    report = (finished / "report.md").read_text()
    links = re.findall(r"!\[.*?\]\((.*?)\)", report)
    assert all((finished / link).is_file() for link in links)
    assert {Path(link).parent.name for link in links} == {"a", "b", "a_2"}
    assert "| a_2 | none | " in report
    assert "| 2 | the strokes | " in report
    assert re.search(r"\| pseudo labels \| \d+:\d\d \|", report)
    facts = json.loads((finished / "net" / "model.json").read_text())
    assert facts["training_data"] == ["a", "b", "a_2"]
    assert (facts["settings"]["targets"], facts["settings"]["loss"]) == ("soft", "mse")  # of two classes
    assert facts["network"]["activation"] == "softmax"


def test_slices_are_left_out_of_the_last_round_alone(finished: Path) -> None:
    """Else the second one would learn them as background, and most surely so."""
    for name in ("a", "b", "a_2"):
        first, last = (
            io.read_segmentation(finished / name / f"{file}.zarr").block((slice(None),) * 3)
            for file in ("proba_round1", "proba")
        )
        blank = [z for z in range(16) if (last[1, z] == 0).all()]
        assert blank == [0, 1, 15]
        assert (first[1, blank] > 0).mean() > 0.9  # measured: 1
    assert "of the last round alone" in (finished / "report.md").read_text()


def test_it_resumes_by_stage_and_tomogram(
    room: Path, finished: Path, cryoet: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the pseudo labels of two tomograms, then within the training of the second round."""
    out = tmp_path / "out"
    told = ""
    for stage, at in (("growing", 3), ("training", 12)):
        count = 0

        def report(self: Bars, name: str, *rest: object, stage: str = stage, at: int = at, note: str = "") -> None:
            nonlocal count
            count += stage in name
            if stage in name and count == at:
                raise KeyboardInterrupt

        monkeypatch.setattr(Bars, "__call__", report)
        outcome = cryoet(*words(room, out, "--rounds", 2))
        assert outcome.status == 130
        assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
        told += outcome.err
    assert "pseudo labels: a: done before" in told
    assert "forest: b: done before" not in told
    monkeypatch.undo()
    outcome = cryoet(*words(room, out, "--rounds", 2))
    assert outcome.status == 0, outcome.err
    assert "training, round 1: done before" in outcome.err
    for path in ("a/proba.zarr", "b/proba_round1.zarr", "a_2/proba.zarr"):
        one, other = (np.asarray(io.read_segmentation(folder / path).data[:]) for folder in (finished, out))
        np.testing.assert_array_equal(one, other)


def test_a_pair_alone_lies_flat_as_with_labels(room: Path, cryoet: Callable, tmp_path: Path) -> None:
    pair = (room / "a.mrc", room / "a_strokes.mrc")
    rest = ("--classes", CLASSES, *QUICK)
    assert cryoet("run", "--pair", *pair, *rest, "-o", tmp_path / "pair").status == 0
    assert cryoet("run", pair[0], "--labels", pair[1], *rest, "-o", tmp_path / "labels").status == 0
    lists = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("pair", "labels")]
    assert lists[0] == lists[1]
    assert {"soft.zarr", "net", "proba.zarr", "picture.png", "report.md"} <= set(lists[0])
    reports = [(tmp_path / name / "report.md").read_text().split("## Time")[0] for name in ("pair", "labels")]
    assert reports[0] == reports[1]


def test_a_second_run_into_the_same_folder_is_refused(room: Path, cryoet: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with job(out, {"some": "settings"}):
        for more in ((), ("--overwrite",)):
            outcome = cryoet(*words(room, out, *more))
            assert outcome.status == 1
            assert "another run" in outcome.errors[0]
            assert "Traceback" not in outcome.err
        assert (tmp_path / "out.partial" / "job.json").is_file()
    assert (out / "job.json").is_file()


def test_files_named_twice(room: Path, cryoet: Callable, tmp_path: Path) -> None:
    a, b = (("--pair", room / f"{name}.mrc", room / f"{name}_strokes.mrc") for name in "ab")
    rest = ("--classes", CLASSES, *QUICK, "-o", tmp_path / "out")
    wrong: list[tuple[tuple[object, ...], str]] = [
        ((*a, "--pair", room / "more" / ".." / "a.mrc", b[2]), "each file once"),
        ((*a, "--pair", b[1], a[2]), "each file once"),
        (("--pair", a[1], a[1]), "each file once"),
        ((*a, b[2], b[2], "--pair", *b[1:]), "strokes of a --pair"),
        ((*a, "--labels", a[2]), "got both"),
        ((a[1],), "got neither"),
        ((a[1], b[1], "--labels", a[2]), "one TOMO"),
        ((*a, "--confident-share", 2), "confident_share"),
    ]
    for files, says in wrong:
        outcome = cryoet("run", *files, *rest)
        assert outcome.status in (1, 2), files
        assert len(outcome.errors) == 1, outcome.err
        assert says in outcome.errors[0]
        assert not list(tmp_path.iterdir())


def test_a_tomogram_named_again_is_segmented_once(
    room: Path, cryoet: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Bars, *words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bars, "__call__", stop)
    pair = ("--pair", room / "a.mrc", room / "a_strokes.mrc")
    rest = ("--classes", CLASSES, *QUICK, "-o", tmp_path / "out")
    outcome = cryoet("run", *pair, room / "a.mrc", room / "b.mrc", room / "b.mrc", *rest)
    assert outcome.status == 130
    assert outcome.err.count("named twice") == 2


def test_strokes_that_do_not_do_are_told_before_the_work(room: Path, cryoet: Callable, tmp_path: Path) -> None:
    rest = ("--classes", "background,ball,rod", *QUICK, "-o", tmp_path / "out")
    pairs = [("--pair", room / f"{name}.mrc", room / f"{name}_strokes.mrc") for name in "ab"]
    outcome = cryoet("run", *pairs[0], *pairs[1], *rest)
    assert outcome.status == 1
    assert "none of rod" in outcome.errors[0]
    assert not list(tmp_path.iterdir())
    outcome = cryoet("run", *pairs[0], "--pair", room / "b.mrc", room / "more" / "a_strokes.mrc", *rest)
    assert "strokes of b: shape" in outcome.errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--leave-out-slices", "10,6"), ("under 16 slices together", "unknown.mrc", "got 10,6")),
        (("--rescale",), ("voxel sizes are known", "unknown.mrc")),
        (("--min-diameter", 5), ("--min-diameter: voxel size: expected", "unknown.mrc")),
    ],
)
def test_what_a_tomogram_does_not_allow_is_told_before_the_work(
    room: Path, cryoet: Callable, tmp_path: Path, option: tuple[str, ...], says: tuple[str, ...]
) -> None:
    """The one without strokes, which is segmented last."""
    unknown = Volume(np.zeros((16, 20, 20), np.float32), voxel_size_status="unknown")
    io.write(tmp_path / "unknown.mrc", unknown)
    ball(tmp_path, "thick", 0, (24, 32, 32))
    pair = ("--pair", tmp_path / "thick.mrc", tmp_path / "thick_strokes.mrc")
    rest = ("--classes", CLASSES, *QUICK, "-o", tmp_path / "out")
    outcome = cryoet("run", *pair, tmp_path / "unknown.mrc", *option, *rest)
    assert outcome.status == 1
    assert all(text in outcome.errors[0] for text in (*option[:1], *says)), outcome.err
    assert not list(tmp_path.glob("out*"))


def test_names_are_different_and_free() -> None:
    assert names_of(["x/a.mrc", "y/a.rec.gz", "a.mrc", "net.mrc", "T 1.2.mrc", "net_round1.zarr"]) == [
        "a",
        "a_2",
        "a_3",
        "net_2",
        "T_1.2",
        "net_round1_2",
    ]
