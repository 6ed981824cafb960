# SPDX-License-Identifier: MIT
"""Numbers from a user or a file, checked; and fields of recipes that carry their own limits."""

from __future__ import annotations

import dataclasses
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


def within(default: Any, low: float, high: float, *, whole: bool = False) -> Any:
    """A dataclass field: a number from low to high."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "whole": whole, "form": "number"})


def triple(default: Any, low: float, high: float, *, whole: bool = False) -> Any:
    """A dataclass field: three numbers, each from low to high."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "whole": whole, "form": "triple"})


def span(default: Any, low: float, high: float, *, whole: bool = False) -> Any:
    """A dataclass field: two numbers from low to high, the least first."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "whole": whole, "form": "span"})


def choice(default: str, *options: str) -> Any:
    """A dataclass field: one of some words."""
    return dataclasses.field(default=default, metadata={"options": options, "form": "choice"})


def switch(default: bool) -> Any:
    """A dataclass field: true or false."""
    return dataclasses.field(default=default, metadata={"form": "switch"})


def text(default: str = "") -> Any:
    """A dataclass field: a text."""
    return dataclasses.field(default=default, metadata={"form": "text"})


def texts() -> Any:
    """A dataclass field: a list of texts, none by default."""
    return dataclasses.field(default=(), metadata={"form": "texts"})


def check_fields(instance: Any) -> None:
    """Bring every field that says its form into it: plain numbers, tuples; an InputError names what does not fit."""
    for field in dataclasses.fields(instance):
        if "form" in field.metadata:
            value = checked(type(instance).__name__, field, getattr(instance, field.name))
            object.__setattr__(instance, field.name, value)


def checked(where: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """A value for one field, in the form that the field says."""
    name, told = field.name, field.metadata
    match told["form"]:
        case "number":
            return number(where, name, value, told["low"], told["high"], whole=told["whole"])
        case "triple":
            return numbers(where, name, value, told["low"], told["high"], count=3, whole=told["whole"])
        case "span":
            pair = numbers(where, name, value, told["low"], told["high"], count=2, whole=told["whole"])
            if pair[0] > pair[1]:
                raise input_error(where, name, expected="the least first, then the largest", got=pair)
            return pair
        case "choice":
            if value not in told["options"]:
                raise input_error(where, name, expected=", ".join(told["options"]), got=repr(value))
            return value
        case "switch":
            if not isinstance(value, bool):
                raise input_error(where, name, expected="true or false", got=repr(value))
            return value
        case "texts":
            if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
                raise input_error(where, name, expected="a list of texts", got=repr(value))
            return tuple(value)
        case _:
            if not isinstance(value, str):
                raise input_error(where, name, expected="a text", got=repr(value))
            return value
