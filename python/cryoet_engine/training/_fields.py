# SPDX-License-Identifier: MIT
"""Checks of the fields of settings."""

from __future__ import annotations

from typing import Any

from .._checks import input_error


def check_field(settings: Any, name: str, kind: type[float], low: float, high: float) -> None:
    """Refuse a field that is no `kind` (int, float or bool; a whole number is a float, too) from `low` to `high`."""
    value: Any = getattr(settings, name)
    accepted: Any = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool) or not low <= value <= high:
        noun = {int: "a whole number", float: "a number", bool: "True or False"}[kind]
        limits = "" if kind is bool else f" from {low:g} to {high:g}"
        raise input_error(type(settings).__name__, name, expected=noun + limits, got=repr(value))
