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
from trajgru_ext.ops._catalog import cases
from trajgru_ext.ops._samples import Samples

SANITIZERS = {
    "plain": [],
    "address": ["-fsanitize=address"],
    "thread": ["-fsanitize=thread"],
}
INCLUDES = [f"-isystem{path}" for path in cpp_extension.include_paths()]


def run(
    folder: Path, plant: str, sanitizer: str, executor: str, source: str = "planted"
):
    program = folder / source
    options = ["-g", "-O1", f"-DPLANT_{plant}=1", *SANITIZERS[sanitizer]]
    compile_host(HERE / f"{source}.cu", program, *options, *INCLUDES)
    environment = {**os.environ, "TRAJGRU_EMULATION": executor}
    environment.pop("LD_PRELOAD", None)
    return subprocess.run(
        [program], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("executor", ["fibers", "shuffled", "threads"])
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


@pytest.mark.parametrize(
    ("sanitizer", "executor"), [("address", "fibers"), ("thread", "threads")]
)
def test_fragments_multiply(tmp_path, sanitizer, executor):
    """Sums of sixteen products and 1 in float32, of operands as the hardware has them.

    TF32's ten bits are taken to the nearest, of two to that further from zero.
    """
    done = run(tmp_path, "NOTHING", sanitizer, executor, "fragments")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    errors = dict(zip(words[:6:2], map(float, words[1:6:2]), strict=True))
    assert errors.keys() == {"half", "bfloat16", "tf32"}
    assert max(errors.values()) < 4
    assert [float(one) for one in words[7:]] == [1 + 2**-10, -1]


def test_a_fragment_of_what_another_warp_writes_is_a_race(tmp_path):
    done = run(tmp_path, "MISSING_BARRIER", "thread", "threads", "fragments")
    assert done.returncode == 66
    assert "ThreadSanitizer: data race" in done.stderr
    assert "load_matrix_sync" in done.stderr


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        ("MISSING_BARRIER", "half nan bfloat16 nan tf32 nan"),
        ("MISALIGNED", "emulation: a fragment that is not aligned"),
        ("MUCH_SHARED_MEMORY", "more shared memory than a block may have"),
    ],
)
def test_faults_with_fragments_show(tmp_path, plant, said):
    done = run(tmp_path, plant, "plain", "fibers", "fragments")
    assert said in done.stdout


class Unwritten(Samples):
    """Tensors that nobody writes to: they cost nothing, however large they are."""

    fixed_order = True

    def tensor(self, *shape, dtype="same"):
        # Sums that threads add to in any order would be zeroed, and so written to.
        return self.empty(shape, self.dtype).requires_grad_(self.fixed_order)

    def flow(self, *shape):
        return self.empty(shape, torch.float32).requires_grad_()

    def empty(self, shape, dtype):
        layout = self.layout if len(shape) == 4 else torch.contiguous_format
        return torch.empty(shape, dtype=dtype, device=self.device, memory_format=layout)


def is_differentiable(one):
    return isinstance(one, Tensor) and one.requires_grad


# Products of matrices are not ours to launch.
LAUNCHED = [case for case in cases() if not case.operator.products]


# The largest image of each has more than 2^31 elements.
@pytest.mark.parametrize("elements", [0, 1, 96, 2**31 + 96])
@pytest.mark.parametrize("planes", [True, False], ids=["planes", "channels_last"])
@pytest.mark.parametrize("case", LAUNCHED, ids=[case.title for case in LAUNCHED])
@pytest.mark.parametrize("backend", ["cuda-emulated"], indirect=True)
def test_every_launch_is_within_the_limits(
    monkeypatch, backend, case, elements, planes
):
    """Nothing is executed, and memory that nobody touches costs nothing."""
    monkeypatch.setenv("TRAJGRU_EMULATION", "none")
    dtype = torch.bfloat16 if case.operator.fixed_order else torch.float32
    layout = torch.contiguous_format if planes else torch.channels_last

    def sample(pixels):
        sizes = {"B": min(elements, 1), "C": 3, "F": 1, "H": 1, "W": pixels}
        source = Unwritten(sizes, case.choices, dtype, backend.device, layout)
        source.fixed_order = case.operator.fixed_order
        return case.operator.sample(source)

    tensors = [one for one in tree_leaves(sample(1)) if isinstance(one, Tensor)]
    largest = max(one.shape[1] for one in tensors if one.dim() == 4)
    given = sample(max(1, -(-elements // largest)))
    found = case.operator.call(trajgru_ext, given)
    leaves = [one for one in tree_leaves(given) if is_differentiable(one)]
    torch.autograd.grad(found, leaves, [torch.empty_like(one) for one in found])


def test_index_functions_past_2_to_the_32(tmp_path):
    """Nothing is allocated: what the kernels compute is where they would read."""
    program = tmp_path / "indices"
    compile_host(HERE / "indices.cpp", program, "-fsanitize=undefined", *INCLUDES)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert int(done.stdout.split()[0]) > 60
