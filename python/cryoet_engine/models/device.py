# SPDX-License-Identifier: MIT
"""Where networks compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeAlias

import torch
from torch import nn

from .._checks import input_error

Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]


def choose_device(name: str, *, where: str) -> torch.device:
    """The device of "auto" (CUDA if a card is there), "cpu" or "cuda"; InputError where it is none or not there.

    Of several cards torch's current one.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise input_error(where, "device", expected="auto, cpu or cuda", got=repr(name))
    if name != "cpu" and torch.cuda.is_available():
        # With its number: other threads' current card is the first, whatever the caller's is.
        return torch.device("cuda", torch.cuda.current_device())
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


def number_type(precision: Precision, device: torch.device) -> torch.dtype:
    """The float type of a precision; "auto" is bfloat16 where the card can: it needs no scaling of the loss.

    On a CPU "auto" is float32: without AMX it computes bfloat16 more slowly.
    """
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        with torch.cuda.device(device):  # it is the current card that is asked
            can = torch.cuda.is_bf16_supported(including_emulation=False)  # which is slower than float32
        return torch.bfloat16 if can else torch.float32
    found: torch.dtype = getattr(torch, precision)
    return found


def autocast(device: torch.device, enabled: bool, precision: Precision = "auto") -> AbstractContextManager[object]:
    """Compute in `number_type` what bears it; nothing changes where that is float32."""
    number = number_type(precision, device)
    if enabled and number != torch.float32:
        return torch.autocast(device.type, number)
    return nullcontext()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what an exception says; a CPU's allocator has none of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
