# SPDX-License-Identifier: MIT
"""`cryoet train` as two processes under torchrun: what they learn, how they end, how they go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cryoet_engine import CryoETError
from cryoet_engine.models import load_model
from cryoet_engine.training.distributed import join

#: The command, told to stop after a step as by Ctrl-C in the process that draws the bars.
SCRIPT = """
import sys
from cryoet_engine.cli import main
from cryoet_engine.cli._console import Bars

stop = int(sys.argv.pop(1))

def report(self, stage, done, total, note=""):
    print(f"{stage} {done}", file=sys.stderr, flush=True)
    if stage == "training" and done == stop:
        raise KeyboardInterrupt

Bars.__call__ = report
sys.exit(main())
"""


def test_two_processes_are_one_that_accumulates_two(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    """Stopped in their second epoch and started again, two have the losses and weights of one."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def torchrun(stop: int, *words: object) -> tuple[int, list[str]]:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*launch, str(script), str(stop), *map(str, words)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
        return done.returncode, done.stderr.splitlines()

    pair = ("--pair", inputs / "tomogram.mrc", inputs / "truth.mrc", "--classes", "background,membrane,spikes,lumen")
    size = ("--patch", 16, "--batch", 1, "--patches-per-epoch", 4, "--steps", 4, "--device", "cpu")
    status, lines = torchrun(3, "train", *pair, *size, "-o", tmp_path / "two")
    assert status
    assert [line for line in lines if line.startswith("cryoet ")] == ["cryoet train: cancelled"]
    assert [path.name for path in tmp_path.glob("two*")] == ["two.partial"]
    status, lines = torchrun(0, "train", *pair, *size, "-o", tmp_path / "two")
    assert status == 0, lines
    assert [line for line in lines if line.startswith("training ")] == ["training 3", "training 4"]  # one alone tells
    assert sum(str(tmp_path / "two") in line for line in lines) == 1
    assert not any("Warning:" in line for line in lines)
    assert cryoet("train", *pair, *size, "--accumulate", 2, "-o", tmp_path / "one").status == 0
    two, info = load_model(tmp_path / "two" / "last")
    one, _ = load_model(tmp_path / "one" / "last")
    assert info.settings["processes"] == 2
    for (name, a), b in zip(two.named_parameters(), one.parameters(), strict=True):
        # measured: 0. Buffers differ: each process has seen half of the patches, and the mean is taken.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)
    rows = [(tmp_path / net / "curve.jsonl").read_text().splitlines() for net in ("one", "two")]
    for a, b in zip(*(map(json.loads, lines) for lines in rows), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-6  # measured: 1.5e-8
        assert abs(a["validation_loss"] - b["validation_loss"]) < 0.1


def test_fewer_cards_than_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(CryoETError, match=r"train: processes: expected one a card \(1\), got number 2"), join("auto"):
        pass
