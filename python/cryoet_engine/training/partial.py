# SPDX-License-Identifier: MIT
"""The folder of a training: NAME.partial with the state to resume from, NAME when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from .._checks import file_error
from ..io._files import claimed, remove_empty
from ..models.checkpoint import CURVE, FACTS, WEIGHTS, ModelInfo, make_folder, replace_file, save_model
from ..models.network import SegmentationModel

STATE, SPEED, CURVES = "state.safetensors", "speed.jsonl", "curves.png"
#: Folders within: the network after its last step, and TensorBoard's events.
LAST, EVENTS = "last", "tensorboard"
_OURS = (STATE, SPEED, CURVES, LAST, EVENTS, FACTS, CURVE, WEIGHTS)


class TrainingFolder:
    """Where a training is kept. FileFormatError if something else is in its place, or it cannot be written."""

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = Path(os.path.abspath(out))
        self.partial = self.out.with_name(self.out.name + ".partial")
        self.state = self.partial / STATE
        self._claim: ExitStack | None = None
        self._made: list[Path] = []
        for folder, marks, meant in (
            (self.out, (FACTS,), "a new name, or an older network to replace"),
            (self.partial, _OURS, "an interrupted training, or nothing of that name"),
        ):
            entries = {entry.name.removesuffix(".partial") for entry in folder.iterdir()} if folder.is_dir() else set()
            ours = folder.is_dir() and entries <= set(_OURS) and (not entries or bool(entries & set(marks)))
            if folder.exists() and not ours:
                raise file_error(folder, "output", expected=meant, got="something else", fix="choose another name")

    def claim(self) -> None:
        """Hold OUT.partial, which is made if it is missing, against other runs until `release`.

        Errors: FileFormatError where another run holds it.
        """
        if self._claim is None:
            self._made = [self.partial, *(folder for folder in self.partial.parents if not folder.exists())]
            make_folder(self.partial)
            with ExitStack() as stack:
                stack.enter_context(claimed(self.partial))
                self._claim = stack.pop_all()

    def release(self) -> None:
        """Let go of it, under whatever name it now is. Where nothing was written, nothing is left."""
        if self._claim is not None:
            remove_empty(self._made)
            self._claim.close()
            self._claim = None

    def save_state(
        self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> None:
        """Write weights and progress as one file, so that they can never be of two different epochs.

        tensors: by group and name. identity: what has to be the same for a training to go on.
        """
        stored = {
            f"{group}.{name}": tensor.detach().contiguous().cpu()
            for group, named in tensors.items()
            for name, tensor in named.items()
        }
        facts = json.dumps({"identity": identity, **state})
        replace_file(self.state, save_tensors(stored, {"facts": facts}))

    def load_state(self, identity: Mapping[str, Any]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """What `save_state` wrote last; None if nothing was. FileFormatError if it is of another training."""
        if not self.state.exists():
            return None
        tensors: dict[str, dict[str, Tensor]] = defaultdict(dict)
        try:
            with safe_open(self.state, "pt") as stored:
                state = json.loads((stored.metadata() or {})["facts"])
                for key in stored.keys():  # noqa: SIM118 (no dict)
                    group, name = key.split(".", 1)
                    tensors[group][name] = stored.get_tensor(key)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise file_error(
                self.state,
                "interrupted training",
                expected="a readable state",
                got=error,
                fix=f"remove {self.partial} to begin anew",
            ) from error
        now = json.loads(json.dumps(identity))
        if state.get("identity") != now:
            raise file_error(
                self.partial,
                "interrupted training",
                expected="the settings, network and data of this call",
                got=f"another {', '.join(_differences(state.get('identity'), now))}",
                fix="make the same call as before to resume it, or remove that folder to begin anew",
            )
        return tensors, state

    def save_last(self, model: SegmentationModel, info: ModelInfo) -> None:
        """Write the network as it is after its last step, from which another training can begin."""
        save_model(model, self.partial / LAST, info)

    def finish(self, model: SegmentationModel, info: ModelInfo) -> None:
        """Write the network, take the final name, drop the state."""
        save_model(model, self.partial, info)
        if self.out.exists():
            shutil.rmtree(self.out)
        os.replace(self.partial, self.out)
        (self.out / STATE).unlink(missing_ok=True)


def _differences(before: Any, now: dict[str, Any]) -> list[str]:
    """The names of what differs, settings one by one."""
    if not isinstance(before, dict):
        return ["kind of training"]
    names = [name for name in now if name != "settings" and before.get(name) != now[name]]
    old, new = before.get("settings") or {}, now["settings"]
    return [name for name in new if old.get(name) != new[name]] + names
