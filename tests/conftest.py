# SPDX-License-Identifier: MIT
"""What the tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data: `CRYOET_TEST_DATA`, by default ../shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CRYOET_TEST_DATA") or default)
    if not (folder / "lysosome").is_dir():
        pytest.skip(f"no real test data at {folder}: set CRYOET_TEST_DATA to a folder that has it")
    return folder


@pytest.fixture(autouse=True)
def on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """device="auto" means the CPU where the CPU's bits are judged, on machines that have a card, too."""
    if not {"cuda", "gpu"} & set(request.path.parts):
        monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this processor has, in use for the test."""
    from cryoet_engine import _core

    try:
        _core.use_instruction_set(request.param)
    except ValueError as reason:
        pytest.skip(str(reason))
    yield request.param
    _core.use_instruction_set("best")
