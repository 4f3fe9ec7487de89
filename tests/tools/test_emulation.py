"""The emulation of CUDA on the host finds the faults that it is there to find."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from emulation.build import HERE, compile_host
from torch import Tensor
from torch.utils import cpp_extension
from torch.utils._pytree import tree_leaves

import trajgru_ext

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


def test_a_launch_beyond_the_limits_is_an_error(tmp_path):
    done = run(tmp_path, "LARGE_BLOCK", "plain", "fibers")
    assert done.returncode == 3
    assert "a launch beyond the limits" in done.stdout


# The largest tensor of each has more than 2^31 elements.
@pytest.mark.parametrize("elements", [0, 1, 96, 2**31 + 96])
@pytest.mark.parametrize("planes", [True, False], ids=["planes", "channels_last"])
@pytest.mark.parametrize("backend", ["cuda-emulated"], indirect=True)
def test_every_launch_is_within_the_limits(monkeypatch, backend, elements, planes):
    """Nothing is executed, and memory that nobody touches costs nothing."""
    monkeypatch.setenv("TRAJGRU_EMULATION", "none")
    batch = min(elements, 1)

    def image(channels, of, dtype=torch.bfloat16):
        """An image of some of the channels of the largest tensor."""
        pixels = max(1, -(-elements // of))
        sizes = (channels, pixels) if planes else (pixels, channels)
        whole = torch.empty(batch, 1, *sizes, dtype=dtype, requires_grad=True)
        return whole.transpose(1, 2) if planes else whole.permute(0, 3, 1, 2)

    def images(channels, of):
        return [image(channels, of), image(channels, of)]

    flow = image(2, 2, torch.float32)
    calls = {
        "flow_warp": (image(1, 2, torch.float32).detach(), flow),
        "lstm_gates": (image(4, 4), None, image(1, 4)),
        "gru_gates": (*images(3, 3), image(1, 3)),
        "gru_reset": (image(2, 2), None, image(1, 2)),
        "gru_output": (*images(1, 1), image(1, 1)),
        "channel_mean": images(3, 3),
        "se_scale": (image(3, 3), torch.empty(batch, 3, dtype=torch.bfloat16)),
        "sk_select": (images(3, 3), torch.empty(batch, 2, 3, dtype=torch.bfloat16)),
        "hff_concat": (images(1, 2), 1),
        "spatial_pyramid_pool": (image(3, 3), 3),
    }
    for name, arguments in calls.items():
        found = getattr(trajgru_ext, name)(*arguments)
        found = [found] if isinstance(found, Tensor) else found
        tensors = [one for one in tree_leaves(arguments) if isinstance(one, Tensor)]
        leaves = [one for one in tensors if one.requires_grad]
        torch.autograd.grad(found, leaves, [torch.empty_like(one) for one in found])


def test_index_functions_past_2_to_the_32(tmp_path):
    """Nothing is allocated: what the kernels compute is where they would read."""
    program = tmp_path / "indices"
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    compile_host(HERE / "indices.cpp", program, "-fsanitize=undefined", *includes)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert int(done.stdout.split()[0]) > 60
