# SPDX-License-Identifier: MIT
"""The pixel classifier's options and commands: maps, extra channels, features, reports, suggestions, merging."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import PixelClassifier, io
from cryoet_engine.forest import entropy, margin
from cryoet_engine.volume import quantise

CLASSES = ("background", "membrane", "spikes", "lumen")
PROJECT = Path(__file__).parents[1] / "forest" / "data" / "ilastik_project.ilp.gz"


@pytest.fixture(scope="module")
def labelled(inputs: Path, cryoet: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one call left soft.zarr, labels.mrc, unsure.mrc, forest and reports."""
    out = tmp_path_factory.mktemp("labelled")
    words = (
        "--labels",
        inputs / "strokes.mrc",
        "--classes",
        ",".join(CLASSES),
        "--trees",
        10,
        "--save-forest",
        out / "F",
    )
    more = (
        "--labels-out",
        out / "labels.mrc",
        "-u",
        out / "unsure.mrc",
        "--report",
        out / "forest.md",
        "--memory",
        "2G",
    )
    outcome = cryoet(
        "pseudolabel", inputs / "tomogram.mrc", *words, *more, "--dtype", "float32", "-o", out / "soft.zarr"
    )
    assert outcome.status == 0, outcome.err
    return out


def test_one_pass_leaves_probabilities_labels_and_uncertainty(labelled: Path) -> None:
    soft = io.read_segmentation(labelled / "soft.zarr")
    proba = np.asarray(soft.data[:])
    labels, unsure = (io.read_volume(labelled / f"{name}.mrc") for name in ("labels", "unsure"))
    assert np.array_equal(labels.numpy(), proba.argmax(axis=0) + 1)
    assert labels.dtype == np.int8
    assert labels.voxel_size_A == soft.voxel_size_A == (12.5, 12.5, 12.5)
    assert any("label 2 membrane" in note for note in labels.notes)
    assert np.array_equal(unsure.numpy(), entropy(proba))
    assert any("0 sure" in note for note in unsure.notes)


def test_margin_as_zarr_and_older_results_are_replaced(
    labelled: Path, inputs: Path, cryoet: Callable, tmp_path
) -> None:
    words = (inputs / "tomogram.mrc", "--forest", labelled / "F", "-o", tmp_path / "s.zarr", "--uncertainty", "margin")
    words += ("-u", tmp_path / "u.zarr", "--labels-out", tmp_path / "l.zarr", "--report", tmp_path / "r.json")
    for _ in range(2):
        assert cryoet("pseudolabel", *words).status == 0
    proba = np.asarray(io.read_segmentation(labelled / "soft.zarr").data[:])
    assert np.array_equal(io.read_volume(tmp_path / "u.zarr").numpy(), quantise(margin(proba), "uint8"))
    assert np.array_equal(io.read_volume(tmp_path / "l.zarr").numpy(), proba.argmax(axis=0) + 1)
    assert json.loads((tmp_path / "r.json").read_text())["classes"] == list(CLASSES)


def test_outputs_spare_what_is_not_theirs(labelled: Path, inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    precious = tmp_path / "precious.mrc"
    precious.write_bytes((inputs / "truth.mrc").read_bytes())
    before = precious.read_bytes()
    for option in ("-u", "--labels-out"):
        words = (inputs / "tomogram.mrc", "--forest", labelled / "F", "-o", tmp_path / "s.zarr", option, precious)
        outcome = cryoet("pseudolabel", *words)
        assert outcome.status == 1
        assert "other data" in outcome.err
    assert precious.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["precious.mrc"]


def test_info_and_report_tell_what_a_forest_holds(labelled: Path, cryoet: Callable) -> None:
    outcome = cryoet("info", labelled / "F")
    assert outcome.status == 0, outcome.err
    assert "background, membrane, spikes, lumen" in outcome.out
    facts = json.loads(cryoet("info", labelled / "F", "--json").out)
    forest = PixelClassifier.load(labelled / "F")
    assert facts["trees"] == 10
    assert facts["labelled voxels"] == dict(zip(CLASSES, forest.training.samples, strict=True))
    assert facts["out-of-bag error"] == pytest.approx(forest.oob_error, abs=1e-5)
    assert len(facts["importance"]["by channel"]) == 61
    assert sum(facts["importance"]["by filter"].values()) == pytest.approx(1, abs=1e-3)
    report = (labelled / "forest.md").read_text()
    assert report.startswith("# Forest of 10 trees")
    assert "HessianOfGaussianEigenvalues" in report


def test_features_are_chosen_by_ilastiks_names(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    words = (
        "--labels",
        inputs / "strokes.mrc",
        "--classes",
        ",".join(CLASSES),
        "--trees",
        3,
        "-o",
        tmp_path / "s.zarr",
    )
    words = (inputs / "tomogram.mrc", *words, "--save-forest", tmp_path / "F")
    chosen = ("--filters", "HessianOfGaussianEigenvalues,GaussianSmoothing", "--scales", "1.6,0.7")
    assert cryoet("pseudolabel", *words, *chosen).status == 0
    spec = PixelClassifier.load(tmp_path / "F").spec
    assert (spec.filters, spec.scales) == (("GaussianSmoothing", "HessianOfGaussianEigenvalues"), (0.7, 1.6))
    pairs = "LaplacianOfGaussian:3.5,GaussianSmoothing:0.3,LaplacianOfGaussian:1.6"
    assert cryoet("pseudolabel", *words, "--channels", pairs).status == 0
    names = PixelClassifier.load(tmp_path / "F").spec.channel_names
    assert names == ("GaussianSmoothing 0.3", "LaplacianOfGaussian 1.6", "LaplacianOfGaussian 3.5")
    for wrong in (
        ("--filters", "Coffee"),
        ("--scales", "0"),
        ("--scales", "x"),
        ("--channels", "GaussianSmoothing"),
        ("--channels", "LaplacianOfGaussian:0.3"),
        ("--channels", pairs, "--scales", "1"),
        ("--memory", "lots"),
        ("--memory", "1M"),
    ):
        outcome = cryoet("pseudolabel", *words, *wrong)
        assert outcome.status in (1, 2), wrong
        assert len(outcome.errors) == 1


def test_extra_channels(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    labels = ("--labels", inputs / "strokes.mrc", "--classes", ",".join(CLASSES), "--trees", 3)
    extra = ("--extra", f"hint={inputs / 'truth.mrc'}", "--extra", f"grey={inputs / 'tomogram.mrc'}")
    forest, soft = ("--forest", tmp_path / "F"), tmp_path / "s.zarr"
    first = cryoet("pseudolabel", inputs / "tomogram.mrc", *labels, *extra, "-o", soft, "--save-forest", tmp_path / "F")
    assert first.status == 0, first.err
    assert PixelClassifier.load(tmp_path / "F").extra == ("hint", "grey")
    before = np.asarray(io.read_segmentation(soft).data[:])
    swapped = extra[2:] + extra[:2]
    assert cryoet("pseudolabel", inputs / "tomogram.mrc", *forest, *swapped, "-o", soft).status == 0
    assert np.array_equal(np.asarray(io.read_segmentation(soft).data[:]), before)
    for wrong in ((), extra[:2], (*extra, *extra[:2]), ("--extra", inputs / "truth.mrc", *extra[:2])):
        outcome = cryoet("pseudolabel", inputs / "tomogram.mrc", *forest, *wrong, "-o", tmp_path / "x.zarr")
        assert outcome.status == 1
        assert "extra" in outcome.errors[0]
        assert not (tmp_path / "x.zarr").exists()


def test_suggestions_as_table_and_json(labelled: Path, inputs: Path, cryoet: Callable) -> None:
    words = (inputs / "tomogram.mrc", "--forest", labelled / "F", "--labels", inputs / "strokes.mrc", "--size", 12)
    outcome = cryoet("suggest", *words)
    assert outcome.status == 0, outcome.err
    assert "tell apart" in outcome.out
    places = json.loads(cryoet("suggest", *words, "-n", 2, "--json").out)
    assert 1 <= len(places) <= 2
    for place in places:
        (z0, z1), *rest = place["box (z, y, x)"]
        assert z1 == z0 + 1 <= 24
        assert all(high - low == 12 for low, high in rest)
        assert set(place["classes"]) <= set(CLASSES)


def test_an_ilastik_project_is_a_forest(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    project = tmp_path / "project.ilp"
    project.write_bytes(gzip.decompress(PROJECT.read_bytes()))
    outcome = cryoet("pseudolabel", inputs / "tomogram.mrc", "--forest", project, "-o", tmp_path / "s.zarr")
    assert outcome.status == 0, outcome.err
    assert io.read_segmentation(tmp_path / "s.zarr").classes == ("background", "membrane", "spikes")
    assert json.loads(cryoet("info", project, "--json").out)["features"] == 10
    project.write_bytes(project.read_bytes()[:5000])
    outcome = cryoet("pseudolabel", inputs / "tomogram.mrc", "--forest", project, "-o", tmp_path / "t.zarr")
    assert outcome.status == 1
    assert "project.ilp" in outcome.errors[0]
    assert not (tmp_path / "t.zarr").exists()


def test_merge_to_two_classes_soft_and_hard(labelled: Path, cryoet: Callable, tmp_path: Path) -> None:
    soft, group = labelled / "soft.zarr", ("--group", "foreground=membrane,spikes,lumen")
    assert cryoet("merge", soft, *group, "-o", tmp_path / "two.zarr").status == 0
    two = io.read_segmentation(tmp_path / "two.zarr")
    proba = np.asarray(io.read_segmentation(soft).data[:])
    assert two.classes == ("background", "foreground")
    np.testing.assert_allclose(np.asarray(two.data[1]), 1 - proba[0], atol=1e-6)
    assert cryoet("merge", soft, *group, "--hard", "-o", tmp_path / "two.mrc").status == 0
    labels = io.read_volume(tmp_path / "two.mrc").numpy()
    assert np.array_equal(labels, np.asarray(two.data[:]).argmax(axis=0) + 1)
    # Merged first: a voxel may be foreground although background is its most probable single class.
    assert ((labels == 2) & (proba.argmax(axis=0) == 0)).any()
    for wrong in (
        (),
        ("--group", "x=nobody"),
        ("--group", "x=membrane", "--group", "y=membrane"),
        ("--group", "lumen=membrane,spikes"),
    ):
        outcome = cryoet("merge", soft, *wrong, "-o", tmp_path / "w.zarr")
        assert outcome.status == 1
        assert len(outcome.errors) == 1
        assert not (tmp_path / "w.zarr").exists()
    assert cryoet("merge", soft, *group, "-o", tmp_path / "w.mrc").status == 1
