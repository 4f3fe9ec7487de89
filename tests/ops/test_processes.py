"""The operators in forked workers, in many threads, short of memory, and at exit."""

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fuzz_arguments import NAMES, Drawn
from test_fuzz import derivatives
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset

import trajgru_ext
from trajgru_ext.ops._catalog import OPERATORS

CASES = [(name, seed) for name in NAMES for seed in range(4)]


def results(case: tuple[str, int]) -> list[torch.Tensor]:
    """Values and gradients of a case, always the same."""
    name, seed = case
    drawn = Drawn(seed, name)
    arguments = drawn.arguments()
    with torch.no_grad():
        plain = OPERATORS[name].call(trajgru_ext, arguments)
    seeds = [drawn.numbers(*one.shape, dtype=one.dtype, plant=False) for one in plain]
    values, gradients = derivatives(trajgru_ext, name, arguments, seeds)
    return values + gradients


def large_warp(_: object = None) -> torch.Tensor:
    """What more than one thread works on."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 64, 48, 48, generator=generator)
    flow = torch.randn(2, 2, 48, 48, generator=generator)
    return trajgru_ext.flow_warp(image, flow)


def assert_same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


class Computed(Dataset):
    """Each sample is computed by the operators, where it is asked for."""

    def __len__(self) -> int:
        return len(CASES)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return [large_warp(), *results(CASES[index])]


def compare_forked_workers() -> None:
    """Also after threads have been at work in the process that is forked."""
    wanted = [[large_warp(), *results(case)] for case in CASES]
    options = {"num_workers": 2, "multiprocessing_context": "fork", "timeout": 120}
    loader = DataLoader(Computed(), batch_size=None, **options)
    for got, want in zip(loader, wanted, strict=True):
        assert_same(got, want)
    assert_same([large_warp()], wanted[0][:1])


def test_many_threads():
    wanted = [results(case) for case in CASES]
    warped = large_warp()
    with ThreadPoolExecutor(6) as pool:
        found = pool.map(results, CASES * 3)
        for got in pool.map(large_warp, range(12)):
            assert torch.equal(got, warped)
    for got, want in zip(found, wanted * 3, strict=True):
        assert_same(got, want)


def python(script: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300
    )


LIMITED = """
    import ctypes, resource, torch, trajgru_ext
    from trajgru_ext import *

    # Every tensor is asked of the system, and none made of what others left.
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD

    def image(*sizes):
        return torch.linspace(-1, 1, sizes[-1]).expand(sizes).contiguous()

    x, flow, gates = image(2, 16, 96, 96), image(2, 2, 96, 96), image(2, 64, 96, 96)
    weight, inputs = image(64, 16, 3, 3) / 9, image(3, 2, 16, 96, 96)
    calls = {
        "flow_warp": lambda x: flow_warp(x, flow),
        "flow_conv": lambda x: flow_conv(x, flow, weight[:, :, 0, 0].contiguous()),
        "lstm_gates": lambda x: lstm_gates(gates, None, x)[0],
        "conv_lstm": lambda x: conv_lstm(inputs, x, x, weight, weight)[0],
        "sk_select": lambda x: sk_select([x, 2 * x], gates[:, :2, 0, :16].contiguous()),
        "pyramid": lambda x: spatial_pyramid_pool(x, 4),
    }

    def derivatives(call):
        leaf = x.detach().requires_grad_()
        result = call(leaf)
        return [result.detach(), *torch.autograd.grad(result.sum(), leaf)]

    wanted = {name: derivatives(call) for name, call in calls.items()}
    before = [one.clone() for one in (x, flow, gates, weight, inputs)]
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    failed = {name: 0 for name in calls}
    for spare in range(0, 48, 2):  # MiB
        resource.setrlimit(resource.RLIMIT_AS, (used + (spare << 20), -1))
        for name, call in calls.items():
            try:
                got = derivatives(call)
            except (MemoryError, RuntimeError) as error:
                assert "memory" in str(error) or "alloc" in str(error), error
                failed[name] += 1
            else:
                assert all(map(torch.equal, got, wanted[name])), name
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    assert all(map(torch.equal, before, (x, flow, gates, weight, inputs)))
    for name, call in calls.items():
        assert all(map(torch.equal, derivatives(call), wanted[name])), name
    print(failed)
    assert all(failed.values()), failed
"""


def test_forked_workers():
    """In a process of its own: one that differentiates on a device cannot be forked."""
    done = python(f"""
        import sys
        sys.path[:] = {sys.path!r}
        from test_processes import compare_forked_workers
        compare_forked_workers()
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of Linux")
def test_failed_allocations_are_errors_and_leave_all_as_it_was():
    """Whichever allocation of a call it is that fails."""
    done = python(LIMITED)
    assert done.returncode == 0, done.stdout + done.stderr


def test_imported_again():
    script = """
        import sys, torch, trajgru_ext
        x, flow = torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2, 2)
        for name in [name for name in sys.modules if name.startswith("trajgru_ext")]:
            del sys.modules[name]
        first = trajgru_ext
        import trajgru_ext
        assert trajgru_ext is not first
        leaf = x.requires_grad_()
        trajgru_ext.flow_warp(leaf, flow).sum().backward()
        assert torch.equal(leaf.grad, x)
        assert torch.equal(first.flow_warp(x, flow), x)
    """
    done = python(script)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    torch.__version__.startswith("2.12."),
    reason="torch 2.12 aborts then in some runs, with its own operators, too",
)
def test_exit_while_a_backward_pass_is_pending():
    """In a thread that is at it when the main one ends, and as one that never runs.

    Not in a daemon thread: that aborts with torch's own operators, too.
    """
    script = """
        import threading, torch, trajgru_ext
        x = torch.ones(2, 16, 64, 64, requires_grad=True)
        flow = torch.zeros(2, 2, 64, 64)
        pending = trajgru_ext.flow_warp(x, flow).sum()
        begun = threading.Event()

        def work():
            for _ in range(50):
                trajgru_ext.flow_warp(x, flow).sum().backward()
                begun.set()
            assert (x.grad == 50).all()
            print("done")

        threading.Thread(target=work).start()
        begun.wait()
    """
    done = python(script)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_no_argument_is_written_to():
    for name, seed in CASES:
        arguments = Drawn(seed, name).arguments()
        tensors = [a for a in tree_leaves(arguments) if isinstance(a, torch.Tensor)]
        before = [one.clone() for one in tensors]
        OPERATORS[name].call(trajgru_ext, arguments)
        assert_same(tensors, before)
