#!/bin/sh
# SPDX-License-Identifier: MIT
# On a machine with an NVIDIA card: build (with no network if need be), run the GPU tests, then the benchmarks.
# Writes JSON to ${OUT:-benchmarks/results/gpu}. Python is $PYTHON, the project's .venv, or python3.
set -u
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/results/gpu}
python=${PYTHON:-}
[ -n "$python" ] || { [ -x .venv/bin/python ] && python=.venv/bin/python || python=python3; }
mkdir -p "$out"

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || {
  echo "gpu: no NVIDIA card here (nvidia-smi does not answer); nothing was measured" >&2; exit 1
}
# --no-deps and no isolation: what is installed is used, nothing is fetched.
"$python" -m pip install --quiet --no-index --no-deps --no-build-isolation . || exit 1

status=0
"$python" -m pytest -m gpu -o addopts="-ra --strict-markers" -o filterwarnings=default tests/gpu || { code=$?; [ "$code" = 5 ] || status=$code; }
"$python" benchmarks/run.py --results "$out" || status=$?
"$python" benchmarks/gpu.py --results "$out" || status=$?
"$python" benchmarks/simulation.py --device cuda --paper-size --rounds 2 --results "$out" || status=$?
"$python" benchmarks/training.py --device cuda --preset full --rounds 3 --results "$out" || status=$?
"$python" benchmarks/paper_tables.py --preset full --patch 128 --batch 4 --learning-rate 1e-3 --steps 150 --results "$out" || status=$?
# Pictures want moderngl and its glcontext (5.13.0 and 3.1.0: wheels, brought along where there is no network) and
# NVIDIA's EGL. The contest with VTK is left out where VTK is not there.
if "$python" -c "import moderngl" 2>/dev/null; then
  "$python" -m cryoet_engine.cli bench render --json "$out/render_small.json" || status=$?
  "$python" -m cryoet_engine.cli bench render --paper --json "$out/render_paper.json" || status=$?
  "$python" benchmarks/render.py --results "$out" || status=$?
else
  echo "gpu: moderngl is not here: pictures were not measured" >&2
fi
exit $status
