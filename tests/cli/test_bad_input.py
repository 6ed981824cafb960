# SPDX-License-Identifier: MIT
"""Whatever is wrong: one line that says what, a status that is not 0, and nothing left behind or lost."""

from __future__ import annotations

import gzip
import hashlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import io
from cryoet_engine.volume import Volume

CLASSES = "background,membrane,spikes,lumen"


@dataclass(frozen=True)
class Room:
    """A folder with good input, and where output would go."""

    folder: Path
    cryoet: Callable

    def path(self, name: str) -> Path:
        return self.folder / name

    def volume(self, name: str) -> Volume:
        return io.read_volume(self.path(name))

    def write(self, name: str, data: np.ndarray) -> Path:
        io.write(self.path(name), self.volume("strokes.mrc").with_data(data))
        return self.path(name)

    def refuses(self, *words: object, says: tuple[str, ...]) -> None:
        before = {path: path.stat().st_size for path in self.folder.rglob("*")}
        outcome = self.cryoet(*words)
        assert outcome.status == 1, outcome.err
        assert "Traceback" not in outcome.err
        assert len(outcome.errors) == 1, outcome.err
        assert "internal error" not in outcome.err
        for text in says:
            assert text in outcome.errors[0]
        assert {path: path.stat().st_size for path in self.folder.rglob("*")} == before

    def refuses_labels(self, data: np.ndarray, *, says: tuple[str, ...], classes: str = CLASSES) -> None:
        labels = self.write("bad.mrc", data)
        words = (self.path("tomogram.mrc"), "--labels", labels, "--classes", classes)
        self.refuses("pseudolabel", *words, "-o", self.path("soft.zarr"), "--save-forest", self.path("F"), says=says)
        self.refuses("run", *words, "-o", self.path("out"), says=says)


@pytest.fixture
def room(inputs: Path, cryoet: Callable, tmp_path: Path) -> Room:
    for path in inputs.iterdir():
        shutil.copy(path, tmp_path)
    return Room(tmp_path, cryoet)


def spoil(path: Path, offset: int, value: int) -> None:
    """Change one 32-bit number of a header."""
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = value.to_bytes(4, "little", signed=True)
    path.write_bytes(data)


@pytest.mark.parametrize("command", ["info", "pseudolabel", "segment", "render", "run"])
def test_a_file_that_is_not_an_mrc(command: str, room: Room) -> None:
    bad = room.path("bad.mrc")
    bad.write_text("this is no tomogram\n" * 200)
    rest = {
        "info": (),
        "pseudolabel": ("--labels", room.path("strokes.mrc"), "-o", room.path("o.zarr")),
        "segment": ("--model", room.path("net"), "-o", room.path("o.zarr")),
        "render": ("--segmentation", room.path("truth.mrc"), "-o", room.path("o.png")),
        "run": ("--labels", room.path("strokes.mrc"), "--classes", CLASSES, "-o", room.path("out")),
    }[command]
    room.refuses(command, bad, *rest, says=("bad.mrc", "MRC"))


def test_a_missing_file(room: Room) -> None:
    room.refuses("info", room.path("tomogramm.mrc"), says=("tomogramm.mrc",))


def test_a_file_cut_short(room: Room) -> None:
    whole = room.path("tomogram.mrc").read_bytes()
    room.path("tomogram.mrc").write_bytes(whole[: len(whole) // 2])
    room.refuses("info", room.path("tomogram.mrc"), says=("tomogram.mrc", "bytes"))


def test_a_compressed_file_cut_short(room: Room) -> None:
    packed = gzip.compress(room.path("tomogram.mrc").read_bytes())
    room.path("cut.mrc.gz").write_bytes(packed[: len(packed) // 2])
    room.refuses("info", room.path("cut.mrc.gz"), says=("cut.mrc.gz",))


def test_a_header_that_claims_more_than_the_file_holds(room: Room) -> None:
    spoil(room.path("tomogram.mrc"), 8, 200_000)
    room.refuses("info", room.path("tomogram.mrc"), says=("tomogram.mrc", "bytes"))


def test_an_unknown_mode(room: Room) -> None:
    spoil(room.path("tomogram.mrc"), 12, 77)
    room.refuses("info", room.path("tomogram.mrc"), says=("mode", "77"))


@pytest.mark.parametrize("length", [0, -5])
def test_an_empty_volume(length: int, room: Room) -> None:
    spoil(room.path("tomogram.mrc"), 4, length)
    room.refuses("info", room.path("tomogram.mrc"), says=("tomogram.mrc",))


def test_nan_and_infinite_voxels_are_counted_and_can_be_filled(room: Room) -> None:
    data = room.volume("tomogram.mrc").numpy().copy()
    data[3, 4, 5:9] = np.nan
    data[0, 0, 0] = np.inf
    tomogram = room.write("nan.mrc", data)
    words = ("--labels", room.path("strokes.mrc"), "--classes", CLASSES, "--trees", 5)
    out = room.path("soft.zarr")
    room.refuses("pseudolabel", tomogram, *words, "-o", out, says=("nan.mrc", "5 NaN or infinite", "--fill"))
    room.refuses("pseudolabel", tomogram, *words, "-o", out, "--fill", "nan", says=("--fill",))
    assert room.cryoet("pseudolabel", tomogram, *words, "-o", out, "--fill", "mean").status == 0
    assert np.asarray(io.read_segmentation(out).data[:]).sum(axis=0).min() >= 253


def test_labels_of_another_shape(room: Room) -> None:
    room.refuses_labels(room.volume("strokes.mrc").numpy()[:, :-1].copy(), says=("(24, 48, 48)", "(24, 47, 48)"))


def test_labels_with_one_class_only(room: Room) -> None:
    strokes = room.volume("strokes.mrc").numpy()
    room.refuses_labels((strokes == 1).astype(np.uint8), says=("class",))


def test_labels_that_leave_a_class_out(room: Room) -> None:
    strokes = room.volume("strokes.mrc").numpy()
    room.refuses_labels(np.where(strokes == 3, 0, strokes).astype(np.uint8), says=("spikes",))


def test_no_labelled_voxel(room: Room) -> None:
    room.refuses_labels(np.zeros((24, 48, 48), np.uint8), says=("label",))


def test_labels_beyond_the_classes(room: Room) -> None:
    room.refuses_labels(room.volume("strokes.mrc").numpy(), classes="background,membrane", says=("4",))


def test_labels_that_are_no_whole_numbers(room: Room) -> None:
    room.refuses_labels(room.volume("strokes.mrc").numpy() + np.float32(0.5), says=("whole",))


def test_a_network_for_another_number_of_classes(finished: Path, room: Room) -> None:
    net = room.path("net")
    shutil.copytree(finished / "net", net)
    facts = json.loads((net / "model.json").read_text())
    facts["classes"], facts["colors"] = facts["classes"][:3], facts["colors"][:3]
    del facts["facts_sha256"]
    facts["data_fingerprint"] = []
    facts["facts_sha256"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (net / "model.json").write_text(json.dumps(facts))
    words = (room.path("tomogram.mrc"), "--model", net, "-o", room.path("o.zarr"))
    room.refuses("segment", *words, says=("model.json", "3 classes"))


def test_a_network_of_a_later_version(finished: Path, room: Room) -> None:
    net = room.path("net")
    shutil.copytree(finished / "net", net)
    facts = json.loads((net / "model.json").read_text()) | {"format_version": 99}
    (net / "model.json").write_text(json.dumps(facts))
    words = (room.path("tomogram.mrc"), "--model", net, "-o", room.path("o.zarr"))
    room.refuses("segment", *words, says=("99",))


def test_a_forest_cut_short(room: Room) -> None:
    forest = room.path("F")
    words = (room.path("tomogram.mrc"), "--labels", room.path("strokes.mrc"), "--classes", CLASSES, "--trees", 5)
    assert room.cryoet("pseudolabel", *words, "-o", room.path("s.zarr"), "--save-forest", forest).status == 0
    forest.write_bytes(forest.read_bytes()[:-100])
    room.refuses("pseudolabel", words[0], "--forest", forest, "-o", room.path("o.zarr"), says=("F",))


def test_pairs_with_other_classes(finished: Path, room: Room) -> None:
    three = io.read_segmentation(finished / "soft.zarr")
    grid = three.grid()
    with io.create_segmentation(room.path("three.zarr"), three.shape, three.classes[:3], grid=grid) as out:
        out[:, 0:24, 0:48, 0:48] = np.asarray(three.data[:3])
    tomogram = room.path("tomogram.mrc")
    pairs = ("--pair", tomogram, finished / "soft.zarr", "--pair", tomogram, room.path("three.zarr"))
    room.refuses("train", *pairs, "--patch", 16, "-o", room.path("net"), says=("classes",))


def test_an_output_that_is_something_else_is_not_touched(room: Room) -> None:
    taken = room.path("out")
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    words = (room.path("tomogram.mrc"), "--labels", room.path("strokes.mrc"), "--classes", CLASSES)
    room.refuses("run", *words, "--overwrite", "-o", taken, says=("out",))
    taken.rename(room.path("soft.zarr"))
    room.refuses("pseudolabel", *words, "-o", room.path("soft.zarr"), says=("soft.zarr",))


def test_an_output_name_that_hides_what_is_in_it(room: Room) -> None:
    words = (room.path("tomogram.mrc"), "--labels", room.path("strokes.mrc"), "--classes", CLASSES)
    room.refuses("pseudolabel", *words, "-o", room.path("soft.mrc"), says=(".zarr",))


WRONG_PICTURES = [("--size", "0x5"), ("--zoom", "-1"), ("--region", "40:50,:,:"), ("--hide", "nobody")]


@pytest.mark.parametrize("option", WRONG_PICTURES)
def test_wrong_picture_settings(option: tuple[str, ...], room: Room) -> None:
    before = sorted(room.folder.rglob("*"))
    words = (room.path("tomogram.mrc"), "--segmentation", room.path("truth.mrc"), "-o", room.path("o.png"))
    outcome = room.cryoet("render", *words, *option)
    assert outcome.status in (1, 2)
    assert "Traceback" not in outcome.err
    assert sorted(room.folder.rglob("*")) == before


def test_a_full_disk_leaves_nothing(room: Room) -> None:
    """A limit on file size stands in for a full disk: writes fail half-way."""
    out = room.path("soft.zarr")
    before = sorted(room.folder.iterdir())
    words = (room.path("tomogram.mrc"), "--labels", room.path("strokes.mrc"), "--classes", CLASSES, "--trees", 5)
    command = [sys.executable, "-m", "cryoet_engine.cli", "pseudolabel", *words, "-o", out, "--dtype", "float32"]
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert result.returncode == 1
    errors = [line for line in result.stderr.replace("\r", "\n").splitlines() if line.startswith("cryoet ")]
    assert len(errors) == 1
    assert "soft.zarr" in errors[0]
    assert "Traceback" not in result.stderr
    assert sorted(room.folder.iterdir()) == before


def test_an_output_never_takes_the_place_of_an_input(finished: Path, room: Room) -> None:
    tomogram, strokes = room.path("tomogram.mrc"), room.path("strokes.mrc")
    labels = ("--labels", strokes, "--classes", CLASSES, "--trees", 5)
    zarr = room.path("tomogram.zarr")
    io.write(zarr, io.read_volume(tomogram))
    room.refuses("pseudolabel", zarr, *labels, "-o", zarr, says=("tomogram.zarr", "input"))
    room.refuses("segment", tomogram, "--model", finished / "net", "-o", zarr, says=("tomogram.zarr", "other data"))
    out = ("-o", room.path("soft.zarr"))
    room.refuses("pseudolabel", tomogram, *labels, *out, "--save-forest", tomogram, says=("tomogram.mrc", "input"))
    room.refuses("pseudolabel", tomogram, *labels, *out, "--save-forest", room.path("truth.mrc"), says=("other data",))


def test_train_leaves_foreign_files_and_older_networks_alone(finished: Path, room: Room) -> None:
    net = room.path("net")
    shutil.copytree(finished / "net", net)
    pair = ("--pair", room.path("tomogram.mrc"), finished / "soft.zarr", "--patch", 16, "--steps", 1)
    room.refuses("train", *pair, "-o", net, says=("--overwrite",))
    (net / "notes.txt").write_text("precious")
    room.refuses("train", *pair, "--overwrite", "-o", net, says=("something else",))


@pytest.mark.parametrize(
    "option", [("--zoom", 0), ("--hide", "nobody"), ("--overlap", 500), ("--model", "nope"), ("--model", "cam3d")]
)
def test_run_finds_wrong_settings_before_the_work(option: tuple[object, ...], room: Room) -> None:
    words = (room.path("tomogram.mrc"), "--labels", room.path("strokes.mrc"), "--classes", CLASSES)
    room.refuses("run", *words, *option, "-o", room.path("out"), says=())


def test_a_card_that_cannot_be_used_is_told_before_the_work(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (room.path("tomogram.mrc"), "--labels", room.path("strokes.mrc"), "--classes", CLASSES, "--device", "cuda")
    monkeypatch.setitem(sys.modules, "cupy", None)
    for command, out in (("pseudolabel", "soft.zarr"), ("run", "out")):
        room.refuses(command, *words, "-o", room.path(out), says=("expected CuPy", "cryoet-engine[cuda]"))


def test_options_that_a_trained_forest_has_decided(room: Room) -> None:
    tomogram, forest = room.path("tomogram.mrc"), room.path("F")
    for words in (("--features", "scale-true"), ("--trees", "7"), ("--seed", "5"), ("--planar", "3.5")):
        room.refuses(
            "pseudolabel",
            tomogram,
            "--forest",
            forest,
            *words,
            "-o",
            room.path("o.zarr"),
            says=(words[0], "--labels with"),
        )
    words = (tomogram, "--forest", forest, "--uncertainty", "margin", "-o", room.path("o.zarr"))
    room.refuses("pseudolabel", *words, says=("-u FILE",))


def test_two_outputs_of_one_name(room: Room) -> None:
    words = (room.path("tomogram.mrc"), "--labels", room.path("strokes.mrc"), "--classes", CLASSES)
    out = room.path("a.zarr")
    for second in ("-u", "--labels-out", "--save-forest"):
        room.refuses("pseudolabel", *words, "-o", out, second, out, says=("two outputs",))


def test_a_usage_error_is_one_line(room: Room) -> None:
    outcome = room.cryoet("train", "--pair", "a", "b", "--classes", "a,a", "-o", "x")
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 1
    assert "different names" in outcome.err


def test_run_overwrites_its_own_files_only(finished: Path, room: Room) -> None:
    out = room.path("out")
    shutil.copytree(finished, out)
    (out / "thesis.txt").write_text("years of work")
    words = (room.path("tomogram.mrc"), "--labels", room.path("strokes.mrc"), "--classes", CLASSES)
    room.refuses("run", *words, "--overwrite", "-o", out, says=("thesis.txt",))
