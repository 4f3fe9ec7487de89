"""Packed weights are those of the weights' contents, whoever changed them and how."""

import copy
import gc
import io
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile

from trajgru_ext import conv2d, conv_algorithm, packed_weights
from trajgru_ext.nn import Conv2d, ConvGRU, ConvLSTM

pytestmark = pytest.mark.kernels
LIMIT = 1 << 30


@pytest.fixture(autouse=True)
def by_winograd():
    gc.collect()
    with conv_algorithm("winograd"), packed_weights(LIMIT):
        yield


def fresh(layer: nn.Module) -> nn.Module:
    """The same layer, whose weights were never packed."""
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for one in other.parameters():
            one.set_(one.detach().clone())
    return other


def add(layer, other):
    with torch.no_grad():
        layer.weight.add_(0.5)


def by_data(layer, other):
    layer.weight.data[0, 0, 0, 0] += 1


def swap_two(layer, other):
    """Which no sum of the contents tells."""
    flat = layer.weight.data.view(-1)
    flat[[3, 700]] = flat[[700, 3]].clone()


def swap_rows(layer, other):
    layer.weight.data[[0, 5]] = layer.weight.data[[5, 0]].clone()


def negate(layer, other):
    layer.weight.data.neg_()


def by_numpy(layer, other):
    layer.weight.detach().numpy()[1, 2] *= 3


def by_a_view(layer, other):
    layer.weight.detach()[2:3].mul_(2)


def averaged(layer, other):
    layer.weight.data.lerp_(other.weight.data, 0.01)


def loaded(layer, other):
    layer.load_state_dict(other.state_dict())


def assigned(layer, other):
    layer.load_state_dict(copy.deepcopy(other.state_dict()), assign=True)


def another_parameter(layer, other):
    layer.weight = nn.Parameter(other.weight.detach().clone())


def set_(layer, other):
    layer.weight.data = other.weight.detach().clone()


def optimised(layer, other):
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 8, 9, 9)).square().sum().backward()
    optimiser.step()


def last_bit(layer, other):
    bits = layer.weight.data.view(torch.int32)
    bits.view(-1)[-1] ^= 1


def nothing(layer, other):
    pass


def shared(layer, other):
    layer.share_memory()
    layer.weight.data.mul_(1.5)


WAYS = [
    add,
    by_data,
    swap_two,
    swap_rows,
    negate,
    by_numpy,
    by_a_view,
    averaged,
    loaded,
    assigned,
    another_parameter,
    set_,
    optimised,
    last_bit,
    nothing,
    shared,
]


@given(ways=st.lists(st.sampled_from(WAYS), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_cpu_never_stale(ways):
    torch.manual_seed(0)
    layer, other = Conv2d(8, 12, 3, padding=1), Conv2d(8, 12, 3, padding=1)
    x = torch.randn(2, 8, 9, 11)
    for way in ways:
        layer(x)
        way(layer, other)
        wanted = fresh(layer)
        leaf, same = (x.clone().requires_grad_() for _ in range(2))
        got = layer(leaf)
        with packed_weights(0):
            expected = wanted(same)
            expected.sum().backward()
        got.sum().backward()
        assert torch.equal(got, expected)
        assert torch.equal(leaf.grad, same.grad)


@pytest.mark.parametrize("kind", [ConvLSTM, ConvGRU])
def test_cpu_sequences_too(kind):
    layer = kind(8, 12, 3)
    x = torch.randn(3, 2, 8, 9, 11)
    for way in (by_data, negate, last_bit):
        layer(x)
        for conv in (one for one in layer.modules() if isinstance(one, nn.Conv2d)):
            way(conv, conv)
        assert torch.equal(layer(x)[0], fresh(layer)(x)[0])


def test_cpu_under_inference_mode():
    layer, x = Conv2d(8, 12, 3), torch.randn(2, 8, 9, 11)
    with torch.inference_mode():
        weight = layer.weight.clone()
        first = layer(x)
    leaf = x.clone().requires_grad_()
    second = layer(leaf)
    assert torch.equal(first, second)
    second.sum().backward()
    with torch.inference_mode():
        weight.mul_(2)
        layer.weight.data = weight.clone()
        assert torch.equal(layer(x), fresh(layer)(x))


def test_cpu_kept_once_and_freed_with_the_weight():
    before = packed_weights.kept()
    layer, x = Conv2d(8, 12, 3), torch.randn(2, 8, 9, 11)
    layer(x)
    kept = packed_weights.kept() - before
    assert kept > 0
    layer(x)
    copies = [copy.deepcopy(layer) for _ in range(3)]
    for one in copies:
        one(x)
    assert packed_weights.kept() - before == kept  # equal weights share it
    del layer, one
    gc.collect()
    assert packed_weights.kept() - before == kept
    copies.clear()
    gc.collect()
    assert packed_weights.kept() == before


def test_cpu_contents_that_return_are_packed_no_more():
    """Those of a spectral norm, say, which are computed anew for every use."""
    layer, x = Conv2d(8, 12, 3), torch.randn(2, 8, 9, 11)
    before = packed_weights.kept()
    layer(x)
    size = packed_weights.kept() - before
    weights = [torch.randn(12, 8, 3, 3) for _ in range(3)]

    def packings() -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            for weight in weights:
                conv2d(x, weight / 1.5)
        return sum(one.self_cpu_memory_usage == size for one in found.events())

    assert [packings() for _ in range(4)] == [3, 3, 0, 0]
    weights[0].mul_(1.5)
    assert [packings() for _ in range(2)] == [1, 0]
    assert packed_weights.kept() - before == size  # nothing stays without a weight


def test_cpu_weights_computed_in_training_are_kept_where_they_return():
    weight = torch.randn(12, 8, 3, 3, requires_grad=True)
    x = torch.randn(2, 8, 9, 11, requires_grad=True)
    before = packed_weights.kept()
    held = []
    for step in range(3):
        held.append(weight * (1 + step))
        y = conv2d(x, held[-1])
        found = torch.autograd.grad(y.sum(), [x, weight])
        with packed_weights(0):
            z = conv2d(x, weight * (1 + step))
            wanted = torch.autograd.grad(z.sum(), [x, weight])
        assert torch.equal(y, z)
        assert all(map(torch.equal, found, wanted))
    assert packed_weights.kept() == before
    conv2d(x, held[-1])
    assert packed_weights.kept() > before


def test_cpu_few_pixels_pay_no_packing_for_one_use():
    weight = torch.randn(32, 32, 3, 3, requires_grad=True)
    x = torch.randn(1, 32, 16, 16, requires_grad=True)
    with conv_algorithm("auto"):
        for image in (x, x[:, :, 1:]):
            got = conv2d(image, weight * 1.5, padding=1)
            wanted = nn.functional.conv2d(image, weight * 1.5, padding=1)
            assert torch.equal(got, wanted)
            (found,) = torch.autograd.grad(got.sum(), [x])
            (expected,) = torch.autograd.grad(wanted.sum(), [x])
            assert torch.equal(found, expected)


def test_cpu_old_contents_are_dropped():
    before = packed_weights.kept()
    layer, x = Conv2d(8, 12, 3), torch.randn(2, 8, 9, 11)
    layer(x)
    kept = packed_weights.kept() - before
    for _ in range(20):
        layer.weight.data.add_(1)
        layer(x)
    assert packed_weights.kept() - before == kept


def test_cpu_computed_weights_leave_nothing():
    before = packed_weights.kept()
    layer = nn.utils.parametrizations.weight_norm(Conv2d(8, 12, 3))
    x = torch.randn(2, 8, 9, 11)
    with torch.no_grad():
        results = [layer(x) for _ in range(300)]
    assert all(torch.equal(one, results[0]) for one in results)
    assert packed_weights.kept() == before


def test_cpu_limit():
    layers, x = [Conv2d(8, 12, 3) for _ in range(4)], torch.randn(2, 8, 9, 11)
    with packed_weights(0):
        gc.collect()
        for one in layers:
            one(x)
        assert packed_weights.kept() == 0
    layers[0](x)
    size = packed_weights.kept()
    with packed_weights(2 * size):
        for one in layers:
            one(x)
        assert packed_weights.kept() == 2 * size
    with packed_weights(size - 1):
        assert packed_weights.kept() == 0
        layers[0](x)
        assert packed_weights.kept() == 0


def test_limit_is_a_number_of_bytes():
    with pytest.raises(TypeError, match="limit must be an integer, got str"):
        packed_weights("1 GiB")
    with pytest.raises(ValueError, match="limit must be at least 0, got -1"):
        packed_weights(-1)


def test_cpu_several_threads():
    """While one of them changes the weights that only it uses."""
    shared, x = Conv2d(8, 12, 3), torch.randn(2, 8, 9, 11)
    wanted, failures = shared(x).detach(), []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        own = Conv2d(8, 12, 3)
        for _ in range(40):
            own.weight.data.copy_(torch.randn(own.weight.shape, generator=generator))
            with torch.no_grad():
                if not torch.equal(own(x), fresh(own)(x)):
                    failures.append("own")
                if not torch.equal(shared(x), wanted):
                    failures.append("shared")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failures


def test_cpu_copies_and_pickles_carry_nothing():
    layer, x = Conv2d(8, 12, 3), torch.randn(2, 8, 9, 11)
    file, plain = io.BytesIO(), io.BytesIO()
    torch.save(layer.state_dict(), plain)
    layer(x)
    torch.save(layer.state_dict(), file)
    assert len(file.getvalue()) == len(plain.getvalue())
