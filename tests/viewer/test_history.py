# SPDX-License-Identifier: MIT
"""Undo over strokes and look together, in the order in which they were made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cryoet_engine import TransferFunction, Volume
from cryoet_engine.render import RenderSettings
from cryoet_engine.transfer import Ramp
from cryoet_engine.viewer.document import Document, in_memory
from cryoet_engine.viewer.history import History
from cryoet_engine.viewer.strokes import Brush, Strokes

SHAPE = (4, 8, 8)


@pytest.fixture
def document() -> Document:
    tomogram = in_memory("", Volume(np.zeros(SHAPE, np.float32)))
    ramps = (Ramp(left=0.5, visible=False), Ramp(left=0.2))
    transfer = TransferFunction(classes=("background", "class 1"), ramps=ramps)
    return Document(tomogram, Strokes(SHAPE, 10.0), RenderSettings(), transfer=transfer)


def draw(document: Document, history: History, x: float) -> None:
    document.strokes.draw("z", [(1, 2, x), (1, 5, x)], 2, Brush(0.5))
    history.strokes_changed(document.strokes.version)
    history.settle(document)


def turn(document: Document, history: History, degrees: float) -> None:
    document.settings = replace(document.settings, azimuth_deg=degrees)
    history.settle(document)


def drawn(document: Document) -> int:
    return sum(document.strokes.counts())


def test_strokes_and_looks_come_back_in_their_order(document: Document) -> None:
    history = History(document.strokes.version)
    history.settle(document)
    start = document.settings
    draw(document, history, 1)
    turn(document, history, 50.0)
    draw(document, history, 6)
    assert (drawn(document), history.can_undo, history.can_redo) == (8, True, False)
    assert history.undo(document) and drawn(document) == 4
    assert not history.undo(document) and document.settings == start  # a look: strokes did not change
    assert history.undo(document) and drawn(document) == 0
    assert not history.undo(document) and not history.can_undo
    assert history.redo(document) and drawn(document) == 4
    assert not history.redo(document) and document.settings.azimuth_deg == 50.0
    assert history.redo(document) and drawn(document) == 8


def test_what_changed_nothing_is_no_step(document: Document) -> None:
    history = History(document.strokes.version)
    history.settle(document)
    document.strokes.draw("z", [(1, 2, 2)], 0, Brush(2.0))  # erases where nothing is
    assert not history.strokes_changed(document.strokes.version)
    history.settle(document)
    assert not history.can_undo


def test_a_new_edit_ends_what_could_be_redone(document: Document) -> None:
    history = History(document.strokes.version)
    history.settle(document)
    draw(document, history, 1)
    history.undo(document)
    turn(document, history, 10.0)
    assert not history.can_redo
    history.undo(document)
    assert document.settings.azimuth_deg != 10.0


def test_a_scene_that_comes_is_no_step_and_its_ramps_outlive_undo(document: Document) -> None:
    history = History(document.strokes.version)
    history.settle(document)
    turn(document, history, 10.0)
    ramps = (Ramp(left=0.5, visible=False), Ramp(left=0.4), Ramp(left=0.4))
    document.transfer = TransferFunction(classes=("background", "class 1", "new"), ramps=ramps)
    history.accept(document)
    history.settle(document)
    assert history.undo(document) is False
    assert document.settings.azimuth_deg != 10.0
    assert document.transfer.classes == ("background", "class 1", "new")
    assert not history.can_undo
