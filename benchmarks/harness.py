# SPDX-License-Identifier: MIT
"""Side-by-side timing: parity first, then A B A B, medians and their ratio, JSON with machine and commit."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Contest:
    """One question: the same work done by several.

    entries: name -> call; the first is ours. A call with an attribute `seconds` (another process) timed itself.
    voxels: what one call works on, for Mvoxel/s.
    parity: called once with every entry's result before any timing; returns name -> error, and raises when one is
        not the same work.
    """

    name: str
    entries: Mapping[str, Callable[[], Any]]
    voxels: int
    parity: Callable[[Mapping[str, Any]], Mapping[str, float]]
    note: str = ""


def measure(contest: Contest, rounds: int = 5) -> dict[str, Any]:
    """Gate by parity, then time the entries in turn, `rounds` times."""
    errors = contest.parity({name: call() for name, call in contest.entries.items()})
    seconds: dict[str, list[float]] = {name: [] for name in contest.entries}
    for _ in range(rounds):
        for name, call in contest.entries.items():
            start = time.perf_counter()
            call()
            took = time.perf_counter() - start
            seconds[name].append(getattr(call, "seconds", took))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = next(iter(medians))
    rows = [
        {
            "entry": name,
            "median_s": round(median, 5),
            "spread_s": [round(min(seconds[name]), 5), round(max(seconds[name]), 5)],
            "mvoxel_per_s": round(contest.voxels / median / 1e6, 4),
            "ours_is_times_faster": round(median / medians[ours], 3),
            "error": errors.get(name),
        }
        for name, median in medians.items()
    ]
    return {
        "contest": contest.name,
        "voxels": contest.voxels,
        "rounds": rounds,
        "note": contest.note,
        "rows": rows,
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
        flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    else:
        flags = set()
    card = ""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "vector": sorted(flags & {"avx2", "fma", "avx512f"}),
        "gpu": card or None,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("numpy", "scikit-learn", "torch")},
    }


def commit() -> str:
    """The commit measured, with `+` when the tree has changes."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("CRYOET_COMMIT", "unknown")
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def record(theme: str, results: list[dict[str, Any]], folder: Path = RESULTS) -> Path:
    """Write results/THEME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{theme}.json"
    content = {"commit": commit(), "machine": machine(), "results": results}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def show(result: Mapping[str, Any]) -> str:
    """One contest as lines of text."""
    lines = [f"{result['contest']} ({result['voxels'] / 1e6:.2f} Mvoxel, median of {result['rounds']})"]
    for row in result["rows"]:
        error = "" if row["error"] is None else f"  error {row['error']:.1e}"
        lines.append(
            f"  {row['entry']:<28}{row['median_s']:>10.3f} s{row['mvoxel_per_s']:>10.3f} Mvoxel/s"
            f"{row['ours_is_times_faster']:>9.2f} x{error}"
        )
    return "\n".join(lines)


def publish(results: list[dict[str, Any]], readme: Path = Path(__file__).parents[1] / "README.md") -> None:
    """Put the table of medians between the README's `bench` comments."""
    where = machine()
    rows = [
        f"| {result['contest']} | {row['entry']} | {row['mvoxel_per_s']:.2f} | {row['ours_is_times_faster']:.2f} |"
        for result in results
        for row in result["rows"]
    ]
    table = "\n".join(["| work, one thread | by | Mvoxel/s | time / ours |", "|---|---|---|---|", *rows])
    vector = ", ".join(where["vector"])
    note = f"{where['cpu']} ({vector}), medians of A B A B rounds, the same numbers first; `make bench`."
    before, rest = readme.read_text().split("<!-- bench -->\n")
    after = rest.split("<!-- /bench -->")[1]
    readme.write_text(f"{before}<!-- bench -->\n{table}\n\n{note}\n<!-- /bench -->{after}")
