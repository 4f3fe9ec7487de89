"""What the tests of the gate updates share: comparison with the naive formula."""

import torch
from accuracy import opmath

FORMATS = [torch.contiguous_format, torch.channels_last]


def normal(generator, device, dtype, *shape):
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.to(device, dtype)


def derivatives(function, tensors, seeds):
    """The outputs, and the gradients to those tensors that are given."""
    tensors = [None if t is None else t.detach().requires_grad_() for t in tensors]
    outputs = function(*tensors)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    leaves = [t for t in tensors if t is not None]
    return *outputs, *torch.autograd.grad(outputs, leaves, seeds)


def exact(tensor):
    return None if tensor is None else tensor.detach().cpu().double()


def assert_updates(ours, naive, tensors, seeds, terms=None):
    """Compare with the naive formula in float64, by the rule of `accuracy`.

    A gate is a sum of at most three, its sigma or tanh is off by at most eight
    roundings, and a result is a sum of at most three products of four factors below 1,
    the state and the seeds: 64 roundings of the largest of them in all. A gradient is
    also off by the error of the gates, their slopes being at most 1, times factors as
    large as the state. terms: summed values of each gradient, where more than one.
    """
    got = derivatives(ours, tensors, seeds)
    wanted = derivatives(
        naive, [exact(t) for t in tensors], [exact(seed) for seed in seeds]
    )
    state = next(t for t in reversed(tensors) if t is not None)
    given = [t for t in (*tensors, *seeds) if t is not None and t.numel()]
    largest = max([1.0, *(t.abs().max().item() for t in given)])
    eps = torch.finfo(opmath(state.dtype)).eps
    for k, (one, other) in enumerate(zip(got, wanted, strict=True)):
        assert one.shape == other.shape
        added = 1 if terms is None else terms[k]
        bound = (64 + added) * added * eps + torch.finfo(one.dtype).eps
        torch.testing.assert_close(
            one.detach().double().cpu(),
            other.detach(),
            rtol=torch.finfo(one.dtype).eps,
            atol=bound * largest**3,
        )
    return got


def assert_equal(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def present(function, tensors):
    """The function of those tensors that are given, and these."""
    there = [t is not None for t in tensors]

    def of_given(*given):
        each = iter(given)
        return function(*(next(each) if has else None for has in there))

    return of_given, [t for t in tensors if t is not None]


def moved(value, device):
    """Tensors on the device, and anything else as it is."""
    if isinstance(value, list):
        return [moved(one, device) for one in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value
