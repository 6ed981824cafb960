# SPDX-License-Identifier: MIT
"""CUDA kernels, run on the CPU."""

from __future__ import annotations

import os

import pytest
from emulation.launcher import SANITIZE, Emulation


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    """kernels.launch("separable", "multiply", grid, block, shared bytes, job): a kernel of csrc/ops/separable.cu.

    test_emulation.py runs the tests again with CRYOET_SANITIZE=1, under AddressSanitizer.
    """
    options = SANITIZE if os.environ.get("CRYOET_SANITIZE") else ()
    return Emulation(tmp_path_factory.mktemp("emulated"), *options)
