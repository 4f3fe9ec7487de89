"""accelerate and restore on whole published models, of the benchmarks' small sizes."""

import copy

import pytest
import torch
from public_models import CASES, change, channels_last, infer, model_and_arguments
from public_models import tensors as tensors_of

from ports import openstl, predrnn
from trajgru_ext import accelerate, restore

# Relative, in the Euclidean norm: sums of float64 in another order, through some ten
# steps and group norms that divide by small deviations.
ROUND_OFF = 1e-10

pytestmark = pytest.mark.usefixtures("one_thread")


def state_in(module):
    """What MIM's blocks keep between calls."""
    return getattr(module, "convlstm_c", None)


def outputs_and_gradients(model, arguments):
    """Those of all outputs at once, to the parameters and the tensors given."""
    given = change(arguments, lambda t: t.detach().requires_grad_())
    outputs = tensors_of(model(*given))
    total = sum((k + 1) * (one**2).sum() for k, one in enumerate(outputs))
    leaves = {f"argument {k}": t for k, t in enumerate(tensors_of(given))}
    leaves |= dict(model.named_parameters())
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return outputs, dict(zip(leaves, found, strict=True))


def assert_close(got, wanted, name):
    assert (got is None) == (wanted is None), name
    if wanted is not None:
        error = (got - wanted).norm() / wanted.norm().clamp_min(1e-30)
        assert error < ROUND_OFF, f"{name}: {error}"


def assert_same(fast, model, arguments):
    """Outputs, gradients, and what is kept for the next call."""
    got, gradients = outputs_and_gradients(fast, arguments)
    outputs, wanted = outputs_and_gradients(model, arguments)
    for k, (one, other) in enumerate(zip(got, outputs, strict=True)):
        assert_close(one, other, f"output {k}")
    assert list(gradients) == list(wanted)
    for name, gradient in wanted.items():
        assert_close(gradients[name], gradient, name)
    pairs = zip(fast.named_modules(), model.modules(), strict=True)
    for (name, one), other in pairs:
        assert_close(state_in(one), state_in(other), f"the state in {name}")
    buffers = dict(model.named_buffers())
    for name, buffer in fast.named_buffers():
        assert_close(buffer, buffers[name], name)


@pytest.fixture(params=list(CASES))
def case(request):
    """A model in float64, another that is fast, and arguments."""
    model, arguments = model_and_arguments(request.param, small=True)
    model.double()
    fast = copy.deepcopy(model)
    accelerate(fast)
    return model, fast, change(arguments, torch.Tensor.double)


def test_results(case):
    model, fast, arguments = case
    # What is kept from the first call is there in the second.
    for _ in range(2):
        assert_same(fast, model, arguments)
    model.eval(), fast.eval()
    for one, other in zip(infer(fast, arguments), infer(model, arguments), strict=True):
        assert_close(one, other, "in evaluation")


def test_channels_last(case):
    model, fast, arguments = case
    fast.to(memory_format=torch.channels_last)
    given = tensors_of(arguments)
    if not hasattr(model, "MSE_criterion"):
        arguments = change(arguments, channels_last)
        assert all(map(torch.equal, given, tensors_of(arguments)))
    assert_same(fast, model, arguments)


def test_restore(case):
    model, fast, arguments = case
    fast_state, state = fast.state_dict(), model.state_dict()
    assert list(fast_state) == list(state)
    assert all(torch.equal(one, state[key]) for key, one in fast_state.items())
    fast.load_state_dict(state)
    restore(fast)
    kinds = [type(module) for module in model.modules()]
    # A parametrized convolution's class is made anew for every copy.
    names = [(kind.__module__, kind.__qualname__) for kind in kinds]
    got = [type(module) for module in fast.modules()]
    assert [(kind.__module__, kind.__qualname__) for kind in got] == names
    assert list(fast.state_dict()) == list(state)
    assert_same(fast, model, arguments)


@pytest.mark.parametrize("reverse", [0, 1])
def test_known_frames(reverse):
    """Where all is known, forecasts change nothing; where nothing is, frames do not."""
    lengths = {"pre_seq_length": 2, "aft_seq_length": 2, "total_length": 4}
    options = {"reverse_scheduled_sampling": reverse, "filter_size": 3}
    configs = openstl.moving_mnist(in_shape=(2, 1, 8, 8), **lengths, **options)
    torch.manual_seed(0)
    model = predrnn.PredRNN_Model(2, [3, 3], configs)
    frames = torch.rand(1, 4, 2, 2, 16)
    known = 1 if reverse else 2
    mask = torch.ones(1, 3 - known, 2, 2, 16)
    others = frames.clone()
    others[:, known:] += 1
    results = [
        model(some, mask * known_or_not, return_loss=False)[0]
        for known_or_not in (1, 0)
        for some in (frames, others)
    ]
    assert not torch.equal(results[0], results[1])
    assert torch.equal(results[2], results[3])
