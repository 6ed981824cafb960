# SPDX-License-Identifier: MIT
"""One OpenGL context for all pictures of these tests, and scenes to draw with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from drawing import Scene, crowded_vesicles, filaments_and_sheet, spiked_vesicle, tomogram

from cryoet_engine._checks import MissingDependencyError
from cryoet_engine.render.context import opened_context


@pytest.fixture(scope="session")
def gl() -> Iterator[Any]:
    try:
        with opened_context() as context:
            yield context
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def scenes() -> dict[str, Scene]:
    """Simulated tomograms with their soft segmentations and transfer functions."""
    made = (spiked_vesicle, crowded_vesicles, filaments_and_sheet)
    return {make.__name__: tomogram(make(), seed) for seed, make in enumerate(made)}
