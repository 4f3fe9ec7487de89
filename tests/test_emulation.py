"""The emulation of CUDA on the host finds the faults that it is there to find."""

import os
import subprocess
from pathlib import Path

import pytest
from emulation.build import HERE, compile_host
from torch.utils import cpp_extension

SANITIZERS = {
    "plain": [],
    "address": ["-fsanitize=address"],
    "thread": ["-fsanitize=thread"],
}


def run(folder: Path, plant: str, sanitizer: str, executor: str):
    program = folder / "planted"
    options = ["-g", "-O1", f"-DPLANT_{plant}=1", *SANITIZERS[sanitizer]]
    compile_host(HERE / "planted.cu", program, *options)
    environment = {**os.environ, "TRAJGRU_EMULATION": executor}
    environment.pop("LD_PRELOAD", None)
    return subprocess.run(
        [program], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("executor", ["fibers", "threads"])
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_a_right_kernel_passes(tmp_path, sanitizer, executor):
    done = run(tmp_path, "NOTHING", sanitizer, executor)
    assert (done.returncode, done.stdout) == (0, "sum 11175\n"), done.stderr


@pytest.mark.parametrize("plant", ["MISSING_BARRIER", "PLAIN_ADDITION"])
def test_races_are_reported(tmp_path, plant):
    done = run(tmp_path, plant, "thread", "threads")
    assert done.returncode == 66
    assert "ThreadSanitizer: data race" in done.stderr
    assert "block_sum" in done.stderr


def test_a_missing_barrier_changes_the_value(tmp_path):
    """Shared memory starts as NaN, so that reading too early shows in fibers too."""
    done = run(tmp_path, "MISSING_BARRIER", "plain", "fibers")
    assert done.returncode == 4
    assert "nan" in done.stdout


@pytest.mark.parametrize("executor", ["fibers", "threads"])
def test_a_read_out_of_bounds_is_reported(tmp_path, executor):
    done = run(tmp_path, "OUT_OF_BOUNDS", "address", executor)
    assert done.returncode == 1
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "block_sum" in done.stderr


@pytest.mark.parametrize("executor", ["fibers", "threads"])
def test_a_barrier_that_not_all_threads_reach_is_an_error(tmp_path, executor):
    done = run(tmp_path, "DIVERGENCE", "plain", executor)
    assert done.returncode == 3
    assert "a barrier that not all threads reach" in done.stdout


def test_index_functions_past_2_to_the_32(tmp_path):
    """Nothing is allocated: what the kernels compute is where they would read."""
    program = tmp_path / "indices"
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    compile_host(HERE / "indices.cpp", program, "-fsanitize=undefined", *includes)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert int(done.stdout.split()[0]) > 60
