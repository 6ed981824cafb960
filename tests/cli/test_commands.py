# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import zarr
from PIL import Image

import cryoet_engine as ce
from cryoet_engine import io
from cryoet_engine.cli import COMMANDS
from cryoet_engine.volume import SoftSegmentation

CLASSES = ("background", "membrane", "spikes", "lumen")


def pixels(path: Path) -> np.ndarray:
    """(height, width, RGB)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def f1(truth: np.ndarray, found: np.ndarray, label: int) -> float:
    a, b = truth == label, found == label
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = "import sys; from cryoet_engine.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'numpy', 'zarr', 'moderngl') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name}" in out for name in COMMANDS)
    assert out.strip().endswith("[]")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, cryoet: Callable) -> None:
    outcome = cryoet(command, "--help")
    assert outcome.status == 0
    assert outcome.out.startswith(f"usage: cryoet {command}")


def test_version(cryoet: Callable) -> None:
    assert cryoet("--version").out.strip() == f"cryoet-engine {ce.__version__}"


def test_doctor_finds_a_whole_installation(cryoet: Callable) -> None:
    outcome = cryoet("doctor")
    assert outcome.status == 0, outcome.out
    assert "OpenGL" in outcome.out
    assert "NO " not in outcome.out


def test_info_tells_header_statistics_and_thumbnail(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    outcome = cryoet("info", inputs / "tomogram.mrc", "--thumbnail", tmp_path / "t.png")
    assert outcome.status == 0
    assert re.search(r"shape \(z, y, x\) +24, 48, 48", outcome.out)
    assert "12.5, 12.5, 12.5" in outcome.out
    assert pixels(tmp_path / "t.png").shape[1] > 48
    facts = json.loads(cryoet("info", inputs / "tomogram.mrc", "--json").out)
    data = io.read_volume(inputs / "tomogram.mrc").numpy()
    assert facts["mean"] == pytest.approx(data.mean(), rel=1e-4)
    assert facts["origin (z, y, x), A"] == [10, 20, 30]


def test_run_leaves_every_stage_and_finds_the_vesicle(finished: Path, inputs: Path) -> None:
    assert not finished.with_name("out.partial").exists()
    truth = io.read_volume(inputs / "truth.mrc").numpy()
    soft, proba = (io.read_segmentation(finished / name) for name in ("soft.zarr", "proba.zarr"))
    # So few steps only show that a network was trained; how well it learns is tested in tests/training.
    for result, bounds in ((soft, (0.9, 0.8, 0.6, 0.8)), (proba, (0.0, 0.0, 0.0, 0.0))):
        assert isinstance(result, SoftSegmentation)
        assert result.classes == CLASSES
        assert result.voxel_size_A == (12.5, 12.5, 12.5)
        assert result.origin_A == (10, 20, 30)
        labels = np.asarray(result.data[:]).argmax(axis=0) + 1
        assert abs(np.asarray(result.data[:]).astype(int).sum(axis=0) - 255).max() <= 2  # of rounding
        scores = [f1(truth, labels, k) for k in (1, 2, 3, 4)]
        assert all(score >= bound for score, bound in zip(scores, bounds, strict=True)), scores
    picture = pixels(finished / "picture.png")
    assert picture.shape == (90, 160, 3)
    assert picture.std() > 5
    report = (finished / "report.md").read_text()
    for link in re.findall(r"!\[.*?\]\((.*?)\)", report):
        assert (finished / link).is_file()
    assert "membrane" in report
    assert (finished / "net" / "model.json").is_file()


def test_the_volumes_open_in_plain_zarr(finished: Path) -> None:
    group = zarr.open_group(finished / "proba.zarr", mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["c", "z", "y", "x"]


def test_a_saved_forest_labels_another_tomogram(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    forest, soft = tmp_path / "F", tmp_path / "soft.zarr"
    words = ("--labels", inputs / "strokes.mrc", "--classes", ",".join(CLASSES), "--trees", 10)
    assert cryoet("pseudolabel", inputs / "tomogram.mrc", *words, "-o", soft, "--save-forest", forest).status == 0
    again = tmp_path / "soft2.zarr"
    assert cryoet("pseudolabel", inputs / "tomogram.mrc", "--forest", forest, "-o", again).status == 0
    a, b = (io.read_segmentation(path) for path in (soft, again))
    np.testing.assert_array_equal(a.data[:], b.data[:])
    assert b.classes == CLASSES


def test_train_and_segment_alone_do_what_run_does(
    finished: Path, inputs: Path, cryoet: Callable, tmp_path: Path
) -> None:
    net, proba = tmp_path / "net", tmp_path / "proba.zarr"
    words = ("--steps", 40, "--patch", 16, "--batch", 2, "--model", "unet3d")
    pair = (inputs / "tomogram.mrc", finished / "soft.zarr")
    assert cryoet("train", "--pair", *pair, *words, "-o", net).status == 0
    assert cryoet("segment", inputs / "tomogram.mrc", "--model", net, "-o", proba).status == 0
    a, b = (io.read_segmentation(path) for path in (finished / "proba.zarr", proba))
    np.testing.assert_array_equal(a.data[:], b.data[:])


def test_train_takes_a_label_volume(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    words = ("--steps", 2, "--patch", 16, "--batch", 1, "--classes", ",".join(CLASSES))
    pair = (inputs / "tomogram.mrc", inputs / "truth.mrc")
    outcome = cryoet("train", "--pair", *pair, *words, "-o", tmp_path / "net")
    assert outcome.status == 0, outcome.err
    assert json.loads((tmp_path / "net" / "model.json").read_text())["classes"] == list(CLASSES)


def test_labels_from_zero_are_the_same_labels(finished: Path, inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    truth = io.read_volume(inputs / "truth.mrc")
    for name, data in (("one", truth.numpy()), ("zero", truth.numpy() - 1)):
        io.write(tmp_path / f"{name}.mrc", dataclasses.replace(truth, data=data, notes=("truth: 0 background",)))
    words = ("--steps", 2, "--patch", 16, "--batch", 1, "--sampling", "chunks", "--chunk", 24, "--device", "cpu")
    words = (*words, "--classes", ",".join(CLASSES))
    for name, more in (("one", ()), ("zero", ("--labels-from-zero",))):
        pair = (inputs / "tomogram.mrc", tmp_path / f"{name}.mrc")
        outcome = cryoet("train", "--pair", *pair, *words, *more, "-o", tmp_path / name)
        assert outcome.status == 0, outcome.err
        assert ("calls 0 background by its notes" in outcome.err) == (not more)
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "zero"))
    assert a == b
    settings = json.loads((tmp_path / "zero" / "model.json").read_text())["settings"]
    assert (settings["sampling"], settings["chunk"]) == ("chunks", 24)
    pair = (inputs / "tomogram.mrc", finished / "soft.zarr")
    refused = cryoet("train", "--pair", *pair, "--labels-from-zero", "-o", tmp_path / "none")
    assert refused.status == 1
    assert "expected a label volume, got a soft segmentation; leave --labels-from-zero out" in refused.err


def test_export_writes_one_mrc_a_class(finished: Path, cryoet: Callable, tmp_path: Path) -> None:
    assert cryoet("export", finished / "proba.zarr", "-o", tmp_path / "mrc").status == 0
    paths = sorted((tmp_path / "mrc").iterdir())
    assert [path.name for path in paths] == [f"proba_{name}.mrc" for name in sorted(CLASSES)]
    proba = io.read_segmentation(finished / "proba.zarr")
    for path in paths:
        assert mrcfile.validate(str(path))
        with mrcfile.open(path) as mrc:
            assert mrc.voxel_size.x == pytest.approx(12.5)
            assert (mrc.header.origin.z, mrc.header.origin.y, mrc.header.origin.x) == (10, 20, 30)
            index = CLASSES.index(path.stem.removeprefix("proba_"))
            np.testing.assert_allclose(mrc.data, np.asarray(proba.data[index]) / 255, atol=1e-6)


def test_render_takes_masks_of_other_tools(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    truth = io.read_volume(inputs / "truth.mrc")
    for label, name in ((2, "membrane"), (3, "spikes")):
        io.write(tmp_path / f"x_{name}.mrc", truth.with_data((truth.numpy() == label).astype(np.uint8)))
    masks = (tmp_path / "x_membrane.mrc", tmp_path / "x_spikes.mrc")
    words = ("--size", "120x80", "--frames", 1, "--save-transfer", tmp_path / "t.json")
    picture = tmp_path / "p.png"
    outcome = cryoet("render", inputs / "tomogram.mrc", "--segmentation", *masks, "-o", picture, *words)
    assert outcome.status == 0, outcome.err
    assert pixels(picture).shape == (80, 120, 3)
    names = [entry["name"] for entry in json.loads((tmp_path / "t.json").read_text())["classes"]]
    assert names == ["background", "membrane", "spikes"]
    # The saved ramps, given back, make the same picture.
    again = tmp_path / "again.png"
    words = ("--size", "120x80", "--frames", 1, "--transfer", tmp_path / "t.json")
    assert cryoet("render", inputs / "tomogram.mrc", "--segmentation", *masks, "-o", again, *words).status == 0
    np.testing.assert_array_equal(pixels(picture), pixels(again))


def test_the_python_example_of_the_readme_runs(inputs: Path, tmp_path: Path) -> None:
    tomo = ce.read(inputs / "tomogram.mrc")
    marks = ce.read(inputs / "strokes.mrc")
    forest = ce.PixelClassifier(n_trees=10).fit(tomo, marks)
    soft = forest.predict_proba(tomo)
    model = ce.create_model("unet3d", preset="small", out_channels=4)
    ce.train(model, [(tomo, soft)], steps=2)
    proba = ce.segment(model, tomo, tile=128, overlap=32)
    tf = ce.TransferFunction.estimate(proba)
    ce.render_image(tomo, proba, tf, size=(64, 48)).save(tmp_path / "virion.png")
    assert pixels(tmp_path / "virion.png").shape == (48, 64, 3)
    assert proba.classes == forest.classes
