# SPDX-License-Identifier: MIT
"""CUDA kernels, run on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulation.launcher import SANITIZE, Emulation


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulation]:
    """kernels.launch("separable", "multiply", grid, block, shared bytes, job): a kernel of csrc/ops/separable.cu.

    Under the sanitizers where CRYOET_SANITIZED_KERNELS names a file: the names of the kernels that ran are left there,
    for test_emulation.py.
    """
    report = os.environ.get("CRYOET_SANITIZED_KERNELS")
    emulation = Emulation(tmp_path_factory.mktemp("emulated"), *(SANITIZE if report else ()))
    yield emulation
    if report:
        Path(report).write_text("\n".join(sorted(emulation.launched)))
