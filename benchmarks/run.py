# SPDX-License-Identifier: MIT
"""All benchmarks: side by side with peers, then single kernels by pytest-benchmark. JSON under results/.

`python benchmarks/run.py [--results DIR] [--quick]`
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread each: a fair fight, and ratios hold on other machines

import harness
import inference
import pixel_classification
import preprocessing
import projection


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=harness.RESULTS)
    parser.add_argument("--quick", action="store_true", help="small and few: does it run at all?")
    args = parser.parse_args()
    edge, rounds = (48, 2) if args.quick else (128, 5)
    smaller = 48 if args.quick else 96
    contests = [
        lambda: pixel_classification.features(edge),
        *(lambda hard=hard: pixel_classification.forest(hard, smaller) for hard in (False, True)),
        *(lambda hard=hard: pixel_classification.forest(hard, smaller, order="raster") for hard in (False, True)),
        *(lambda hard=hard: pixel_classification.streamed(hard, smaller) for hard in (False, True)),
        lambda: preprocessing.bilateral(smaller // 2),
        preprocessing.clahe,
        lambda: preprocessing.clahe(slice_wise=True),
        preprocessing.percentiles,
        preprocessing.histogram,
        lambda: projection.project((edge, edge // 2, 2 * edge)),
        lambda: projection.back_project((edge, edge // 2, 2 * edge)),
        *(lambda name=name: inference.contest(name, (smaller, edge, edge)) for name in inference.NETWORKS),
    ]
    results = []
    for contest in contests:
        results.append(harness.measure(contest(), rounds))
        print(harness.show(results[-1]), flush=True)
    print(harness.record("pixel_classification", results, args.results))
    if args.results == harness.RESULTS and not args.quick:
        harness.publish(results)
    kernels = Path(__file__).parent / "test_kernels.py"
    out = args.results / "kernels.json"
    command = [sys.executable, "-m", "pytest", str(kernels), "--benchmark-enable", "--benchmark-only", "-q"]
    status = subprocess.run([*command, f"--benchmark-json={out}"], check=False).returncode
    if not status:
        _slim(out)
    return status


def _slim(path: Path) -> None:
    """Leave out single timings and the machine's name."""
    content = json.loads(path.read_text())
    content["machine_info"].pop("node", None)
    for entry in content["benchmarks"]:
        entry["stats"].pop("data", None)
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
