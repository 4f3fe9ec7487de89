"""What takes part in a call, traces it, counts it or records it."""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

import trajgru_ext
import trajgru_ext.compat.convgru_pytorch
import trajgru_ext.compat.convlstm_pytorch
import trajgru_ext.compat.convolutional_lstm_pytorch
import trajgru_ext.compat.precipitation_nowcasting
from ports import convgru_pytorch, convlstm_pytorch, precipitation_nowcasting
from trajgru_ext import compat
from trajgru_ext.check import FEW
from trajgru_ext.nn import (
    EESP,
    ConvGRU,
    ConvGRUCell,
    ConvLSTM,
    ConvLSTMCell,
    DilatedPyramid,
    DilatedSeparableConv,
    SelectiveKernelConv,
    SelectiveKernelUnit,
    SpatialPyramidPooling,
    SqueezeExcitation,
    TrajGRU,
    TrajGRUCell,
    conv_lstm_forecaster,
    moving_mnist_conv_gru,
    moving_mnist_traj_gru,
    se_resnet34,
)
from trajgru_ext.ops._catalog import cases
from trajgru_ext.ops._samples import Samples

SEQUENCE = (3, 2, 3, 8, 8)
MODULES = {
    "conv_gru": (lambda: ConvGRU(3, 8), SEQUENCE),
    "conv_gru of two layers": (lambda: ConvGRU(3, 8, num_layers=2), SEQUENCE),
    "conv_gru, reset before": (lambda: ConvGRU(3, 8, reset="before"), SEQUENCE),
    "conv_lstm": (lambda: ConvLSTM(3, 8, batch_first=True), SEQUENCE),
    "traj_gru": (lambda: TrajGRU(3, 8, 5), SEQUENCE),
    "conv_gru cell": (lambda: ConvGRUCell(3, 8), SEQUENCE[1:]),
    "conv_lstm cell": (lambda: ConvLSTMCell(3, 8), SEQUENCE[1:]),
    "traj_gru cell": (lambda: TrajGRUCell(3, 8, 5), SEQUENCE[1:]),
    "eesp": (lambda: EESP(16, 16), (2, 16, 8, 8)),
    "se": (lambda: SqueezeExcitation(16), (2, 16, 8, 8)),
    "sk": (lambda: SelectiveKernelConv(16), (2, 16, 8, 8)),
    "pyramid": (lambda: SpatialPyramidPooling(3), (2, 4, 8, 8)),
    "se_resnet34": (lambda: se_resnet34(10), (2, 3, 32, 32)),
    "unit": (lambda: SelectiveKernelUnit(16, 16, 32), (2, 16, 8, 8)),
    "separable": (lambda: DilatedSeparableConv(16, 16, 2), (2, 16, 8, 8)),
    "dilated": (lambda: DilatedPyramid(16, 16), (2, 16, 8, 8)),
    "traj_gru network": (lambda: moving_mnist_traj_gru(5), (2, 1, 1, 32, 32)),
    "conv_gru network": (moving_mnist_conv_gru, (2, 1, 1, 32, 32)),
    "conv_lstm network": (lambda: conv_lstm_forecaster([8, 8]), (2, 1, 1, 32, 32)),
    "published conv_lstm": (lambda: conv_lstm_of(compat.convlstm_pytorch), SEQUENCE),
    "published conv_gru": (lambda: conv_gru_of(compat.convgru_pytorch), SEQUENCE),
    "published traj_gru": (
        lambda: compat.precipitation_nowcasting.TrajGRU(3, 8, (2, 8, 8)),
        SEQUENCE,
    ),
    "published traj_gru of half pixels": (
        lambda: compat.precipitation_nowcasting.TrajGRU(
            3, 8, (2, 8, 8), align_corners=False
        ),
        SEQUENCE,
    ),
    "published peepholes": (
        lambda: compat.precipitation_nowcasting.ConvLSTM(3, 8, (2, 8, 8), 3),
        SEQUENCE,
    ),
    "published step by step": (
        lambda: compat.convolutional_lstm_pytorch.ConvLSTM(3, [8], 3, 2, [1]),
        SEQUENCE[1:],
    ),
}
EVERY = pytest.mark.parametrize("name", MODULES)


def made(name):
    torch.manual_seed(0)
    make, sizes = MODULES[name]
    return make().eval(), torch.randn(sizes)


def layout_of(tensor):
    """Its sizes, and the strides of dimensions where there is a next element."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return [(size, stride if size > 1 else None) for size, stride in pairs]


def leaves(results):
    return [one for one in torch.utils._pytree.tree_leaves(results) if one is not None]


def watched(module, image):
    """What it makes of an image where something else sees its operators.

    A cell's step is then a sequence's, which convolves input and state apart; by itself
    it convolves them together, which rounds otherwise. So does a sequence of one small
    step, unless it is to save memory.
    """
    if not isinstance(module, (ConvLSTMCell, ConvGRUCell)):
        return module(image)
    outputs, last = module.sequence(image[None], recompute="gates")
    found = (outputs[0], *(leaves(last)[1:]))
    for one, other in zip(found, leaves(module(image)), strict=True):
        torch.testing.assert_close(one, other)
    return found


@EVERY
def test_symbolic_trace(name):
    module, image = made(name)
    graph = torch.fx.symbolic_trace(module)
    pairs = zip(leaves(graph(image)), leaves(watched(module, image)), strict=True)
    assert all(torch.equal(got, want) for got, want in pairs)


@EVERY
def test_fake_tensors(name):
    module, image = made(name)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        got = leaves(module(mode.from_tensor(image)))
    assert list(map(layout_of, got)) == list(map(layout_of, leaves(module(image))))


class Named(torch.Tensor):
    """A subclass that has nothing of its own."""


@EVERY
def test_tensor_subclasses(name):
    module, image = made(name)
    got, wanted = module(image.as_subclass(Named)), watched(module, image)
    for one, other in zip(leaves(got), leaves(wanted), strict=True):
        assert torch.equal(one.as_subclass(torch.Tensor), other)
    assert any(isinstance(one, Named) for one in leaves(got))


class Calls(TorchFunctionMode):
    """Remembers the functions that are called."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.called.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.title)
def test_every_operator_can_be_overridden(case):
    name = case.operator.name
    arguments = case.operator.sample(Samples(FEW, case.choices))
    with Calls() as mode:
        case.operator.call(trajgru_ext, arguments)
    assert getattr(trajgru_ext, name) in mode.called
    assert getattr(trajgru_ext, name).__module__ == "trajgru_ext"


def first(results):
    while isinstance(results, (list, tuple)):
        results = results[0]
    return results


def conv_lstm_of(module):
    return module.ConvLSTM(3, [8, 4], [(3, 3)] * 2, 2, batch_first=True)


def conv_gru_of(module):
    kind = torch.FloatTensor
    return module.ConvGRU((8, 8), 3, [8], [(3, 3)], 1, kind, batch_first=True)


def traj_gru_of(module):
    layer = module.TrajGRU(3, 8, (2, 8, 8), L=3)
    return lambda inputs: layer(inputs, None, seq_len=3)


PUBLISHED = {
    "conv_lstm": (conv_lstm_of, compat.convlstm_pytorch, convlstm_pytorch),
    "conv_gru": (conv_gru_of, compat.convgru_pytorch, convgru_pytorch),
    "traj_gru": (
        traj_gru_of,
        compat.precipitation_nowcasting,
        precipitation_nowcasting,
    ),
}


@pytest.mark.parametrize("to_inputs", [False, True])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_counted_as_the_published_model(name, backward, to_inputs):
    make, *modules = PUBLISHED[name]
    inputs = torch.randn(SEQUENCE).requires_grad_(to_inputs)
    counts = []
    for module in modules:
        net = make(module)
        with FlopCounterMode(display=False) as counter:
            output = first(net(inputs))
            if backward:
                output.sum().backward()
        counts.append(counter.get_total_flops())
    ours, published = counts
    assert ours == published > 0


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.title)
def test_every_operator_has_a_count(case):
    from torch.utils.flop_counter import flop_registry

    packets = (case.operator.name, f"{case.operator.name}_backward")
    for name in packets:
        if hasattr(torch.ops.trajgru_ext, name):
            assert getattr(torch.ops.trajgru_ext, name) in flop_registry


def test_names_in_a_profile():
    module, image = made("conv_lstm")
    with profile() as found:
        module(image)
    assert "trajgru_ext::conv_lstm" in {event.key for event in found.key_averages()}


@pytest.mark.parametrize("name", ["conv_gru", "conv_lstm", "traj_gru"])
def test_jit_trace(name):
    module, image = made(name)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "traj_gru":
            with pytest.raises(RuntimeError, match=r"torch\.export"):
                torch.jit.trace(module, image, check_trace=False)
            return
        traced = torch.jit.trace(module, image, check_trace=False)
        assert torch.equal(first(traced(image)), first(module(image)))


@pytest.mark.parametrize("name", ["conv_gru", "conv_lstm", "traj_gru", "eesp"])
def test_plain_onnx_export(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, image = made(name)
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(module, (image,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    got = session.run(None, {given.name: image.numpy()})[0]
    wanted = first(module(image)).detach()
    torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-4, atol=1e-5)
