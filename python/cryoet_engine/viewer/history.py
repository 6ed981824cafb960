# SPDX-License-Identifier: MIT
"""Undo and redo over strokes, classes and what 3D shows, in the order in which they were done."""

from __future__ import annotations

from dataclasses import dataclass

from ..render.settings import RenderSettings
from ..transfer import TransferFunction
from .document import Document

_LONGEST = 500


@dataclass(frozen=True)
class _Look:
    """One state of what 3D shows."""

    settings: RenderSettings
    transfer: TransferFunction | None


@dataclass(frozen=True)
class _Step:
    """What one undo takes back: so many steps of the strokes, and a look to return to, if that changed."""

    strokes: int
    look: _Look | None


class History:
    """Steps of one document; the strokes keep what their own steps changed.

    strokes_version: of the document's strokes as they are now, which no step leads behind.
    """

    def __init__(self, strokes_version: int = 0) -> None:
        self._version = strokes_version
        self._fresh = 0  # steps of the strokes that belong to no step here yet
        self._done: list[_Step] = []
        self._undone: list[_Step] = []
        self._settled: _Look | None = None  # the look that the last step left

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether a step was taken back."""
        return bool(self._undone)

    def strokes_changed(self, version: int) -> bool:
        """After what may have been one step of the strokes; whether it was one."""
        changed = version != self._version
        self._version = version
        self._fresh += changed
        return changed

    def settle(self, document: Document) -> None:
        """What changed since the last call becomes one step; when the mouse holds nothing."""
        look = _Look(document.settings, document.transfer)
        before = self._settled if self._settled is not None and look != self._settled else None
        if before is not None or self._fresh:
            self._done.append(_Step(self._fresh, before))
            self._undone.clear()
            del self._done[:-_LONGEST]
        self._settled, self._fresh = look, 0

    def accept(self, document: Document | None) -> None:
        """What the look is now is no step: a scene came, not a change."""
        self._settled = None if document is None else _Look(document.settings, document.transfer)

    def undo(self, document: Document) -> bool:
        """Take back the last step; whether strokes or classes changed."""
        return self._step(document, self._done, self._undone, back=True)

    def redo(self, document: Document) -> bool:
        """Do again what was taken back; whether strokes or classes changed."""
        return self._step(document, self._undone, self._done, back=False)

    def _step(self, document: Document, source: list[_Step], target: list[_Step], *, back: bool) -> bool:
        if not source or self._fresh:
            return False
        step = source.pop()
        strokes = document.strokes
        for _ in range(step.strokes):
            if strokes.can_undo if back else strokes.can_redo:
                strokes.undo() if back else strokes.redo()
        self._version = strokes.version
        target.append(_Step(step.strokes, None if step.look is None else _Look(document.settings, document.transfer)))
        if step.look is not None:
            document.settings = step.look.settings
            old, new = document.transfer, step.look.transfer
            if old is not None and new is not None and old.classes == new.classes:  # else of another scene
                document.transfer = new
        self.accept(document)
        return step.strokes > 0
