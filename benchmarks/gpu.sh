#!/usr/bin/env bash
# Correctness, memory and speed on one GPU, in at most nine minutes and without a network; writes one JSON file.
#   benchmarks/gpu.sh [--mar FOLDER]                      one card, the ImageNet study; writes benchmarks/gpu.json
#   benchmarks/gpu.sh --device cpu --small --output FILE  the same parts on a CPU with tiny networks
# PYTHON names another interpreter than the one of `make env`; it needs torch, timm, pydantic, PyYAML and safetensors.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
command -v "$python" >/dev/null || python=python3
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
cd "$root"
exec "$python" benchmarks/gpu.py "$@"
