# SPDX-License-Identifier: MIT
"""Processes that train together, where the caller has joined them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from cryoet_engine.training.distributed import join

#: Rank, folder, and whether OUT is one folder for both. Stopped after an epoch, then called again.
SCRIPT = """
import os, sys
import numpy as np, torch
from cryoet_engine import CryoETError, Volume
from cryoet_engine.models import create_model
from cryoet_engine.training import TrainingSettings, train, trainer

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
rng = np.random.default_rng(0)
shape = 16, 16, 24
pair = Volume(rng.normal(size=shape).astype(np.float32)), Volume(rng.integers(1, 3, shape).astype(np.uint8))
settings = TrainingSettings(patch=16, batch=1, patches_per_epoch=2, validation_patches=1, device="cpu")
end_epoch = trainer._Training._end_epoch


class Stop(Exception):
    pass


def stop(self, *words):
    end_epoch(self, *words)
    raise Stop


def go(out):
    train(create_model("unet3d", preset="small", out_channels=2), [pair], steps=2, settings=settings, out=out)


for out in (f"{folder}/shared", f"{folder}/node{rank}"):
    trainer._Training._end_epoch = stop
    try:
        go(out)
    except Stop:
        trainer._Training._end_epoch = end_epoch
    try:
        go(out)
        print("done", flush=True)
    except CryoETError as error:
        print(error, flush=True)
sys.stdout.flush()
os._exit(0)  # gloo's threads
"""


def test_a_state_that_one_process_alone_finds_is_an_error_in_all(tmp_path: Path) -> None:
    """Machines that share no folder would train out of step, the one ahead would end, and the others wait for it."""
    words = [sys.executable, "-c", SCRIPT]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [*words, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    try:
        told = [one.communicate(timeout=60) for one in both]
    finally:
        for one in both:
            one.kill()
            one.communicate()
    for rank, (out, err) in enumerate(told):
        first, *rest = out.splitlines()
        assert first == "done", err
        assert rest == [
            f"{tmp_path}/node{rank}.partial: interrupted training: expected the same state for all processes, got "
            "step 0 in 1 of them and step 1 in 1 of them; use a folder that all machines share, or remove this one on "
            "each of them to begin anew"
        ]


def test_who_made_the_group_has_chosen_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun LOCAL_RANK tells; without it, all would have gone to card 0."""
    for name, value in (("is_available", True), ("device_count", 4), ("current_device", 3), ("set_device", None)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    for name, value in (("is_initialized", True), ("get_rank", 5), ("get_world_size", 8)):
        monkeypatch.setattr(distributed, name, lambda *_, value=value: value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with join("cuda") as processes:
        assert (processes.rank, processes.size, processes.device) == (5, 8, torch.device("cuda", 3))
    monkeypatch.setenv("LOCAL_RANK", "1")
    with join("cuda") as processes:
        assert processes.device == torch.device("cuda", 1)
