"""conv2d: torch's results, gradients and errors, whichever way it is computed."""

import pytest
import torch
from autograd_checks import opcheck
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from trajgru_ext import _C, conv2d, conv_algorithm

pytestmark = pytest.mark.kernels

KERNELS = [(3, 3), (5, 5), (1, 3), (1, 5), (1, 7), (3, 1), (5, 1), (7, 1)]
# Relative to the largest sum of absolute products that a result is made of; the
# docstring of conv_algorithm says so for the square ones.
BOUND = {3: 1e-6, 5: 4e-6, 7: 4e-6}
DTYPES = {
    torch.float32: 1.0,  # times the bound
    torch.bfloat16: 2.0**-8 / 1e-6,
    torch.float16: 2.0**-11 / 1e-6,
}
FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(autouse=True)
def by_winograd():
    """Wherever it is possible, that it is tried on few channels."""
    with conv_algorithm("winograd"):
        yield


def operands(b, c, o, h, w, kernel, dtype=torch.float32, layout=FORMATS[0]):
    generator = torch.Generator().manual_seed(b + c + o + h + w)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    scale = (c * kernel[0] * kernel[1]) ** -0.5
    x = normal(b, c, h, w).to(dtype).contiguous(memory_format=layout)
    return [x, (scale * normal(o, c, *kernel)).to(dtype), normal(o).to(dtype)]


def values_and_gradients(f, tensors, seed):
    leaves = [one.detach().requires_grad_() for one in tensors]
    output = f(*leaves)
    gradients = torch.autograd.grad(output, leaves, seed.to(output))
    return [output.detach(), *gradients]


def assert_like_torch(tensors, padding):
    """As exact as conv_algorithm says, and in torch's dtype and memory format."""
    kernel = tensors[1].shape[2:]
    dtype = tensors[0].dtype
    bound = BOUND[max(kernel)] * DTYPES[dtype]

    def torchs(*operands):
        return F.conv2d(*operands, padding=padding)

    like = torchs(*tensors)
    seed = torch.randn(like.shape, generator=torch.Generator().manual_seed(1))
    seed = seed.to(dtype)
    got = values_and_gradients(
        lambda *operands: conv2d(*operands, padding=padding), tensors, seed
    )
    plain = values_and_gradients(torchs, tensors, seed)
    wanted = values_and_gradients(torchs, [t.double() for t in tensors], seed)
    size = values_and_gradients(torchs, [t.double().abs() for t in tensors], seed.abs())
    for one, other, exact, magnitude in zip(got, plain, wanted, size, strict=True):
        assert (one.shape, one.dtype) == (other.shape, dtype)
        error = (one.double() - exact).abs()
        if error.numel():
            assert error.max() <= bound * magnitude.max()
    assert got[0].stride() == like.stride()
    ours = conv2d(*tensors, padding=padding)
    if dtype == torch.float32 and ours.numel() > 1000 and max(padding) < min(kernel):
        assert not torch.equal(ours, like)  # it was Winograd's


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_cpu_kernels_and_paddings(kernel, layout):
    rows, columns = kernel
    tensors = operands(2, 33, 50, 18, 13, kernel, layout=layout)
    for padding in {
        (rows // 2, columns // 2),
        (0, 0),
        (rows - 1, columns - 1),
        (rows // 2, 0),
    }:
        assert_like_torch(tensors, padding)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float64, torch.int32])
def test_cpu_dtypes_that_torch_convolves(dtype, threads):
    """Few products, which one thread has sooner, and more."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for side in (8, 80):
            x, w = (torch.ones(2, 8, n, n).to(dtype) for n in (side, 3))
            w = w.expand(2, 8, 3, 3)
            wanted = F.conv2d(x, w, padding=1)
            torch.testing.assert_close(conv2d(x, w, padding=1), wanted)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_few_products_keep_the_threads(threads):
    """Also where torch raises an error."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        conv2d(torch.ones(1, 8, 6, 6), torch.ones(8, 8, 3, 3), padding=1)
        assert torch.get_num_threads() == threads
        with pytest.raises(RuntimeError):
            conv2d(torch.ones(1, 8, 6, 6), torch.ones(8, 8, 3, 3), torch.ones(7))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 1)])
def test_cpu_short_dtypes(kernel, dtype):
    assert_like_torch(operands(2, 16, 20, 9, 11, kernel, dtype), (1, 0))


@given(
    sizes=st.tuples(
        st.integers(0, 3),
        *(st.sampled_from([1, 2, 8, 17, 33]) for _ in range(2)),
        *(st.integers(1, 14) for _ in range(2)),
    ),
    kernel=st.sampled_from(KERNELS),
    padding=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    layout=st.sampled_from(FORMATS),
)
@settings(max_examples=150, deadline=None)
def test_cpu_any_sizes(sizes, kernel, padding, layout):
    b, c, o, h, w = sizes
    tensors = operands(b, c, o, h, w, kernel, layout=layout)
    try:
        F.conv2d(*tensors, padding=padding)
    except RuntimeError as error:
        with pytest.raises(RuntimeError) as ours:
            conv2d(*tensors, padding=padding)
        assert str(ours.value) == str(error)
    else:
        assert_like_torch(tensors, padding)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 2},
        {"stride": (2, 1)},
        {"dilation": 2},
        {"groups": 2},
        {"padding": "same"},
        {"padding": "valid"},
        {"padding": "same", "dilation": 2},
        {"stride": [1, 1], "padding": [1, 1]},
        {"padding": (7, 7)},
        {"bias": None},
    ],
    ids=str,
)
def test_cpu_whatever_torch_takes(change):
    x, weight, bias = operands(2, 8, 6, 9, 10, (3, 3))
    if change.get("groups"):
        weight = weight[:, :4]
    arguments = {"bias": bias, **change}
    got = conv2d(x, weight, **arguments)
    wanted = F.conv2d(x, weight, **arguments)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    wide = [one.double() for one in (x, weight)]
    if weight.shape[1] == 8:
        assert torch.equal(conv2d(*wide), F.conv2d(*wide))
    one = conv2d(x[0], weight, **arguments)  # without a batch
    torch.testing.assert_close(one, wanted[0], rtol=1e-5, atol=1e-5)
    sliced = conv2d(x[:, :, 1:, ::2], weight, **arguments)
    wanted = F.conv2d(x[:, :, 1:, ::2], weight, **arguments)
    torch.testing.assert_close(sliced, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x, w, b: (x[:, 1:], w, b),
        lambda x, w, b: (x, w.double(), b),
        lambda x, w, b: (x, w, b[1:]),
        lambda x, w, b: (x, w, b.double()),
        lambda x, w, b: (x[..., :1, :1], w, b),
        lambda x, w, b: (x, w[0], b),
        lambda x, w, b: (x, None, b),
        lambda x, w, b: ([x], w, b),
        lambda x, w, b: (x, w, b, "two"),
        lambda x, w, b: (x, w, b, 1, -1),
        lambda x, w, b: (x, w, b, 1, (1, 1, 1)),
        lambda x, w, b: (x, w, b, 0),
    ],
)
def test_cpu_errors_are_torchs(spoil):
    arguments = spoil(*operands(2, 8, 6, 9, 10, (3, 3)))
    with pytest.raises(Exception) as wanted:
        F.conv2d(*arguments)
    with pytest.raises(wanted.type) as got:
        conv2d(*arguments)
    # What the signature's own message shows of the arguments includes the defaults.
    said = str(wanted.value).partition("(")[0]
    assert str(got.value).startswith(said)
    if wanted.type is not TypeError:
        assert str(got.value) == str(wanted.value)


def test_cpu_where_it_pays():
    """By sizes and instructions alone; the result says which way it went."""
    baseline = _C.facts()["cpu_capability"] == "DEFAULT"
    with conv_algorithm("auto"):
        tensors = operands(1, 64, 64, 32, 32, (3, 3))
        fast = conv2d(*tensors, padding=1)
        with conv_algorithm("direct"):
            direct = conv2d(*tensors, padding=1)
        assert torch.equal(fast, direct) == baseline
        tensors = operands(1, 4, 8, 32, 32, (3, 3))
        assert torch.equal(conv2d(*tensors, padding=1), F.conv2d(*tensors, padding=1))


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5)])
def test_cpu_derivatives_of_any_order(kernel):
    x, weight, bias = operands(1, 3, 2, 5, 6, kernel)
    leaves = [one.requires_grad_() for one in (x, weight, bias)]
    results = []
    for f in (conv2d, F.conv2d):
        output = f(*leaves, padding=(kernel[0] // 2, 1))
        first = torch.autograd.grad(output.sin().sum(), leaves, create_graph=True)
        energy = sum(one.square().sum() for one in first)
        second = torch.autograd.grad(energy, leaves, create_graph=True)
        third = torch.autograd.grad(sum(one.sum() for one in second), leaves)
        results.append([*first, *second, *third])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_cpu_transforms_are_torchs():
    x, weight, bias = operands(2, 3, 2, 5, 6, (3, 3))
    for transform in (
        lambda f: torch.func.grad(lambda w: f(x, w, bias).sin().sum())(weight),
        lambda f: torch.func.vmap(lambda w: f(x, w, bias))(
            weight.expand(3, -1, -1, -1, -1)
        ),
        lambda f: torch.func.jvp(lambda w: f(x, w, bias), (weight,), (weight,))[1],
        lambda f: torch.func.hessian(lambda b: f(x, weight, b).sin().sum())(bias),
    ):
        torch.testing.assert_close(transform(conv2d), transform(F.conv2d))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cpu_autocast(dtype):
    tensors = [one.requires_grad_() for one in operands(2, 16, 20, 9, 11, (3, 3))]
    found = []
    for f in (conv2d, F.conv2d):
        with torch.autocast("cpu", dtype):
            output = f(*tensors, padding=1)
        assert output.dtype == dtype
        found.append([output, *torch.autograd.grad(output.float().sum(), tensors)])
    for got, wanted in zip(*found, strict=True):
        assert got.dtype == wanted.dtype
        error = (got.double() - wanted.double()).norm() / wanted.double().norm()
        assert error < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("kernel", [(3, 3), (7, 1)])
def test_cpu_operator_is_right_for_compilers(kernel):
    x, weight, bias = operands(2, 8, 6, 9, 10, kernel)
    padding = [k // 2 for k in kernel]
    leaves = [one.requires_grad_() for one in (x, weight, bias)]
    opcheck(torch.ops.trajgru_ext.conv2d.default, (*leaves, padding))
    leaves[0] = x.detach().contiguous(memory_format=torch.channels_last)
    arguments = (*leaves[:2], None, padding)
    opcheck(torch.ops.trajgru_ext.conv2d.default, arguments)


def test_cpu_counts_as_torchs():
    from torch.utils.flop_counter import FlopCounterMode

    tensors = [one.requires_grad_() for one in operands(2, 8, 6, 9, 10, (3, 3))]
    counts = []
    for f in (conv2d, F.conv2d):
        with FlopCounterMode(display=False) as counter:
            f(*tensors, padding=1).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_cpu_same_bits_for_any_number_of_threads():
    tensors = operands(3, 40, 70, 21, 19, (5, 5))
    seed = torch.randn(3, 70, 21, 19)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.append(
                values_and_gradients(
                    lambda *one: conv2d(*one, padding=2), tensors, seed
                )
            )
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


def test_cpu_a_nan_stays_in_its_tile():
    x, weight, _ = operands(1, 8, 4, 12, 12, (3, 3))
    x[0, 0, 1, 1] = float("nan")
    bad = conv2d(x, weight, padding=1).isnan().any(1)[0]
    assert bad[:3, :3].all()
    assert not bad[4:].any()
    assert not bad[:, 4:].any()
