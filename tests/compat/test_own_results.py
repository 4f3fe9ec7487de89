"""What compat and accelerated layers return may be changed in its place."""

import pytest
import torch
from torch import nn
from torch.nn.functional import relu
from torch.utils._python_dispatch import TorchDispatchMode

from ports import convgru_pytorch as convgru
from ports import convlstm_pytorch as convlstm
from ports import convolutional_lstm_pytorch as gate_by_gate
from ports import openstl, precipitation_nowcasting
from ports.precipitation_nowcasting import TrajGRU
from trajgru_ext import accelerate, compat

SIZE = (5, 6)


def normal(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# Of the published class and ours the arguments, and those of a call.
CASES = {
    "lstm": (
        (convlstm.ConvLSTM, compat.convlstm_pytorch.ConvLSTM),
        lambda b: (2, [3, 4], [(3, 3), (3, 3)], 2, True, True, True),
        lambda b, t: (normal(b, t, 2, *SIZE),),
    ),
    "gru": (
        (convgru.ConvGRU, compat.convgru_pytorch.ConvGRU),
        lambda b: (SIZE, 2, [3, 4], [(3, 3)] * 2, 2, torch.DoubleTensor, True),
        lambda b, t: (normal(b, t, 2, *SIZE),),
    ),
    "gates": (
        (gate_by_gate.ConvLSTM, compat.convolutional_lstm_pytorch.ConvLSTM),
        lambda b: (2, [3, 4], 3, 3, [2]),
        lambda b, t: (normal(b, 2, *SIZE),),
    ),
    "nowcasting": (
        (
            precipitation_nowcasting.ConvLSTM,
            compat.precipitation_nowcasting.ConvLSTM,
        ),
        lambda b: (2, 3, (b, *SIZE), 3),
        lambda b, t: (normal(t, b, 2, *SIZE), list(normal(2, b, 3, *SIZE)), t),
    ),
    "traj_gru": (
        (TrajGRU, compat.precipitation_nowcasting.TrajGRU),
        lambda b: (2, 3, (b, *SIZE)),
        lambda b, t: (normal(t, b, 2, *SIZE), normal(b, 3, *SIZE), t),
    ),
    "lstm_cell": (
        (convlstm.ConvLSTMCell, compat.convlstm_pytorch.ConvLSTMCell),
        lambda b: (2, 3, (3, 3), True),
        lambda b, t: (normal(b, 2, *SIZE), list(normal(2, b, 3, *SIZE))),
    ),
    "gru_cell": (
        (convgru.ConvGRUCell, compat.convgru_pytorch.ConvGRUCell),
        lambda b: (SIZE, 2, 3, (3, 3), True, None),
        lambda b, t: (normal(b, 2, *SIZE), normal(b, 3, *SIZE)),
    ),
    "openstl_cell": (
        (openstl.ConvLSTMCell, compat.openstl.ConvLSTMCell),
        lambda b: (2, 3, *SIZE, 3, 1, True),
        lambda b, t: (normal(b, 2, *SIZE), *normal(2, b, 3, *SIZE)),
    ),
}


def outputs(results):
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for one in results for tensor in outputs(one)]


def changed_in_place(module, arguments):
    """The gradients after every result was changed, each first and alone."""
    found = []
    for k in range(len(outputs(module(*arguments)))):
        module.zero_grad()
        every = outputs(module(*arguments))
        relu(every[k].mul_(2), inplace=True)
        sum(one.pow(2).sum() for one in every).backward()
        found.append([p.grad for p in module.parameters() if p.grad is not None])
    return found


@pytest.mark.parametrize("way", ["ours", "accelerated"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_results_are_the_persons_own(case, steps, batch, way):
    (kind, ours), arguments, inputs = CASES[case]
    torch.manual_seed(0)
    plain = kind(*arguments(batch)).double()
    module = plain
    if way == "ours":
        module = ours(*arguments(batch)).double()
        module.load_state_dict(plain.state_dict())
    given = inputs(batch, steps)
    with torch.no_grad():
        wanted = outputs(plain(*given))
    if way == "accelerated":
        assert "" in accelerate(module).replaced
    if hasattr(module, "computes"):
        assert module.computes() == "by weights"
    for got, one in zip(outputs(module(*given)), wanted, strict=True):
        torch.testing.assert_close(got, one, rtol=0, atol=1e-10)
    once, again = (changed_in_place(module, given) for _ in range(2))
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    # Clones take the same gradients, and are nobody else's.
    for k, grads in enumerate(once):
        module.zero_grad()
        every = [one.clone() for one in outputs(module(*given))]
        every[k] = 2 * relu(every[k])
        sum(one.pow(2).sum() for one in every).backward()
        plain_grads = [p.grad for p in module.parameters() if p.grad is not None]
        torch.testing.assert_close(grads, plain_grads, rtol=1e-9, atol=1e-9)


class Rectified(nn.Module):
    """A person's model, that changes a result in its place."""

    def __init__(self, kind, arguments, steps):
        super().__init__()
        self.layer = kind(*arguments)

    def forward(self, *inputs):
        results = self.layer(*inputs)
        relu(outputs(results)[0], inplace=True)
        return results


@pytest.mark.parametrize("case", ["lstm", "gru", "nowcasting", "traj_gru", "lstm_cell"])
def test_verify_of_a_model_that_changes_them(case):
    (kind, _), arguments, inputs = CASES[case]
    torch.manual_seed(0)
    model = Rectified(kind, arguments(1), 1).double()
    report = accelerate(model, verify=inputs(1, 1))
    assert "layer" in report.replaced


class Clones(TorchDispatchMode):
    """Counts them."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.clone.default
        return function(*args, **(kwargs or {}))


def test_no_copy_without_a_gradient():
    layer = compat.precipitation_nowcasting.TrajGRU(2, 3, (1, *SIZE)).double()
    inputs = normal(3, 1, 2, *SIZE)
    counts = []
    for graded in (True, False):
        with torch.set_grad_enabled(graded), Clones() as clones:
            layer(inputs)
        counts.append(clones.count)
    # The last state is in any case a tensor of its own.
    assert counts == [2, 1]
