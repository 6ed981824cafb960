# SPDX-License-Identifier: MIT
"""The memory that `cryoet models` tells, against tensors counted while a network computes."""

from __future__ import annotations

import json
import weakref
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from cryoet_engine.cli import main
from cryoet_engine.models import create_model, model_names, model_presets, summarise
from cryoet_engine.models.summary import inference_memory

NAMES = [name for name in model_names() if not name.startswith("test_")]
TILE = (16, 16, 32)

torch.set_num_threads(1)  # small tensors: threads would only wait for each other


class _Watch(TorchFunctionMode):
    """Counts, after each function of torch, what is alive of all that such functions were given and made."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.seen: list[weakref.ref[torch.Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            if isinstance(made, torch.Tensor):
                self.seen.append(weakref.ref(made))
            storages = [tensor.untyped_storage() for ref in self.seen if (tensor := ref()) is not None]
            self.peak = max(self.peak, sum({s.data_ptr(): s.nbytes() for s in storages}.values()))
        return made


def _measured(name: str) -> int:
    """Weights, and the most bytes of voxels that were alive at one time, of a network that computes."""
    model = create_model(name, preset="small", out_channels=2).eval()
    with torch.inference_mode(), _Watch() as watch:
        model.probabilities(torch.rand(1, 1, *TILE))
    return watch.peak + sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_that_of_living_tensors(name: str) -> None:
    """Inside a function of torch the watch sees nothing, so it counts the same or a little less."""
    with torch.device("meta"):
        model = create_model(name, preset="small", out_channels=2)
    told, measured = inference_memory(model, TILE), _measured(name)
    assert 0.9 * told <= measured <= told  # measured: the same for all


def test_memory_grows_with_the_tile() -> None:
    """Eight times the voxels, eight times the tensors; the weights stay."""
    with torch.device("meta"):
        model = create_model("unet3d", out_channels=2)
    weights = 4 * sum(p.numel() for p in [*model.parameters(), *model.buffers()])
    small, large = (inference_memory(model, (n, n, n)) - weights for n in (64, 128))
    assert large == pytest.approx(8 * small, rel=1e-3)


def test_summary() -> None:
    summary = summarise("unet3d", "full")
    assert (summary.kind, summary.n_weights) == ("segmenter", 19_069_955 - 2 * 32 * 27 - 65)
    assert (summary.receptive_field, summary.divisor, summary.tile) == ((103,) * 3, (8,) * 3, 128)


def test_models_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {(entry["name"], entry["preset"]) for entry in found} >= {(n, p) for n in NAMES for p in model_presets(n)}
    assert next(entry for entry in found if entry["name"] == "cam3d")["kind"] == "classifier"
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(found)
    assert [line.split()[0] for line in lines[1:]] == [entry["name"] for entry in found]
    assert "895,746" in next(line for line in lines if line.startswith("ssn3d_ed"))
