# SPDX-License-Identifier: MIT
"""Numbers from a user or a file, checked."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from .._checks import input_error


def number(where: str, name: str, value: Any, low: float, high: float, *, whole: bool = False) -> Any:
    """`value` as a plain float (int if `whole`) from low to high, or an InputError. Booleans are no numbers."""
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not is_number or not low <= float(value) <= high:
        noun = "a whole number" if whole else "a number"
        raise input_error(where, name, expected=f"{noun} from {low:g} to {high:g}", got=repr(value))
    return int(value) if whole else float(value)


def numbers(
    where: str, name: str, values: Any, low: float, high: float, *, count: int, whole: bool = False
) -> tuple[Any, ...]:
    """A sequence of `count` such numbers as a tuple."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise input_error(where, name, expected=f"{count} numbers", got=repr(values))
    return tuple(number(where, name, value, low, high, whole=whole) for value in values)
