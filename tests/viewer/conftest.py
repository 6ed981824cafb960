# SPDX-License-Identifier: MIT
"""A screen and a tomogram for the tests that drive the viewer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import driving
import pytest


@pytest.fixture(scope="module")
def screen() -> Iterator[str]:
    with driving.display() as name:
        yield name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    driving.small_tomogram(tmp_path / "tomogram.mrc")
    return tmp_path
