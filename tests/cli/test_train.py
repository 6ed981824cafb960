# SPDX-License-Identifier: MIT
"""`cryoet train`: what it records, how it begins with other weights, and what `cryoet info` tells of the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cryoet_engine import io
from cryoet_engine.models import create_model, load_model
from cryoet_engine.volume import Volume

SIZE = ("--patch", 8, "--batch", 2, "--patches-per-epoch", 4, "--steps", 3, "--device", "cpu")


@pytest.fixture(scope="module")
def two(inputs: Path, cryoet: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two classes."""
    folder = tmp_path_factory.mktemp("two")
    truth = io.read_volume(inputs / "truth.mrc")
    io.write(folder / "two.mrc", Volume((truth.numpy() > 1).astype("uint8") + 1, voxel_size_A=truth.voxel_size_A))
    pair = ("--pair", inputs / "tomogram.mrc", folder / "two.mrc", "--classes", "background,foreground")
    outcome = cryoet("train", *pair, *SIZE, "--normalisation", "percentile", "--tensorboard", "-o", folder / "net")
    assert outcome.status == 0, outcome.err
    return folder / "net"


@pytest.fixture
def four(inputs: Path) -> tuple[object, ...]:
    return ("--pair", inputs / "tomogram.mrc", inputs / "truth.mrc", "--classes", "background,membrane,spikes,lumen")


def test_what_is_left_and_told(two: Path, cryoet: Callable) -> None:
    assert {path.name for path in two.iterdir()} == {
        *("model.json", "model.safetensors", "curve.jsonl", "curves.png", "speed.jsonl", "last", "tensorboard")
    }
    outcome = cryoet("info", two, "--json")
    facts = json.loads(outcome.out)
    assert facts["network"] == "unet3d small"
    assert facts["classes"] == ["background", "foreground"]
    assert facts["normalisation"] == "percentile"
    assert facts["trained on"] == ["tomogram.mrc"]
    assert facts["shapes (z, y, x)"] == ["24x48x48"]
    assert sum(facts["labelled voxels"].values()) == 24 * 48 * 48
    assert facts["began with"] == "random weights"
    assert facts["training"]["steps"] == 3
    assert 0 <= facts["held-back accuracy"] <= 1
    text = cryoet("info", two)
    assert text.status == 0
    assert "trained on                          tomogram.mrc" in text.out


def test_four_classes_from_two(two: Path, four: tuple, cryoet: Callable, tmp_path: Path) -> None:
    outcome = cryoet("train", *four, *SIZE, "--from", two, "--schedule", "cosine", "-o", tmp_path / "net")
    assert outcome.status == 0, outcome.err
    assert "note:" not in outcome.err
    model, info = load_model(tmp_path / "net")
    assert model.config == create_model("unet3d", preset="small", out_channels=4, activation="softmax").config
    assert info.normalisation == "percentile"  # the source's
    digest = json.loads((two / "model.json").read_text())["weights_sha256"]
    assert info.initialised_from == {"name": "net", "weights_sha256": digest, "normalisation": "percentile"}
    words = ("--from", two, "--normalisation", "zscore", "--steps", 1)
    outcome = cryoet("train", *four, *SIZE, *words, "-o", tmp_path / "other")
    assert "note: voxels are normalised by zscore; the first weights knew percentile" in outcome.err


def test_from_a_file_of_others(two: Path, four: tuple, cryoet: Callable, tmp_path: Path) -> None:
    torch.save({"model_state_dict": load_model(two)[0].state_dict()}, tmp_path / "foreign.pth")
    words = ("--from", tmp_path / "foreign.pth", "--model", "unet3d")
    outcome = cryoet("train", *four, *SIZE, *words, "-o", tmp_path / "net")
    assert outcome.status == 0, outcome.err
    assert load_model(tmp_path / "net")[1].initialised_from["name"] == "foreign.pth"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--from", "NET", "--model", "voxresnet"), "name: expected unet3d, the source's, got voxresnet"),
        (("--from", "NET", "--preset", "full"), "preset: expected small"),
        (("--from", "nothing"), "expected the folder of a trained network, or a file of weights"),
        (("--from", "FILE"), "expected the name of the network whose weights these are"),
        (("--patience", 2, "--validation-share", 0), "patience"),
        (("--loader-threads", -1), "loader_threads"),
    ],
)
def test_refuses(words: tuple, what: str, two: Path, four: tuple, cryoet: Callable, tmp_path: Path) -> None:
    torch.save(load_model(two)[0].state_dict(), tmp_path / "foreign.pth")
    places = {"NET": two, "FILE": tmp_path / "foreign.pth"}
    outcome = cryoet("train", *four, *SIZE, *(places.get(word, word) for word in words), "-o", tmp_path / "net")
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert what in outcome.errors[0]
    assert not list(tmp_path.glob("net*"))


def test_seed_and_augmentation_reach_the_training(four: tuple, cryoet: Callable, tmp_path: Path) -> None:
    words = (*four, *SIZE, "--steps", 1, "--augment", "flips=0", "--augment", "missing_wedge=0.5")
    weights = []
    for seed in (1, 2):
        out = tmp_path / str(seed)
        outcome = cryoet("train", *words, "--learning-rate", 1e-12, "--seed", seed, "-o", out)
        assert outcome.status == 0, outcome.err
        model, info = load_model(out)
        assert info.settings["augmentation"] | {"flips": False, "missing_wedge": 0.5} == info.settings["augmentation"]
        weights.append(next(model.parameters()))
    assert not torch.allclose(*weights, atol=1e-3)
    for wrong, what in (
        ("zoom=3", "zoom: expected a number from 0 to 1"),
        ("zom=1", "NAME=X with one of flips, turns"),
    ):
        outcome = cryoet("train", *four, "--augment", wrong, "-o", tmp_path / "net")
        assert outcome.status == 2
        assert what in outcome.err


def test_names_that_soft_labels_do_not_have(inputs: Path, finished: Path, cryoet: Callable, tmp_path: Path) -> None:
    pair = ("--pair", inputs / "tomogram.mrc", finished / "soft.zarr")
    outcome = cryoet("train", *pair, *SIZE, "--classes", "a,b,c,d", "-o", tmp_path / "net")
    assert outcome.status == 1
    assert "background, membrane, spikes, lumen, got a, b, c, d; leave --classes out" in outcome.errors[0]
