# SPDX-License-Identifier: MIT
"""What a simulation is said to take of memory is no less than what it takes, and not far more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cryoet_engine._checks import InputError
from cryoet_engine.simulate import VirionRecipe, memory, memory_bytes, simulate

_RUN = """
import sys
from cryoet_engine.simulate import VirionRecipe, simulate
def held(key):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1])
how = {"reconstruction": sys.argv[1]} if sys.argv[1] != "fast" else {"fast": True}
simulate(VirionRecipe(shape=(16, 32, 32), n_virions=1, tilt_step_deg=30, **how))
before = held("VmRSS")
simulate(VirionRecipe(shape=(64, 224, 224), n_virions=1, tilt_step_deg=4, sirt_iterations=1, **how))
print(held("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("how", ["wbp", "sirt", "fast"])
def test_the_estimate_bounds_what_is_taken(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", _RUN, how], capture_output=True, text=True, check=True)
    fields = {"fast": True} if how == "fast" else {"reconstruction": how}
    told = memory_bytes(VirionRecipe(shape=(64, 224, 224), n_virions=1, tilt_step_deg=4, sirt_iterations=1, **fields))
    assert 0.25 * told < int(done.stdout) < told  # measured: 0.5, 0.5 and 0.8 of it


def test_the_papers_size_fits_24_GB() -> None:
    assert 12e9 < memory_bytes(VirionRecipe(shape=(500, 1440, 1024))) < 22e9  # 18.0e9


def test_what_does_not_fit_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"shape 4096 x 4096 x 4096: expected what fits the .* GiB.*smaller shape"):
        simulate(VirionRecipe(shape=(4096, 4096, 4096)))
    monkeypatch.setattr(memory, "available_bytes", lambda: 50 << 20)
    with pytest.raises(InputError, match=r"0\.0488 GiB"):
        simulate(VirionRecipe(shape=(16, 32, 32)))


def test_what_is_there_is_found() -> None:
    assert 1 << 20 < memory.available_bytes() < 1 << 50
