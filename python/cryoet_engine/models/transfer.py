# SPDX-License-Identifier: MIT
"""Beginning a training with the weights of another network, as paper 1 (section 4.4) does from two classes to four."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .._checks import file_error, input_error
from .checkpoint import load_model, load_weights, weights_digest
from .network import Activation, Network
from .normalisation import NormalisationKind
from .registry import create_model, model_names

#: Under which of its keys a checkpoint of others keeps the weights.
_NESTED = ("state_dict", "model_state_dict", "model")
#: What wrappers put before the names: DistributedDataParallel, torch.compile.
_PREFIXES = ("module.", "_orig_mod.")
_LARGEST = "largest_output"  # normalised ReLU's: of the outputs of that one network


def transfer(
    source: Network | str | os.PathLike[str],
    *,
    out_channels: int | None = None,
    classes: Sequence[str] = (),
    activation: Activation | None = None,
    seed: int = 0,
    name: str = "",
    preset: str = "",
) -> Network:
    """A new network with the weights of another, to be trained on.

    source: a network, the folder of a trained one, or a file of weights of others: safetensors, or PyTorch's own (a
        state dict, or a dict with one under "state_dict", "model_state_dict" or "model"), opened with weights_only.
    out_channels, classes: how many classes it shall have, or which; by default those of the source. Where they differ
        from the source's, by number or, if both are known, by name, every tensor whose shape depends on their number
        is drawn anew; else all weights are kept.
    activation: by default the source's where the classes are the same, else "none", which leaves it to the loss.
    seed: of what is drawn anew. name, preset: of the network, which a file of others does not know; to say another
        than the source's is an error.

    What it began with stands in `initialised_from` of the new network, and after training in its facts.

    Errors: FileFormatError for a source that cannot be opened, or whose tensors are not those of the network;
    InputError for a network or number of classes that does not fit the source.
    """
    found = _open(source, name, preset)
    if classes and out_channels not in (None, len(classes)):
        raise input_error("transfer", "out_channels", expected=f"{len(classes)}, as many as classes", got=out_channels)
    wanted = len(classes) or out_channels or found.out_channels
    if wanted is None:
        raise input_error("transfer", "out_channels", expected="the number of classes", got="none", fix="give it")

    def build(activation: Activation) -> Network:
        return create_model(**found.network, out_channels=wanted, activation=activation, seed=seed)

    fresh = build(activation or "none")
    weights = fresh.state_dict()
    last = class_tensors(fresh)
    same = all(key in found.tensors and found.tensors[key].shape == weights[key].shape for key in last)
    same = same and not (classes and found.classes and tuple(classes) != found.classes)
    if same and activation is None and found.activation != "none":
        fresh = build(found.activation)
        weights = fresh.state_dict()
    replaced = () if same else last
    kept = {key: tensor for key, tensor in found.tensors.items() if key not in (*replaced, _LARGEST)}
    drawn = {key: weights[key] for key in replaced}
    if _LARGEST in weights:
        drawn[_LARGEST] = found.tensors.get(_LARGEST, weights[_LARGEST]) if same else weights[_LARGEST]
    load_weights(fresh, kept | drawn, where=found.where)
    fresh.initialised_from = {"name": found.label, "weights_sha256": found.digest}
    if found.normalisation is not None:
        fresh.initialised_from["normalisation"] = found.normalisation
    return fresh


def class_tensors(model: Network) -> tuple[str, ...]:
    """Names of the tensors whose shapes depend on the number of classes, found by building it with one class more."""
    config = model.config
    with torch.device("meta"):
        other = create_model(
            config.name, preset=config.preset, in_channels=config.in_channels, out_channels=config.out_channels + 1
        ).state_dict()
    return tuple(key for key, tensor in model.state_dict().items() if key in other and tensor.shape != other[key].shape)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Tensors by name, and what is known of them: where, for errors; label and digest for the record; how to build
    such a network.
    """

    where: object
    label: str
    digest: str
    tensors: Mapping[str, Tensor]
    network: dict[str, Any]
    out_channels: int | None = None
    activation: Activation = "none"
    classes: tuple[str, ...] = ()
    normalisation: NormalisationKind | None = None


def _open(source: Network | str | os.PathLike[str], name: str, preset: str) -> _Source:
    if not isinstance(source, Network) and not Path(source).is_dir():
        path = Path(source)
        tensors, digest = _read_file(path)
        if not name:
            expected = f"the name of the network whose weights these are ({', '.join(model_names())})"
            raise input_error("transfer", "name", expected=expected, got="none", fix="give it (--model)")
        network = {"name": name, "preset": preset or "full", "in_channels": 1}
        return _Source(where=path, label=path.name, digest=digest, tensors=tensors, network=network)
    model = source if isinstance(source, Network) else load_model(source)[0]
    config = model.config
    for what, asked, there in (("name", name, config.name), ("preset", preset, config.preset)):
        if asked and asked != there:
            raise input_error("transfer", what, expected=f"{there}, the source's", got=asked, fix="leave it out")
    return _Source(
        where="transfer" if isinstance(source, Network) else source,
        label=config.name if isinstance(source, Network) else Path(source).resolve().name,
        digest=weights_digest(model),
        tensors=model.state_dict(),
        network={"name": config.name, "preset": config.preset, "in_channels": config.in_channels},
        out_channels=config.out_channels,
        activation=config.activation,
        classes=model.info.classes if model.info else (),
        normalisation=model.info.normalisation if model.info else None,
    )


def _read_file(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file by name, and the file's digest."""
    if not path.is_file():
        expected = "the folder of a trained network, or a file of weights"
        raise file_error(path, "network", expected=expected, got="nothing of that name")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        if path.suffix == ".safetensors":
            return load_file(path), digest
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise file_error(
            path,
            "weights",
            expected="a PyTorch file of tensors alone",
            got="Python objects, or no PyTorch file",
            fix="the first could run code and is not opened: save its state_dict() and take that",
        ) from error
    # torch reads on in a damaged file until something goes wrong, whatever that is: IndexError, KeyError, struct.error,
    # AssertionError and more were seen.
    except Exception as error:
        got = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise file_error(path, "weights", expected="a whole PyTorch or safetensors file", got=got) from error
    for key in _NESTED:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        expected = f"tensors by name, or those under {', '.join(_NESTED)}"
        raise file_error(path, "weights", expected=expected, got=_contents(found))
    for prefix in _PREFIXES:
        if all(str(key).startswith(prefix) for key in found):
            found = {str(key).removeprefix(prefix): tensor for key, tensor in found.items()}
    return found, digest


def _contents(found: object) -> str:
    if not isinstance(found, dict):
        return f"a {type(found).__name__}"
    return f"a dict of {', '.join(map(str, list(found)[:5]))}" if found else "an empty dict"
