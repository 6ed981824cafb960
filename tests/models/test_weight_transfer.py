# SPDX-License-Identifier: MIT
"""A training that begins with another network's weights: what is kept, what is new, and what is refused."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cryoet_engine import CryoETError
from cryoet_engine.models import ModelInfo, create_model, load_model, model_names, save_model, transfer
from cryoet_engine.models.checkpoint import weights_digest
from cryoet_engine.models.transfer import class_tensors

INFO = ModelInfo(
    classes=("background", "foreground"), colors=((0, 0, 0), (1, 1, 1)), voxel_size_A=(10, 10, 10),
    normalisation="minmax",
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in model_names() if not name.startswith("test_")])
def test_from_two_classes_to_four(name: str) -> None:
    """All is kept but what has an axis of the classes; that is as in a network of the same seed."""
    source = create_model(name, preset="small", out_channels=2, activation="softmax", seed=3)
    model = transfer(source, out_channels=4, seed=5)
    fresh = create_model(name, preset="small", out_channels=4, seed=5).state_dict()
    replaced = class_tensors(model)
    assert model.config == dataclasses.replace(source.config, out_channels=4, activation="none")
    assert replaced
    shared = 0
    for key, tensor in model.state_dict().items():
        if key in replaced:
            assert torch.equal(tensor, fresh[key])
            assert tensor.shape != source.state_dict()[key].shape
        else:
            assert torch.equal(tensor, source.state_dict()[key])
            shared += tensor.numel()
    total = sum(tensor.numel() for tensor in model.state_dict().values())
    assert shared > 0.9 * total  # measured: 0.9912 at least (ssn3d_v2)
    assert model.initialised_from == {"name": name, "weights_sha256": weights_digest(source)}


def test_of_the_same_classes_all_is_kept(tmp_path: Path) -> None:
    source = create_model("unet3d", preset="small", out_channels=2, activation="normalised_relu", seed=3)
    source.get_buffer("largest_output").fill_(7)
    save_model(source, tmp_path / "net", INFO)
    same = [transfer(tmp_path / "net"), transfer(tmp_path / "net", out_channels=2), transfer(source)]
    same.append(transfer(tmp_path / "net", classes=("background", "foreground")))
    for model in same:
        assert model.config == source.config
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, source.state_dict()[key]), key
    assert same[0].initialised_from == {
        "name": "net", "weights_sha256": weights_digest(source), "normalisation": "minmax",
    }  # fmt: skip
    # Other classes, or another order of them: as many, yet nothing to be kept of the last layer.
    other = transfer(tmp_path / "net", classes=("foreground", "background"), seed=9)
    assert not torch.equal(other.state_dict()["out.weight"], source.state_dict()["out.weight"])
    assert torch.equal(other.state_dict()["analysis.0.0.weight"], source.state_dict()["analysis.0.0.weight"])
    assert other.config.activation == "none"
    assert transfer(source, activation="sigmoid").config.activation == "sigmoid"


def test_it_is_a_copy(tmp_path: Path) -> None:
    source = create_model("unet3d", preset="small", out_channels=2)
    before = source.state_dict()["out.weight"].clone()
    with torch.no_grad():
        transfer(source).get_parameter("out.weight").zero_()
    assert torch.equal(source.state_dict()["out.weight"], before)


@pytest.mark.parametrize("kept_under", ["", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_of_others(tmp_path: Path, kept_under: str, prefix: str) -> None:
    source = create_model("unet3d", preset="small", out_channels=2, seed=3)
    tensors = {prefix + key: tensor for key, tensor in source.state_dict().items()}
    torch.save({kept_under: tensors, "epoch": 3} if kept_under else tensors, tmp_path / "best.pt")
    model = transfer(tmp_path / "best.pt", name="unet3d", preset="small", out_channels=2)
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert model.initialised_from["name"] == "best.pt"
    four = transfer(tmp_path / "best.pt", name="unet3d", preset="small", out_channels=4, seed=5)
    assert torch.equal(four.state_dict()["analysis.0.0.weight"], source.state_dict()["analysis.0.0.weight"])


def test_a_safetensors_file(tmp_path: Path) -> None:
    source = create_model("voxresnet", preset="small", out_channels=2, seed=3)
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    model = transfer(tmp_path / "a.safetensors", name="voxresnet", preset="small", out_channels=2)
    assert weights_digest(model) == weights_digest(source)


class _Harm:
    def __reduce__(self) -> Any:
        return (print, ("code of a stranger was run",))


def _damage(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-3000])
    return path


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"state_dict": {"a": _Harm()}}, "Python objects, or no PyTorch file; the first could run code"),
        ([1, 2], "expected tensors by name.*got a list"),
        ({"epoch": 3, "state": {}}, "got a dict of epoch, state"),
        ({}, "an empty dict"),
        (b"", "whole PyTorch or safetensors file|Python objects"),
        ("cut", "whole PyTorch or safetensors file"),
        ("other", r"expected those of unet3d small, 1 to 2 channels, got no analysis.*more"),
        ("full", r"analysis.0.0.weight of shape \(32, 1, 3, 3, 3\) instead of \(8, 1, 3, 3, 3\)"),
        ("nan", "expected finite numbers"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: Any, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pt"
    small = create_model("unet3d", preset="small", out_channels=2).state_dict()
    match content:
        case "other":
            torch.save(create_model("voxresnet", preset="small").state_dict(), path)
        case "full":
            torch.save(create_model("unet3d", preset="full").state_dict(), path)
        case "nan":
            torch.save({key: tensor * torch.nan for key, tensor in small.items()}, path)
        case "cut":
            torch.save(small, path)
            _damage(path)
        case bytes():
            path.write_bytes(content)
        case _:
            torch.save(content, path)
    with pytest.raises(CryoETError, match=what) as caught:
        transfer(path, name="unet3d", preset="small", out_channels=2)
    assert "\n" not in str(caught.value)
    assert not capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:TypedStorage")
@pytest.mark.parametrize("archive", [False, True])
def test_damaged_files_are_refused(tmp_path: Path, archive: bool) -> None:
    """A byte changed in each of 200 copies: torch's reader ends in KeyError, IndexError, AssertionError and others."""
    small = create_model("unet3d", preset="small", out_channels=2).state_dict()
    path, refused = tmp_path / "weights.pt", Counter[str]()
    torch.save(dict(list(small.items())[:4]), path, _use_new_zipfile_serialization=archive)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(min(len(data), 1500))] = rng.integers(256)
        path.write_bytes(data)
        with pytest.raises(CryoETError) as caught:  # whole ones have too few tensors
            transfer(path, name="unet3d", preset="small", out_channels=2)
        refused[str(caught.value).partition("got ")[2].partition(":")[0]] += 1
    assert refused["KeyError"]


def test_contradictions_are_refused(tmp_path: Path) -> None:
    source = create_model("unet3d", preset="small", out_channels=2)
    save_model(source, tmp_path / "net", INFO)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    for call, what in (
        ({"source": tmp_path / "net", "name": "voxresnet"}, "name: expected unet3d, the source's, got voxresnet"),
        ({"source": source, "preset": "full"}, "preset: expected small"),
        ({"source": tmp_path / "a.pt", "out_channels": 2}, "name of the network whose weights these are"),
        ({"source": tmp_path / "a.pt", "name": "unet3d", "preset": "small"}, "the number of classes"),
        ({"source": tmp_path / "nothing.pt", "name": "unet3d"}, "nothing of that name"),
        ({"source": source, "classes": ("a", "b"), "out_channels": 3}, "2, as many as classes"),
    ):
        with pytest.raises(CryoETError, match=what):
            transfer(**call)  # type: ignore[arg-type]
    assert load_model(tmp_path / "net")[0].initialised_from == {}
