# SPDX-License-Identifier: MIT
"""Classifiers out of ilastik projects answer as vigra does; what is not one is refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cryoet_engine import PixelClassifier, feature_stack
from cryoet_engine._checks import FileFormatError

DATA = Path(__file__).parent / "data"
FORESTS = "PixelClassification/ClassifierForests"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "project.ilp"
    path.write_bytes(gzip.decompress((DATA / "ilastik_project.ilp.gz").read_bytes()))
    return path


def in_our_order(rows: np.ndarray, classifier: PixelClassifier) -> np.ndarray:
    """The fixture's columns, in ilastik's order (see make_ilastik_project.py), as the channels of our spec."""
    theirs = ["GaussianSmoothing 0.3", "GaussianSmoothing 1.6"]
    theirs += [f"StructureTensorEigenvalues 0.7 [{k}]" for k in range(3)]
    theirs += [f"HessianOfGaussianEigenvalues 1.6 [{k}]" for k in range(3)]
    theirs += ["DifferenceOfGaussians 0.7", "DifferenceOfGaussians 1.6"]
    return rows[:, [theirs.index(name) for name in classifier.spec.channel_names]]


def test_it_answers_as_vigra_does(project: Path) -> None:
    with np.load(DATA / "ilastik_rows.npz") as truth:
        rows, first, both = truth["rows"], truth["first"], truth["both"]
    made = PixelClassifier.from_ilastik(project)
    assert made.classes == ("background", "membrane", "spikes")
    assert (made.n_trees, made.spec.n_channels, made.spec.compat) == (5, 10, "ilastik")
    found = made.predict_rows(in_our_order(rows, made))
    # ilastik adds the forests up in float32: measured 6e-8.
    assert np.abs(found - both).max() < 2e-7
    with h5py.File(project, "r+") as file:
        del file[f"{FORESTS}/Forest0001"]
    alone = PixelClassifier.from_ilastik(project)
    # Grown to purity: votes are counted, and nothing is rounded but the quotient.
    assert np.array_equal(alone.predict_rows(in_our_order(rows, alone)), first)


def test_volumes_go_through_the_selected_features(project: Path, tmp_path: Path) -> None:
    made = PixelClassifier.from_ilastik(project)
    volume = np.random.default_rng(0).normal(size=(9, 10, 11)).astype(np.float32)
    channels = feature_stack(volume, made.spec)
    assert np.array_equal(made.predict_proba(volume, dtype="float32").data, made.predict_channels(channels))
    made.save(tmp_path / "F")
    loaded = PixelClassifier.load(tmp_path / "F")
    assert loaded.spec == made.spec
    assert np.array_equal(loaded.predict_proba(volume).data, made.predict_proba(volume).data)


def changed(project: Path, change: Callable[[h5py.File], None]) -> Path:
    with h5py.File(project, "r+") as file:
        change(file)
    return project


def put(path: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[path]
        file[path] = value

    return change


def set_at(path: str, index: object, value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        data = file[path][()]
        if data.dtype.kind == "S":
            data = data.astype("S60")
        data[index] = value
        put(path, data)(file)

    return change


def drop(*paths: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        for path in paths:
            del file[path]

    return change


def leave_only_a_pickle(file: h5py.File) -> None:
    for name in list(file[FORESTS]):
        del file[FORESTS][name]
    file[f"{FORESTS}/pickled_classifier"] = np.void(b"cposix\nsystem\n(S'touch pwned'\ntR.")


TREE = f"{FORESTS}/Forest0000/Tree_0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("PixelClassification"), "with a trained Pixel Classification, got one with FeatureSelections"),
        (drop(FORESTS), "a trained one, got none; train it in ilastik"),
        (leave_only_a_pickle, "vigra's random forest .*, got another kind"),
        (set_at("FeatureSelections/ComputeIn2d", 1, True), "still selected, got another selection"),
        (set_at("FeatureSelections/SelectionMatrix", (0, 1), True), "still selected, got another selection"),
        (set_at("FeatureSelections/FeatureIds", 0, b"Coffee"), "got Coffee"),
        (drop(f"{FORESTS}/feature_names", "FeatureSelections/Scales"), "damaged"),
        (drop(f"{TREE}/topology"), "damaged"),
        (drop(*(f"{FORESTS}/Forest000{i}/Tree_{k}" for i, n in ((0, 3), (1, 2)) for k in range(n))), "no trees"),
        (put(f"{FORESTS}/Forest0000/_ext_param/column_count_", [61.0]), "10 channels .* got one trained on 61"),
        (put(f"{FORESTS}/Forest0001/_ext_param/labels", np.array([1, 2, 3], np.uint32)), "different classes"),
        (put(f"{FORESTS}/Forest0000/_options/predict_weighted_", [1.0]), "weighted by samples"),
        (set_at(f"{TREE}/topology", 0, 9), "other features or classes"),
        (set_at(f"{TREE}/topology", 2, 1), "unknown kind"),
        (set_at(f"{TREE}/topology", 3, 10**6), "outside its tables"),
        (set_at(f"{TREE}/topology", 4, 2), "does not end"),
        (set_at(f"{TREE}/topology", 5, -7), "outside its tables"),
        (set_at(f"{TREE}/topology", 6, 10), "outside its tables"),
        (set_at(f"{TREE}/parameters", 1, np.nan), "damaged|sound trees"),
        (set_at(f"{TREE}/parameters", slice(None), np.nan), "sum to one"),
    ],
)
def test_what_cannot_be_used_is_refused(project: Path, change: Callable, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        PixelClassifier.from_ilastik(changed(project, change))


def test_scales_computed_in_2d_stay_so(project: Path) -> None:
    changed(project, set_at("FeatureSelections/ComputeIn2d", 0, True))
    changed(project, set_at(f"{FORESTS}/feature_names", 0, "Gaussian Smoothing (σ=0.3) in 2D".encode()))
    made = PixelClassifier.from_ilastik(project)
    assert made.spec.planar == (0.3,)
    assert made.n_features == 10
    # Where the eigenvalues are two, the columns are fewer.
    changed(project, set_at("FeatureSelections/ComputeIn2d", 1, True))
    changed(project, drop(f"{FORESTS}/feature_names"))
    with pytest.raises(FileFormatError, match="the 9 channels of the selected features, got one trained on 10"):
        PixelClassifier.from_ilastik(project)


def test_other_files_are_refused(project: Path, tmp_path: Path) -> None:
    whole = project.read_bytes()
    with pytest.raises(FileFormatError, match="no such file"):
        PixelClassifier.from_ilastik(tmp_path / "none.ilp")
    for broken in (b"", b"no HDF5 at all", whole[:1000], whole[: len(whole) // 2]):
        project.write_bytes(broken)
        with pytest.raises(FileFormatError):
            PixelClassifier.from_ilastik(project)
