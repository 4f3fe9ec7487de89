"""Sequences in half precision, which the CPU computes in float32 where it is faster."""

import pytest
import torch
from test_devices import CASES
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

import trajgru_ext
from trajgru_ext.ops._samples import Samples

pytestmark = pytest.mark.kernels

SEQUENCES = [case for case in CASES if case.operator.recurrent]
FORMATS = [torch.contiguous_format, torch.channels_last]
HALVES = [torch.bfloat16, torch.float16]
SIZES = {"T": 4, "B": 2, "C": 5, "F": 32, "G": 3, "L": 2, "H": 18, "W": 20}
each_case = pytest.mark.parametrize("case", SEQUENCES, ids=[c.title for c in SEQUENCES])
each_half = pytest.mark.parametrize("dtype", HALVES, ids=["bfloat16", "float16"])


def in_floats(dtype):
    return bool(torch.ops.trajgru_ext.sequence_plan(torch.empty(0, dtype=dtype))[-1])


def skip_unless_in_floats(dtype):
    if not in_floats(dtype):
        pytest.skip(f"this processor multiplies in {dtype} itself")


def sample(case, dtype, layout):
    return case.operator.sample(Samples(SIZES, case.choices, dtype, "cpu", layout))


def results_and_gradients(case, given, dtype):
    """The gradients to the results are those of `dtype`."""
    leaves, spec = tree_flatten(given)
    wanted = [
        one for one in leaves if isinstance(one, Tensor) and one.is_floating_point()
    ]
    for one in wanted:
        one.requires_grad_()
    found = case.operator.call(trajgru_ext, tree_unflatten(leaves, spec))
    seeds = [
        torch.linspace(-1, 1, one.numel()).view_as(one).to(dtype).to(one.dtype)
        for one in found
    ]
    return [*found, *torch.autograd.grad(found, wanted, seeds)]


@each_half
@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@each_case
def test_what_float32_has_is_rounded_once_on_the_cpu(case, layout, dtype):
    """Results are those of float32; gradients are computed from rounded states."""
    skip_unless_in_floats(dtype)
    given = sample(case, dtype, layout)
    floats = tree_map_only(
        Tensor, lambda one: one.float() if one.dtype == dtype else one.clone(), given
    )
    found = results_and_gradients(case, given, dtype)
    wanted = results_and_gradients(case, floats, dtype)
    results = len(found) - sum(
        isinstance(one, Tensor) and one.is_floating_point()
        for one in tree_flatten(given)[0]
    )
    for one, other in zip(found[:results], wanted, strict=False):
        assert one.stride() == other.stride()
        torch.testing.assert_close(one, other.to(one.dtype), rtol=0, atol=0)
    for one, other in zip(found[results:], wanted[results:], strict=True):
        error = (one.float() - other.float()).norm() / other.float().norm()
        assert error < 8 * torch.finfo(dtype).eps


def expanded(one):
    """One number for all pixels."""
    return one[..., :1, :1].contiguous().expand(one.shape)


def in_channels_last(wide):
    """Images, also those of several steps."""
    images = wide.flatten(0, -4).contiguous(memory_format=torch.channels_last)
    return images.unflatten(0, wide.shape[:-3])


def every_second_channel(one):
    return in_channels_last(one.repeat_interleave(2, -3))[..., ::2, :, :]


def first_channels(one):
    return in_channels_last(torch.cat([one, one], -3))[..., : one.shape[-3], :, :]


@each_half
@pytest.mark.parametrize("moved", [expanded, every_second_channel, first_channels])
@each_case
def test_cpu_results_have_the_strides_of_the_fakes(case, moved, dtype):
    """Wherever the arguments lie in memory."""
    skip_unless_in_floats(dtype)
    for layout in FORMATS:
        given = tree_map_only(
            Tensor,
            lambda one: moved(one)
            if one.dim() > 3 and one.dtype != torch.bool
            else one,
            sample(case, dtype, layout),
        )
        found = case.operator.call(trajgru_ext, given)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes = tree_map_only(Tensor, mode.from_tensor, given)
            wanted = case.operator.call(trajgru_ext, fakes)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype
            assert one.stride() == other.stride()


@each_half
def test_other_dtypes_are_refused_on_the_cpu(dtype):
    """What is converted is checked before."""
    layer = trajgru_ext.nn.ConvLSTM(2, 3).to(dtype)
    with pytest.raises(TypeError, match="must have the dtype of the other arguments"):
        layer(torch.zeros(2, 1, 2, 4, 4))


@pytest.fixture
def _two_threads():
    """One alone leaves the smallest images to torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_two_threads")
@each_half
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv2d_of_few_channels_on_the_cpu(kernel, dtype):
    """What is not convolved in tiles is not left to loops of torch for halves."""
    image, weight = (
        torch.randn(shape).to(dtype).requires_grad_()
        for shape in ((2, 3, 9, 8), (4, 3, kernel, kernel))
    )
    bias = torch.randn(4).to(dtype).requires_grad_()
    given = image, weight, bias

    def run(dtype, convolve):
        made = [one.detach().to(dtype).requires_grad_() for one in given]
        result = convolve(*made, padding=kernel // 2)
        return [result, *torch.autograd.grad(result, made, torch.ones_like(result))]

    found = run(dtype, trajgru_ext.conv2d)
    wanted = run(torch.float64, torch.nn.functional.conv2d)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        error = (one.double() - other).norm() / other.norm()
        assert error < torch.finfo(dtype).eps
    bad = image, weight, bias.float()
    with pytest.raises(Exception, match=r"(?i)dtype|type"):
        trajgru_ext.conv2d(*bad, padding=kernel // 2)
