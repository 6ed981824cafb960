# SPDX-License-Identifier: MIT
"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with a stage's name, steps done and steps in all. Raising from it (Ctrl-C) cancels the work."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report; `note` is a few words to show behind the bar, such as a loss."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report to nobody."""
