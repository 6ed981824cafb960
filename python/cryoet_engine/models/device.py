# SPDX-License-Identifier: MIT
"""Where networks compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from .._checks import input_error


def choose_device(name: str, *, where: str) -> torch.device:
    """The device of "auto" (CUDA if a card is there), "cpu" or "cuda"; InputError where it is none or not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise input_error(where, "device", expected="auto, cpu or cuda", got=repr(name))
    if name != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if name == "cuda":
        raise input_error(
            where,
            "device",
            expected="a CUDA device",
            got="none that torch can use",
            fix="use device cpu or auto, or install a torch built for CUDA",
        )
    return torch.device("cpu")


def place(model: nn.Module, device: torch.device) -> None:
    """Move a network, its weights laid out channels last: half as fast again on the CPU, and for tensor cores."""
    model.to(device)
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[object]:
    """Compute in bfloat16 where the card can; it needs no scaling of the loss. On the CPU it would be slower."""
    if enabled and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()
