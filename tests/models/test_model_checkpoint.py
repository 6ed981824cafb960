# SPDX-License-Identifier: MIT
"""A network's folder: what goes in comes out, and anything else is refused with a reason."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from cryoet_engine import CryoETError
from cryoet_engine.models import ModelInfo, SegmentationModel, create_model, load_model, save_model

INFO = ModelInfo(
    classes=("background", "membrane"),
    colors=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    voxel_size_A=(12.0, 12.0, 13.5),
    voxel_size_status="estimated",
    normalisation="percentile",
    settings={"steps": 3, "augmentation": {"noise": 0.5}},
    metrics={"f1": (0.9, math.nan), "mean_f1": 0.9, "loss": math.nan, "step": 3},
    training_data=("TS_001", "Zürich"),
    data_fingerprint=({"shape": [8, 9, 10], "voxels": [700, 20], "offset": 1.5, "scale": 0.1},),
    initialised_from={"name": "older", "weights_sha256": "ab12"},
)


def _network(seed: int = 0) -> SegmentationModel:
    return create_model("unet3d", preset="small", out_channels=2, activation="softmax", seed=seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(_network(seed=4), tmp_path / "net", INFO)
    return tmp_path / "net"


def test_round_trip(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
    model, info = load_model(folder)
    assert not model.training
    assert model.info is info
    assert model.config == _network().config
    for name, tensor in _network(seed=4).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    for field in dataclasses.fields(ModelInfo):
        if field.name != "metrics":
            assert getattr(info, field.name) == getattr(INFO, field.name), field.name
    assert info.metrics["f1"][0] == 0.9
    assert math.isnan(info.metrics["f1"][1])
    assert math.isnan(info.metrics["loss"])
    json.loads((folder / "model.json").read_text(), parse_constant=pytest.fail)  # plain JSON: no NaN in it


def test_saving_again_is_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    model, _ = load_model(folder)
    save_model(model, tmp_path / "again")
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def _edit(folder: Path, signed: bool = True, **changes: Any) -> None:
    """Change facts (None: leave them out); signed: as a tool would that knows how such a folder is written."""
    facts = json.loads((folder / "model.json").read_text())
    facts = {name: value for name, value in (facts | changes).items() if value is not None}
    if signed:
        facts.pop("facts_sha256")
        facts["facts_sha256"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (folder / "model.json").write_text(json.dumps(facts))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def _exchange(folder: Path, dtype: torch.dtype | None) -> None:
    """Weights of one tensor in another type; None: one that torch has not."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["out.weight"] = tensors["out.weight"].to(dtype or torch.float8_e4m3fn)
    data = save(tensors)
    path.write_bytes(data if dtype else data.replace(b"F8_E4M3", b"F8_E8M0"))
    _edit(folder, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: _edit(f, format_version=3), "format version: expected 2, got 3, .*; install"),
        (lambda f: _edit(f, format_version=1), "format version: expected 2, got 1, .*; train anew"),
        (lambda f: _edit(f, signed=False, classes=["lumen", "membrane"]), "others .changed, or cut short"),
        (lambda f: _edit(f, signed=False, facts_sha256=None), "others .changed, or cut short"),
        (lambda f: _edit(f, normalisation="none"), "normalisation 'none' instead of minmax"),
        (lambda f: _edit(f, voxel_size_status=7), "voxel_size_status 7"),
        (lambda f: _edit(f, voxel_size_A=[10, -10, 10]), "voxel size"),
        (lambda f: _edit(f, voxel_size_A=[10, 10, math.nan]), "finite"),
        (lambda f: _edit(f, metrics=[0.9]), "facts of a network"),
        (lambda f: _edit(f, classes=["membrane", "membrane"]), "different names"),
        (lambda f: _edit(f, classes=["membrane", ""]), "different names"),
        (lambda f: _edit(f, classes=[1, 2]), "different names"),
        (lambda f: _edit(f, colors=[[0, 0, 0], [0, 0, 255]]), "red, green and blue"),
        (lambda f: _edit(f, data_fingerprint=[{"shape": [8, 9, 10], "voxels": [700]}]), "data_fingerprint"),
        (lambda f: _edit(f, network={"name": "unet3d", "preset": "small", "out_channels": 10**30}), "facts of a netw"),
        (lambda f: _edit(f, network={"name": "unet3d", "preset": "small", "out_channels": 10**9}), "2 classes for 1"),
        (lambda f: _edit(f, format_version="1"), "facts of a network"),
        (lambda f: _edit(f, network={"name": "unet9d"}), "unet9d"),
        (lambda f: _edit(f, network={"name": "unet3d", "nose": 3}), "nose"),
        (lambda f: _edit(f, network=None), "network"),
        (lambda f: _edit(f, classes=None), "classes"),
        (lambda f: _edit(f, classes=["a", "b", "c"]), "3 classes for 2"),
        (lambda f: _edit(f, voxel_size_A=[1, 2]), "facts of a network"),
        (lambda f: _edit(f, weights_sha256=None), "weights_sha256"),
        (lambda f: (f / "model.json").write_text("{"), "readable JSON"),
        (lambda f: (f / "model.json").write_text("[]"), "facts of a network"),
        (lambda f: (f / "model.json").write_text("[" * 200_000), "readable JSON, got maximum recursion depth"),
        (lambda f: _exchange(f, torch.float8_e4m3fn), "dense tensors of float16.*got float8_e4m3fn.* in out.weight"),
        (lambda f: _exchange(f, torch.complex64), "got complex64"),
        (lambda f: _exchange(f, None), "a whole safetensors file, got 'F8_E8M0'"),
        (lambda f: (f / "model.json").write_bytes(b"\xff\xfe"), "readable JSON"),
        (lambda f: (f / "model.json").unlink(), "no model.json"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: weights"),
        (lambda f: _flip(f / "model.safetensors"), "changed, or cut short"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "changed, or cut short"),
        (lambda f: (f / "model.json").write_text((f / "model.json").read_text()[:700]), "readable JSON"),
        (
            # Terabytes, were it built.
            lambda f: _edit(f, network={"name": "unet3d", "in_channels": 10**9, "out_channels": 2}),
            "expected those of unet3d full, 1000000000 to 2 channels, got analysis.0.0.weight of shape",
        ),
        (
            lambda f: _edit(f, network={"name": "unet3d", "preset": "full", "out_channels": 2}),
            "expected those of unet3d full, 1 to 2 channels, got analysis.0.0.weight of shape",
        ),
    ],
)
def test_refuses(folder: Path, spoil: Any, reason: str) -> None:
    spoil(folder)
    with pytest.raises(CryoETError, match=reason) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_weights_of_another_network(folder: Path, tmp_path: Path) -> None:
    other = create_model("unet3d", preset="small", out_channels=3)
    save_model(other, tmp_path / "other", dataclasses.replace(INFO, classes=("a", "b", "c"), colors=((0, 0, 0),) * 3))
    digest = json.loads((tmp_path / "other" / "model.json").read_text())["weights_sha256"]
    (folder / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    _edit(folder, weights_sha256=digest)
    with pytest.raises(CryoETError, match=r"out.weight of shape \(3, 8, 1, 1, 1\) instead of \(2, 8, 1, 1, 1\)"):
        load_model(folder)


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    model = _network()
    with torch.no_grad():
        model.get_parameter("out.weight")[0] = math.nan
    save_model(model, tmp_path / "net", INFO)
    with pytest.raises(CryoETError, match=r"weights: expected finite numbers, got NaN or infinite ones in out\.weight"):
        load_model(tmp_path / "net")


def test_missing_folder_and_untrained_network(tmp_path: Path) -> None:
    with pytest.raises(CryoETError, match="no folder of that name"):
        load_model(tmp_path / "nothing")
    with pytest.raises(CryoETError, match="one that was trained"):
        save_model(_network(), tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CryoETError, match="cannot be written"):
        save_model(_network(), tmp_path / "file", INFO)
    assert (tmp_path / "file").read_text() == "mine"
