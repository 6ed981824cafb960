# SPDX-License-Identifier: MIT
"""One OpenGL context for all pictures of these tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cryoet_engine._checks import MissingDependencyError
from cryoet_engine.render.context import opened_context


@pytest.fixture(scope="session")
def gl() -> Iterator[Any]:
    try:
        with opened_context() as context:
            yield context
    except MissingDependencyError as error:
        pytest.skip(str(error))
