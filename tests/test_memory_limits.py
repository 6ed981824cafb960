# SPDX-License-Identifier: MIT
"""Memory is what a container leaves of the machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoet_engine import _memory


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups lie in each other; what files of the disk take in memory can be had."""
    outer, inner = tmp_path, tmp_path / "inner"
    inner.mkdir()
    monkeypatch.setattr(_memory, "_machine_bytes", lambda: 50_000)
    monkeypatch.setattr(_memory, "_machine_total", lambda: 90_000)
    monkeypatch.setattr(_memory, "_control_groups", lambda: [inner, outer, tmp_path / "none"])
    for group, limit in ((inner, "max"), (outer, "20000\n")):
        (group / "memory.max").write_text(limit)
        (group / "memory.current").write_text("9000\n")
        (group / "memory.stat").write_text("anon 5000\ninactive_file 4000\n")
    assert (_memory.total_bytes(), _memory.available_bytes()) == (20_000, 15_000)
    (inner / "memory.max").write_text("6000")
    assert (_memory.total_bytes(), _memory.available_bytes()) == (6000, 1000)
    (inner / "memory.max").write_text("1000")
    assert _memory.available_bytes() == 0
    monkeypatch.setattr(_memory, "_control_groups", list)
    assert (_memory.total_bytes(), _memory.available_bytes()) == (90_000, 50_000)


def test_what_there_is_is_found() -> None:
    assert 1 << 20 < _memory.available_bytes() <= _memory.total_bytes() < 1 << 50
