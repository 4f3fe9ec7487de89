"""The same bits for any number of threads, and in every run; by instruction set."""

import os
import subprocess
import sys
from pathlib import Path

import torch

RESULTS = Path(__file__).parents[1] / "tools" / "reproducible_results.py"
# By how many roundings of the largest result two sets may differ, after sequences too.
ROUNDINGS = {"float32": 500, "bfloat16": 8}


def run(capability: str, path: Path) -> dict[str, list[torch.Tensor]]:
    done = subprocess.run(
        [sys.executable, RESULTS, path],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(path, weights_only=True)


def test_threads_runs_and_instruction_sets(tmp_path):
    """Bit for bit for 1 to 16 threads and in two runs; nearly so across sets."""
    best = torch.backends.cpu.get_cpu_capability().lower()
    sets = ["default", *[s for s in ("avx2", "avx512") if s <= best and "avx" in best]]
    found = {name: run(name, tmp_path / name) for name in sets}
    again = run(sets[-1], tmp_path / "again")
    for key, tensors in found[sets[-1]].items():
        assert all(map(torch.equal, tensors, again[key])), key
    for name in sets[:-1]:
        for key, tensors in found[name].items():
            dtype = key.split("torch.")[1]
            eps = torch.finfo(getattr(torch, dtype)).eps
            for one, other in zip(tensors, found[sets[-1]][key], strict=True):
                distance = (one.double() - other.double()).abs().max()
                assert distance <= ROUNDINGS[dtype] * eps * other.double().abs().max()
