# SPDX-License-Identifier: MIT
"""Several processes, of one machine or many, that train one network: started by torchrun, joined by gloo or NCCL.

`torchrun --nproc-per-node 4 -m cryoet_engine.cli train ...`: nothing else changes. Each process reads batches of its
own; gradients are averaged by DistributedDataParallel; the first process (rank 0) alone writes and tells.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed, nn

from .._checks import CryoETError, input_error, message
from ..models.device import choose_device

Array = TypeVar("Array", bound=np.ndarray[Any, Any])

#: Counts the processes that failed.
_FAILURES = "cryoet failures"


@dataclass(frozen=True)
class Processes:
    """Which process of how many this is; alone, all is its own."""

    rank: int
    size: int
    device: torch.device

    def total(self, counts: Array) -> Array:
        """The sum of an array over all processes, in its own type."""
        if self.size == 1:
            return counts
        tensor = torch.from_numpy(np.ascontiguousarray(counts)).to(self.device)
        distributed.all_reduce(tensor)
        summed: Array = tensor.cpu().numpy()  # type: ignore[assignment]
        return summed

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            self.total(np.zeros(1))

    def share(self, model: nn.Module) -> nn.Module:
        """The network to compute with: gradients of all processes are averaged, and all begin with the first's weights.

        Batch normalisation is each process's own while training, as it is each batch's own where gradients are
        accumulated: a batch of 3D patches has voxels enough. `average_buffers` brings what it learned together.
        """
        if self.size == 1:
            return model
        # Of kernels of one voxel or one channel, whose channels last have strides that a gradient need not share.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        cards = [self.device] if self.device.type == "cuda" else None
        wrapper: Any = nn.parallel.DistributedDataParallel
        # torch 2.13 calls it by another name, and warns of the one before.
        known = inspect.signature(wrapper).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        shared: nn.Module = wrapper(model, device_ids=cards, **{option: False})
        return shared

    def average_buffers(self, model: nn.Module) -> None:
        """Make running statistics the mean over processes, and what normalised ReLU has met the largest."""
        if self.size == 1:
            return
        for buffer in model.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer, distributed.ReduceOp.SUM if buffer.ndim else distributed.ReduceOp.MAX)
                if buffer.ndim:
                    buffer /= self.size


@contextmanager
def join(device: str, *, where: str = "train") -> Iterator[Processes]:
    """Be one of the processes that torchrun started, on a card or on the CPU; or alone.

    device: "auto", "cpu" or "cuda": each process of a machine takes a card of its own (LOCAL_RANK). May be entered
    again inside itself, and by who has called `torch.distributed.init_process_group`: without LOCAL_RANK the card is
    then torch's current one.

    Errors: InputError for a device that is not there, or fewer cards than processes; CryoETError where the others
    cannot be found, or one of them ended.
    """
    chosen = choose_device(device, where=where)
    size = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    joined = distributed.is_available() and distributed.is_initialized()
    if not joined and size == 1:
        yield Processes(0, 1, chosen)
        return
    # Who made the group otherwise than by torchrun has a way of their own to share cards out: the current one stays.
    theirs = joined and "LOCAL_RANK" not in os.environ
    if chosen.type == "cuda" and not theirs:
        chosen = torch.device("cuda", _own_card(where))
        torch.cuda.set_device(chosen)
    if joined:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), chosen)
        return
    try:
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    except (distributed.DistError, RuntimeError, ValueError) as error:
        expected, first = f"{size} processes, as torchrun starts them", str(error).splitlines()[0]
        raise CryoETError(message(where, "processes", expected=expected, got=first)) from error
    try:
        yield Processes(distributed.get_rank(), size, chosen)
    except RuntimeError as error:  # which is what torch makes of it
        if not any(word in str(error).lower() for word in ("gloo", "connection closed", "connection reset", "nccl")):
            raise
        fix = "look for its own message, or why the system ended it"
        raise CryoETError(
            message(where, "processes", expected=f"all {size} to go on", got="one that is gone", fix=fix)
        ) from error
    # Who fails does not wait for the others, who may wait for it: only the end of a whole training comes here.
    distributed.destroy_process_group()


def first_to_fail() -> bool:
    """Whether no other process has failed before this one: the others fail because of it, and need not tell."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return True
    try:
        store = distributed.distributed_c10d._get_default_store()
        return int(store.add(_FAILURES, 1)) == 1
    except RuntimeError:  # the process that kept the store is gone: it has told
        return False


def _own_card(where: str) -> int:
    local = int(os.environ.get("LOCAL_RANK", 0))
    cards = torch.cuda.device_count()
    if local >= cards:
        fix = "start fewer processes a machine (--nproc-per-node)"
        raise input_error(where, "processes", expected=f"one a card ({cards})", got=f"number {local + 1}", fix=fix)
    return local
