"""The emulated device finds the faults of host code that it is there to find."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulation import device

TESTS = Path(__file__).parents[1]


pytestmark = pytest.mark.usefixtures("emulated_devices")


def numbers(on="emulated:0"):
    return torch.arange(100.0).to(on)


def plant(fault="nothing", source=None, to=None):
    source = numbers() if source is None else source
    to = torch.empty_like(source) if to is None else to
    torch.ops.emulated.plant(source, to, fault)
    return to


# Pointers among a kernel's arguments, and within a struct that is one.
LAUNCHES = "nothing", "nothing, by a struct"


@pytest.mark.parametrize("on", ["emulated:0", "emulated:1"])
@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_right_launch_passes(on, launch):
    assert torch.equal(plant(launch, numbers(on)).cpu(), torch.arange(100.0))


@pytest.mark.parametrize(
    "fault, message",
    [
        ("memory of the host", "is given memory of the host"),
        ("a dead temporary", "is given memory that was freed"),
    ],
)
def test_wrong_memory_is_an_error(fault, message):
    with pytest.raises(RuntimeError, match=message):
        plant(fault)


def test_memory_of_the_other_device_is_an_error():
    with pytest.raises(RuntimeError, match="emulated:0 is given memory of emulated:1"):
        plant(source=numbers("emulated:1"), to=numbers("emulated:0"))


def test_a_missing_device_guard_is_an_error():
    with pytest.raises(RuntimeError, match="emulated:0 is given memory of emulated:1"):
        plant("no guard", numbers("emulated:1"))
    with torch.accelerator.device_index(1):
        plant("no guard", numbers("emulated:1"))


def test_operators_of_torch_refuse_tensors_of_other_devices():
    with pytest.raises(RuntimeError, match="tensors of both devices"):
        numbers("emulated:0").dot(numbers("emulated:1"))
    with pytest.raises(RuntimeError, match="a tensor of cpu"):
        numbers().dot(numbers("cpu"))
    assert (numbers() + torch.tensor(1.0)).device == torch.device("emulated:0")


HOST, KERNEL = "the host accessed memory of", "a kernel accessed memory of"
CRASHES = {
    "a read by the host": ("emulated:0", f"{HOST} emulated:0, which only its kernels"),
    "a write by the host": ("emulated:0", f"{HOST} emulated:0, which only its kernels"),
    "a hidden address": ("emulated:1", f"{KERNEL} emulated:1, which is another device"),
    "an address of nothing": ("emulated:0", f"{KERNEL} emulated:0 outside of all tens"),
}


@pytest.mark.parametrize("fault", CRASHES)
def test_memory_that_is_out_of_reach_ends_the_process(fault):
    """Of the host's, and of kernels' whose launch could not see the address."""
    source, said = CRASHES[fault]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from emulation import test_device as t\n"
        "t.device.load(); t.plant(); t.torch.accelerator.synchronize()\n"
        "source, to = t.numbers(sys.argv[3]), t.numbers()\n"
        "print('so far'); sys.stdout.flush(); t.plant(sys.argv[2], source, to)\n"
        "t.torch.accelerator.synchronize()"
    )
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    environment.pop("TRAJGRU_SANITIZER", None)
    done = subprocess.run(
        [sys.executable, "-c", code, TESTS, fault, source],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "so far\n", done.stderr
    assert done.returncode < 0
    assert f"emulated: {said}" in done.stderr


def test_the_default_stream_in_place_of_the_current_one_is_an_error():
    source, other = numbers(), torch.Stream("emulated:0")
    other.wait_stream(torch.accelerator.current_stream())
    with other, pytest.raises(RuntimeError, match=r"stream 0 .* is the current one"):
        plant("the default stream", source)


def test_kernels_run_as_late_as_they_can():
    """Nothing has run until somebody waits, so that who does not wait has nothing."""
    source, to = numbers(), numbers().zero_()
    other = torch.Stream("emulated:0")
    other.wait_stream(torch.accelerator.current_stream())
    with other:
        plant(source=source, to=to)
        event = other.record_event()
    current = torch.accelerator.current_stream()
    current.wait_event(event)
    assert torch.equal(to.cpu(), torch.arange(100.0))


# What follows a kernel on another stream that reads its source and writes its target.
MISSED = {
    "a kernel reads": lambda launch, source, to: plant(launch, to),
    "a kernel writes, too": lambda launch, source, to: plant(launch, numbers(), to),
    "a kernel writes what is read": (
        lambda launch, source, to: plant(launch, numbers(), source)
    ),
    "torch reads": lambda launch, source, to: to.sum(),
    "torch writes what is read": lambda launch, source, to: source.zero_(),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("what", MISSED)
def test_a_missing_event_is_an_error(what, launch, seed):
    source, to = numbers(), numbers().zero_()
    other = torch.Stream("emulated:0")
    torch.accelerator.synchronize()
    with device.shuffled(seed):
        with other:
            plant(launch, source, to)
        with pytest.raises(RuntimeError, match="without an event between them"):
            MISSED[what](launch, source, to)
        torch.accelerator.current_stream().wait_stream(other)
        MISSED[what](launch, source, to)
        assert to.sum().item() == 4950


def test_an_operator_of_torch_without_an_event_is_an_error():
    x, other = numbers(), torch.Stream("emulated:0")
    torch.accelerator.synchronize()
    with other:
        x += 1
    for uses in (lambda: x.sum(), lambda: plant(source=x)):
        with pytest.raises(RuntimeError, match="without an event between them"):
            uses()
    other.synchronize()
    assert x.sum().item() == 5050


@pytest.mark.parametrize("launch", LAUNCHES)
def test_streams_that_read_the_same_memory_need_no_event(launch):
    source, other = numbers(), torch.Stream("emulated:0")
    targets = [numbers().zero_() for _ in range(2)]
    torch.accelerator.synchronize()
    with other:
        plant(launch, source, targets[0])
    plant(launch, source, targets[1])
    assert source.sum().item() == 4950
    torch.accelerator.synchronize()
    assert [one.sum().item() for one in targets] == [4950, 4950]


def test_memory_freed_while_another_stream_uses_it_is_an_error():
    other = torch.Stream("emulated:0")
    source, to = numbers(), numbers()
    torch.accelerator.synchronize()
    with other:
        plant(source=source, to=to)
    del source
    with pytest.raises(RuntimeError, match="freed while work on stream"):
        torch.accelerator.synchronize()
    torch.accelerator.synchronize()


@pytest.mark.parametrize("how", ["record_stream", "event"])
def test_memory_may_be_freed_by_the_rules(how):
    other = torch.Stream("emulated:0")
    source, to = numbers(), numbers()
    torch.accelerator.synchronize()
    with other:
        plant(source=source, to=to)
    if how == "event":
        torch.accelerator.current_stream().wait_stream(other)
    else:
        source.record_stream(other)
    del source
    more = [numbers().fill_(-1) for _ in range(9)]  # would be where it was
    other.synchronize()
    assert torch.equal(to.cpu(), torch.arange(100.0))
    del more


NOT_CAPTURED = {
    "a number": lambda x: x.sum().item(),
    "a copy to the host": lambda x: x.cpu(),
    "a copy from the host": lambda x: x.copy_(torch.zeros(100)),
    "a size that depends on numbers": lambda x: x[x > 3],
    "a mask, for what is written": lambda x: x.__setitem__(x > 3, x[:96]),
    "a mask of bytes": lambda x: x.__setitem__((x > 3).byte(), x[:96]),
    "the host waits": lambda x: torch.accelerator.synchronize(),
    "the host waits for a stream": (
        lambda x: torch.accelerator.current_stream().synchronize()
    ),
    "a kernel's caller waits": lambda x: plant(
        "a number that the host waits for", x, x
    ),
}


@pytest.mark.parametrize("what", NOT_CAPTURED)
def test_what_a_graph_cannot_hold_is_an_error(what):
    x = numbers()
    with device.captured():
        plant(source=x * 2)
        with pytest.raises(RuntimeError, match="while a stream is captured"):
            NOT_CAPTURED[what](x)


CAPTURED = {
    "an index": lambda x, k: x[k],
    "an index, for what is written": lambda x, k: x.__setitem__(k, x[:2] * 2),
    "a number, where a mask is set": lambda x, k: x.__setitem__(x > 3, 7),
}


@pytest.mark.parametrize("what", CAPTURED)
def test_what_a_graph_can_hold(what):
    x, k = numbers(), torch.tensor([3, 5], device="emulated")
    with device.captured():
        CAPTURED[what](x, k)


def test_memory_outside_the_pool_of_a_capture_is_an_error():
    other = torch.Stream("emulated:0")
    with device.captured():
        captured = torch.accelerator.current_stream()
        with other, pytest.raises(RuntimeError, match="outside the pool"):
            torch.empty(3, device="emulated")
        other.wait_stream(captured)
        with other:
            torch.empty(3, device="emulated")
        captured.wait_stream(other)


@pytest.mark.parametrize("on", ["emulated:0", "emulated:1"])
def test_a_capture_takes_streams_along_that_wait_for_it(on):
    x, other = numbers(), torch.Stream(on)
    with device.captured():
        captured, to = torch.accelerator.current_stream(), torch.empty_like(x)
        other.wait_stream(captured)
        if on == "emulated:0":
            with other:
                plant(source=x, to=to)
        captured.wait_stream(other)
        found = plant(source=x) if on == "emulated:1" else to + 0
    assert torch.equal(found.cpu(), torch.arange(100.0))


@pytest.mark.parametrize("works", [True, False])
def test_a_capture_that_ends_before_its_streams_is_an_error(works):
    """As work that is added after the capture has waited."""
    x, other = numbers(), torch.Stream("emulated:0")
    to = torch.empty_like(x)
    unjoined = pytest.raises(RuntimeError, match="does not wait for the work on stream")
    with unjoined, device.captured():
        captured = torch.accelerator.current_stream()
        other.wait_stream(captured)
        if works:
            captured.wait_stream(other)
            with other:
                plant(source=x, to=to)
    torch.accelerator.synchronize()


def test_a_capture_that_waits_for_other_work_is_an_error():
    other = torch.Stream("emulated:0")
    before = other.record_event()
    with device.captured():
        captured = torch.accelerator.current_stream()
        with pytest.raises(RuntimeError, match=r"waits for work on stream .* is not"):
            captured.wait_event(before)


def test_what_is_allocated_is_counted():
    """On each device by itself, until it is released, and at most."""
    counts = torch.emulated
    first, second = (counts.memory_allocated(f"emulated:{k}") for k in range(2))
    x = torch.empty(1 << 20, dtype=torch.uint8, device="emulated:1")
    y = torch.empty(1 << 18, device="emulated:1")
    assert counts.memory_allocated("emulated:1") == second + (2 << 20)
    del x
    assert counts.memory_allocated("emulated:1") == second + (1 << 20)
    assert counts.max_memory_allocated("emulated:1") >= second + (2 << 20)
    counts.reset_peak_memory_stats("emulated:1")
    assert counts.max_memory_allocated("emulated:1") == second + (1 << 20)
    y.resize_(1 << 19)  # both are there while the one is copied
    assert counts.max_memory_allocated(1) == second + (3 << 20)
    assert counts.memory_allocated() == counts.memory_allocated(0) == first


def test_random_numbers_are_the_device_s_own():
    torch.manual_seed(3)
    first, state = torch.rand(5, device="emulated"), torch.emulated.get_rng_state()
    second = torch.rand(5, device="emulated")
    torch.rand(5)
    torch.emulated.set_rng_state(state)
    assert torch.equal(torch.rand(5, device="emulated"), second)
    torch.manual_seed(3)
    torch.rand(7)
    assert torch.equal(torch.rand(5, device="emulated"), first)


@pytest.fixture
def _tf32_as_before():
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [one.allow_tf32 for one in backends]
    yield
    for one, allowed in zip(backends, before, strict=True):
        one.allow_tf32 = allowed


@pytest.mark.usefixtures("_tf32_as_before")
def test_operands_are_rounded_to_tf32_where_they_may_be():
    """To ten bits, the even neighbour where two are as near."""
    numbers = 1 + torch.tensor([1, 2, 3, 6]) * 2.0**-12
    ten_bits = 1 + torch.tensor([0, 0, 1, 2]) * 2.0**-10
    x, one = numbers.to("emulated"), torch.ones(1, 1, device="emulated")
    both = torch.backends.cudnn, torch.backends.cuda.matmul
    results = {
        both[0]: lambda: torch.conv1d(x.view(1, 1, 4), one[None]).flatten(),
        both[1]: lambda: (x.view(4, 1) @ one).flatten(),
    }
    for backend, result in results.items():
        for other in both:
            other.allow_tf32 = other is backend
        assert torch.equal(result().cpu(), ten_bits)
        backend.allow_tf32 = False
        assert torch.equal(result().cpu(), numbers)
        assert torch.equal(x.cpu(), numbers)


def test_an_operator_without_a_kernel_is_an_error():
    weight = torch.zeros(16, 16, 3, 3, device="emulated")
    with pytest.raises(RuntimeError, match="winograd_weights has no kernel for a dev"):
        torch.ops.trajgru_ext.winograd_weights([weight], False)
