# SPDX-License-Identifier: MIT
"""A trained network as a folder: `model.safetensors` (weights) and `model.json` (all that is needed to use them).

No pickle anywhere, so that opening somebody's network runs nobody's code and outlives releases of torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from .. import __version__
from .._checks import CryoETError, file_error
from ..volume import Triple, VoxelSizeStatus
from .network import Network
from .normalisation import NormalisationKind
from .registry import create_model, model_names

#: 1: without the digest of the facts, `data_fingerprint` and `initialised_from`; it is read as well.
FORMAT_VERSION = 2
#: Types of weights that are read, though the network may have another.
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64)
WEIGHTS, FACTS, CURVE = "model.safetensors", "model.json", "curve.jsonl"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a training knows of its network.

    classes, colors: names and RGB (0..1), one a class. voxel_size_A: of the training data, (z, y, x), in Å.
    normalisation: see `Normalisation.measure`. settings: of the training, with its number of steps.
    metrics: on held-back voxels: "loss", "accuracy", "calibration_error", "f1" and "iou" (a tuple, one a class; NaN
        where it was not met), their class means "mean_f1" and "mean_iou", "weighted_f1" (by voxels); and "step".
    training_data: names of what it was trained on. data_fingerprint: what those were, each the "shape" (z, y, x), the
        labelled "voxels" of each class, and the "offset" and "scale" that normalised it.
    initialised_from: "name", "weights_sha256" and, if known, "normalisation" of the network whose weights it began
        with; empty: random ones.
    version: of this package.
    """

    classes: tuple[str, ...]
    colors: tuple[Triple, ...]
    voxel_size_A: Triple
    voxel_size_status: str = "known"
    normalisation: NormalisationKind = "zscore"
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training_data: tuple[str, ...] = ()
    data_fingerprint: tuple[Mapping[str, Any], ...] = ()
    initialised_from: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__


def save_model(model: Network, folder: str | os.PathLike[str], info: ModelInfo | None = None) -> None:
    """Write a network's weights and facts into a folder, which is made if it is missing.

    info: by default what `train` left in `model.info`. The facts are written last: a folder without them is not whole.
    """
    info = info or model.info
    if info is None:
        raise file_error(folder, "network", expected="one that was trained", got="no facts about it", fix="give info=")
    folder = Path(folder)
    make_folder(folder)
    weights = _weights(model)
    facts: dict[str, Any] = {
        "format": "cryoet-engine network",
        "format_version": FORMAT_VERSION,
        "network": dataclasses.asdict(model.config),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **without_nan(dataclasses.asdict(info)),
    }
    facts["facts_sha256"] = _digest(facts)
    replace_file(folder / WEIGHTS, weights)
    replace_file(folder / FACTS, json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def load_model(folder: str | os.PathLike[str]) -> tuple[Network, ModelInfo]:
    """Open a folder of `save_model`: the network, ready to predict on the CPU, and its facts (also in `model.info`).

    Errors: FileFormatError where the folder is missing, of a later format, incomplete, changed after it was written,
    of a network that is not known here, or where weights are not finite or do not fit the network.
    """
    folder = Path(folder)
    facts = _read_facts(folder)
    try:
        digest = facts["weights_sha256"]
        info = ModelInfo(**{name: _fact(facts, name) for name in (f.name for f in dataclasses.fields(ModelInfo))})
        with torch.device("meta"):  # shapes alone: absurd numbers of channels take no memory
            blank = create_model(**facts["network"])
        if not len(info.classes) == len(info.colors) == blank.config.out_channels:
            raise ValueError(f"{len(info.classes)} classes for {blank.config.out_channels} channels")
        for entry in info.data_fingerprint:
            if len(entry["shape"]) != 3 or len(entry["voxels"]) != len(info.classes):
                raise ValueError(f"data_fingerprint {entry} instead of a shape, and voxels of each class")
    except CryoETError as error:
        known = f"a network of this version ({', '.join(model_names())})"
        raise file_error(folder / FACTS, "network", expected=known, got=str(error)) from error
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RuntimeError) as error:
        # torch adds a trace of its own to what it says of sizes that no machine has
        got = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise file_error(folder / FACTS, "contents", expected="the facts of a network", got=got) from error
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise file_error(folder / WEIGHTS, "weights", expected="a readable file", got=error.strerror) from error
    if hashlib.sha256(weights).hexdigest() != digest:
        raise file_error(
            folder / WEIGHTS,
            "weights",
            expected="those that model.json tells of",
            got="others (changed, or cut short)",
            fix="copy the folder again, or train anew",
        )
    try:
        tensors = load_tensors(weights)
    except (SafetensorError, KeyError) as error:  # the last: a type that torch does not have
        raise file_error(folder / WEIGHTS, "weights", expected="a whole safetensors file", got=error) from error
    check_weights(blank, tensors, where=folder / WEIGHTS)
    model = create_model(**facts["network"])
    load_weights(model, tensors, where=folder / WEIGHTS)
    model.info = info
    return model.eval(), info


def weights_digest(model: Network) -> str:
    """The digest by which `model.json` knows the weights."""
    return hashlib.sha256(_weights(model)).hexdigest()


def load_weights(model: Network, tensors: Mapping[str, Tensor], *, where: object) -> None:
    """Put named tensors into a network. Errors: those of `check_weights`."""
    check_weights(model, tensors, where=where)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(tensors[name])


def check_weights(model: Network, tensors: Mapping[str, Tensor], *, where: object) -> None:
    """FileFormatError if a tensor is missing, too many, of another shape than in the network, or not all numbers."""
    wanted = model.state_dict()
    wrong = [f"no {name}" for name in wanted if name not in tensors]
    wrong += [f"an unknown {name}" for name in tensors if name not in wanted]
    wrong += [
        f"{name} of shape {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if wrong:
        config = model.config
        raise file_error(
            where,
            "weights",
            expected=f"those of {config.name} {config.preset}, {config.in_channels} to {config.out_channels} channels",
            got=", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""),
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in _NUMBERS or tensor.layout != torch.strided:
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in _NUMBERS)
            got = f"{str(tensor.dtype).removeprefix('torch.')}, {tensor.layout}, in {name}"
            raise file_error(where, "weights", expected=f"dense tensors of {kinds}", got=got)
        if not bool(tensor.isfinite().all()):
            raise file_error(where, "weights", expected="finite numbers", got=f"NaN or infinite ones in {name}")


def _read_facts(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise file_error(folder, "network", expected="the folder of a trained network", got="no folder of that name")
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise file_error(
            folder, "network", expected=f"a folder with {FACTS} and {WEIGHTS}", got=f"no {FACTS}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets within brackets
        raise file_error(folder / FACTS, "contents", expected="readable JSON", got=error) from error
    if not isinstance(facts, dict) or not isinstance(version := facts.get("format_version"), int):
        raise file_error(folder / FACTS, "contents", expected="the facts of a network", got="something else")
    if version != FORMAT_VERSION:  # format 1, which was never released, had no digest of its facts
        later = version > FORMAT_VERSION
        raise file_error(
            folder / FACTS,
            "format version",
            expected=FORMAT_VERSION,
            got=f"{version}, written by cryoet-engine {facts.get('version')}",
            fix="install that version or a later one" if later else "train anew",
        )
    if facts.get("facts_sha256") != _digest(facts):
        raise file_error(
            folder / FACTS,
            "contents",
            expected="those that were written",
            got="others (changed, or cut short)",
            fix="copy the folder again, or train anew",
        )
    return facts


def _weights(model: Network) -> bytes:
    data: bytes = save_tensors({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})
    return data


def _digest(facts: Mapping[str, Any]) -> str:
    """Of all facts but the digest itself."""
    rest = {name: value for name, value in facts.items() if name != "facts_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _fact(facts: dict[str, Any], name: str) -> Any:
    value = facts[name]
    match name:
        case "classes":
            if not all(isinstance(entry, str) and entry for entry in value) or len(set(value)) < len(value):
                raise ValueError(f"classes {value} instead of different names")
            return tuple(value)
        case "training_data":
            return tuple(str(entry) for entry in value)
        case "colors":
            colors = tuple(_triple(color) for color in value)
            if not all(0 <= part <= 1 for color in colors for part in color):
                raise ValueError(f"colors {value} instead of red, green and blue in 0..1")
            return colors
        case "voxel_size_A":
            size = _triple(value)
            if not min(size) > 0:
                raise ValueError(f"voxel size {size}")
            return size
        case "voxel_size_status" | "normalisation":
            known = get_args(VoxelSizeStatus if name == "voxel_size_status" else NormalisationKind)
            if value not in known:
                raise ValueError(f"{name} {value!r} instead of {', '.join(known)}")
            return value
        case "metrics":
            return {key: _with_nan(entry) for key, entry in value.items()}
        case "data_fingerprint":
            return tuple(dict(entry) for entry in value)
        case "settings" | "initialised_from":
            return dict(value)
        case _:
            return value


def _with_nan(value: Any) -> Any:
    """A metric as it was before `without_nan`: NaN for None, tuples for lists."""
    if isinstance(value, list):
        return tuple(_with_nan(entry) for entry in value)
    return math.nan if value is None else value


def _triple(value: Any) -> Triple:
    first, second, third = (float(entry) for entry in value)
    if not all(math.isfinite(entry) for entry in (first, second, third)):
        raise ValueError(f"{value} instead of three finite numbers")
    return first, second, third


def without_nan(value: Any) -> Any:
    """The same structure with None for NaN and infinity, which JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return value


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, if they are missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        expected = "a folder, or a place to make one"
        raise file_error(folder, "cannot be written", expected=expected, got=error.strerror) from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there, see `write_whole`, with an error for the user."""
    from ..io._files import write_whole  # a machine that only computes needs no file libraries

    try:
        write_whole(path, data)
    except OSError as error:
        raise file_error(path, "cannot be written", expected="room on the disk", got=error.strerror) from error
