# SPDX-License-Identifier: MIT
"""How long a simulated tomogram takes, stage by stage, and what memory: a virion tomogram of 256^3 with 61 views by
weighted back-projection and by SIRT, the shortcut, and one of the paper's size.

    python benchmarks/simulation.py [--results DIR] [--rounds 3] [--paper-size] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness

# Each in a process of its own: its peak of memory is its own.
SCRIPT = """
import json, resource, sys, time
from cryoet_engine.simulate import VirionRecipe, simulate
stages, begun = {}, time.perf_counter()
current = [None, begun]
def progress(stage, done, total, note=""):
    now = time.perf_counter()
    if current[0] is not None:
        stages[current[0]] = stages.get(current[0], 0) + now - current[1]
    current[:] = stage, now
simulate(VirionRecipe(**json.loads(sys.argv[1])), device=sys.argv[2], progress=progress)
now = time.perf_counter()
stages[current[0]] += now - current[1]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": now - begun, "stages": stages, "peak_GiB": peak}))
"""
EDGE = {"shape": [256, 256, 256], "n_virions": 14, "thickness_nm": 280.0, "seed": 1}
TABLE = Path(__file__).parents[1] / "docs" / "simulation.md"
PAPER = {"shape": [300, 1440, 1024], "n_virions": 60, "thickness_nm": 330.0, "seed": 1}


def timed(fields: dict[str, Any], device: str) -> dict[str, Any]:
    command = [sys.executable, "-c", SCRIPT, json.dumps(fields), device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def publish(rows: list[dict[str, Any]]) -> None:
    """Put the table between the comments of docs/simulation.md."""
    lines = ["| tomogram | seconds | peak memory | most of it |", "|---|---|---|---|"]
    for row in rows:
        most = sorted(row["stages_s"].items(), key=lambda one: -one[1])[:3]
        told = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in most)
        lines.append(f"| {row['what']} | {row['median_s']:.1f} | {row['peak_GiB']:.1f} GiB | {told} |")
    before, rest = TABLE.read_text().split("<!-- speed -->\n")
    after = rest.split("<!-- /speed -->")[1]
    TABLE.write_text(f"{before}<!-- speed -->\n{chr(10).join(lines)}\n<!-- /speed -->{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=harness.RESULTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--paper-size", action="store_true", help="300 x 1440 x 1024 as well, once: minutes, 9 GiB")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to project (default cpu)")
    args = parser.parse_args()
    jobs = [
        ("256^3, 61 views, weighted back-projection", EDGE, args.rounds),
        ("256^3, 61 views, SIRT of 15 rounds", EDGE | {"reconstruction": "sirt"}, args.rounds),
        ("256^3, the shortcut", EDGE | {"fast": True}, args.rounds),
    ]
    if args.paper_size:
        jobs.append(("300 x 1440 x 1024, 61 views, weighted back-projection", PAPER, 1))
    results = []
    for name, fields, rounds in jobs:
        runs = [timed(fields, args.device) for _ in range(rounds)]
        row = {
            "what": name,
            "median_s": round(statistics.median(run["seconds"] for run in runs), 2),
            "all_s": [round(run["seconds"], 2) for run in runs],
            "stages_s": {stage: round(seconds, 2) for stage, seconds in runs[0]["stages"].items()},
            "peak_GiB": round(max(run["peak_GiB"] for run in runs), 2),
        }
        results.append(row)
        print(f"{name:<56}{row['median_s']:>9.2f} s{row['peak_GiB']:>8.2f} GiB  {row['stages_s']}", flush=True)
    print(harness.record("simulation" if args.device == "cpu" else "simulation_gpu", results, args.results))
    if args.paper_size and args.device == "cpu" and args.results == harness.RESULTS:
        publish(results)


if __name__ == "__main__":
    main()
