"""What constructors and calls take, and whom they blame for what they do not."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from trajgru_ext import accelerate, compat
from trajgru_ext.nn import (
    EESP,
    ConvGRU,
    ConvGRUCell,
    ConvLSTM,
    ConvLSTMCell,
    DilatedPyramid,
    DilatedSeparableConv,
    EncoderForecaster,
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

FLOATS = torch.FloatTensor
classes = compat.convlstm_pytorch, compat.convgru_pytorch
port = compat.precipitation_nowcasting


def forecaster(i):
    return EncoderForecaster(
        [nn.Identity()],
        [ConvGRU(i(2), i(2))],
        [ConvGRU(i(0), i(2))],
        [],
        nn.Identity(),
        steps=i(2),
    )


# Each as a function of what makes an integer.
CONSTRUCTORS = {
    "ConvLSTM": lambda i: ConvLSTM(i(3), [i(4), i(5)], (i(3), i(5)), i(2)),
    "ConvLSTMCell": lambda i: ConvLSTMCell(i(3), i(4), i(5), dilation=i(2)),
    "peepholes": lambda i: ConvLSTM(
        i(3), i(4), peephole="element", image_size=(i(8), i(8))
    ),
    "ConvGRU": lambda i: ConvGRU(i(3), i(4), i(5), i(2), input_kernel_size=i(3)),
    "ConvGRUCell": lambda i: ConvGRUCell(i(3), i(4), reset="before"),
    "TrajGRU": lambda i: TrajGRU(
        i(3), i(4), i(2), kernel_size=i(5), flow_kernel_size=i(3), flow_channels=i(6)
    ),
    "TrajGRUCell": lambda i: TrajGRUCell(i(3), i(4), i(2)),
    "EESP": lambda i: EESP(i(8), i(8), i(2), i(4), i(7)),
    "DilatedSeparableConv": lambda i: DilatedSeparableConv(i(8), i(4), i(2)),
    "DilatedPyramid": lambda i: DilatedPyramid(i(8), i(4), i(2)),
    "SqueezeExcitation": lambda i: SqueezeExcitation(i(8), i(4)),
    "SelectiveKernelConv": lambda i: SelectiveKernelConv(
        i(8), i(3), i(4), i(2), i(1), i(4)
    ),
    "SelectiveKernelUnit": lambda i: SelectiveKernelUnit(i(8), i(4), i(16)),
    "SpatialPyramidPooling": lambda i: SpatialPyramidPooling(i(3)),
    "EncoderForecaster": forecaster,
    "moving_mnist_traj_gru": lambda i: moving_mnist_traj_gru(i(2), steps=i(2)),
    "moving_mnist_conv_gru": lambda i: moving_mnist_conv_gru(i(3), i(2), steps=i(2)),
    "conv_lstm_forecaster": lambda i: conv_lstm_forecaster((i(4), i(2)), steps=i(3)),
    "convlstm_pytorch": lambda i: classes[0].ConvLSTM(
        i(3), [i(4)], (i(3), i(3)), i(1), True
    ),
    "convgru_pytorch": lambda i: classes[1].ConvGRU(
        (i(8), i(8)), i(3), i(4), (i(3), i(3)), i(2), FLOATS
    ),
    "convolutional_lstm_pytorch": lambda i: compat.convolutional_lstm_pytorch.ConvLSTM(
        i(3), [i(4), i(2)], i(3), i(2), [i(1)]
    ),
    "openstl": lambda i: compat.openstl.ConvLSTMCell(
        i(3), i(4), i(8), i(8), i(5), i(1), True
    ),
    "nowcasting": lambda i: port.ConvLSTM(i(3), i(4), (i(1), i(8), i(8)), i(3)),
    "port": lambda i: port.TrajGRU(i(3), i(4), (i(1), i(8), i(8)), L=i(3)),
}
EVERY = pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=CONSTRUCTORS)


def numbers(module):
    """All that modules inside have of a module's own attributes, but modules."""
    return [
        {k: repr(v) for k, v in vars(one).items() if not k.startswith("_")}
        for one in module.modules()
    ]


@EVERY
def test_integers_of_numpy(make):
    """They make the same modules, with Python's integers in them."""
    plain = make(int)
    for kind in (np.int64, np.int32, np.uint8):
        module = make(kind)
        assert repr(module) == repr(plain)
        if "height" not in vars(module) and "b_h_w" not in vars(module):
            assert numbers(module) == numbers(plain)
        shapes = [
            {name: t.shape for name, t in one.state_dict().items()}
            for one in (module, plain)
        ]
        assert shapes[0] == shapes[1]


def test_steps_of_numpy():
    layer = TrajGRU(0, 4, 2)
    state = torch.zeros(1, 4, 6, 6)
    assert layer(h=state, steps=np.int64(2))[0].shape[0] == 2
    assert ConvGRU(0, 4)(None, [state], steps=np.int32(3))[0].shape[0] == 3
    states = [(state, state)]
    assert ConvLSTM(0, 4)(None, states, steps=np.uint8(3))[0].shape[0] == 3
    net = moving_mnist_traj_gru(2)
    assert net(torch.rand(2, 1, 1, 16, 16), np.int64(3)).shape[0] == 3
    published = port.TrajGRU(3, 4, (1, 6, 6))
    assert published(None, state, np.int64(2))[0].shape[0] == 2


@EVERY
def test_constructors_under_a_default_device(make):
    """Parameters and buffers are on it, and all of the structure as ever."""
    plain = make(int)
    try:
        torch.set_default_device("meta")
        module = make(int)
    finally:
        torch.set_default_device(None)
    assert {t.device.type for t in module.state_dict().values()} <= {"meta"}
    assert repr(module) == repr(plain)
    if hasattr(module, "computes"):
        assert module.computes() == "by weights"


def test_layers_run_under_a_default_device():
    """Another than theirs."""
    layers = [
        TrajGRU(3, 4, 2, zoneout=0.5),
        ConvGRU(3, 4, zoneout=0.5),
        ConvLSTM(3, 4),
        port.TrajGRU(3, 4, (1, 8, 8), align_corners=False),
        classes[0].ConvLSTM(3, 4, (3, 3), 1),
        moving_mnist_traj_gru(2, steps=2, coordinates=True),
    ]
    inputs = [torch.randn(2, 1, 3, 8, 8)] * 5 + [torch.rand(2, 1, 1, 16, 16)]
    altered = ConvLSTM(3, 4)
    altered.cell_list[0].conv.register_forward_hook(lambda *_: None)
    cases = [*zip(layers, inputs, strict=True), (altered, inputs[0])]
    try:
        torch.set_default_device("meta")
        for layer, x in cases:
            results = layer(x)
            first = results
            while not isinstance(first, torch.Tensor):
                first = first[0]
            assert first.device.type == "cpu"
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_accelerate_under_a_default_device(device):
    from ports import convlstm_pytorch as convlstm

    model = convlstm.ConvLSTM(2, [3], [(3, 3)], 1)
    inputs = torch.randn(2, 1, 2, 6, 6)
    wanted = model(inputs)
    try:
        torch.set_default_device(device)
        report = accelerate(model, verify=inputs)
    finally:
        torch.set_default_device(None)
    assert "" in report.replaced
    torch.testing.assert_close(model(inputs), wanted)


X = torch.zeros(3, 2, 3, 8, 8)
BLAMED = {
    "ConvLSTM: inputs must have 4 channels, [T, B, 4, H, W], got [3, 2, 3, 8, 8]": (
        lambda: ConvLSTM(4, 8)(X)
    ),
    "ConvGRU: inputs must have 4 channels, [B, T, 4, H, W], got [3, 2, 3, 8, 8]": (
        lambda: ConvGRU(4, 8, batch_first=True)(X)
    ),
    "ConvLSTMCell: input must have 4 channels, [B, 4, H, W], got [2, 3, 8, 8]": (
        lambda: ConvLSTMCell(4, 8)(X[0])
    ),
    "ConvGRUCell: input must have 4 channels, [B, 4, H, W], got [2, 3, 8, 8]": (
        lambda: ConvGRUCell(4, 8, reset="before")(X[0])
    ),
    "ConvGRUCell: inputs must have 4 channels, [T, B, 4, H, W], got": (
        lambda: ConvGRUCell(4, 8).sequence(X)
    ),
    "TrajGRU: inputs must have 4 channels, [T, B, 4, H, W], got [3, 2, 3, 8, 8]": (
        lambda: TrajGRU(4, 8)(X)
    ),
    "TrajGRUCell: input must have 4 channels, [B, 4, H, W], got [2, 3, 8, 8]": (
        lambda: TrajGRUCell(4, 8)(X[0])
    ),
    "ConvLSTM: inputs must be [T, B, C, H, W], got [2, 3, 8, 8]": (
        lambda: ConvLSTM(3, 8)(X[0])
    ),
    "TrajGRU: inputs must be [B, T, C, H, W], got [2, 3, 8, 8]": (
        lambda: TrajGRU(3, 8, batch_first=True)(X[0])
    ),
    "ConvGRUCell: input must be [B, C, H, W], got [3, 8, 8]": (
        lambda: ConvGRUCell(3, 8)(X[0, 0])
    ),
    "ConvLSTM: inputs must be on meta, where the parameters are, got cpu": (
        lambda: ConvLSTM(3, 8, device="meta")(X)
    ),
    "TrajGRU: inputs must be on cpu, where the parameters are, got meta": (
        lambda: TrajGRU(3, 8)(X.to("meta"))
    ),
    "ConvLSTM: input_tensor must have 4 channels, [B, T, 4, H, W], got": (
        lambda: classes[0].ConvLSTM(4, 8, (3, 3), 1, True)(X)
    ),
    "ConvGRU: input_tensor must have 4 channels, [T, B, 4, H, W], got": (
        lambda: classes[1].ConvGRU((8, 8), 4, 8, (3, 3), 1, FLOATS)(X)
    ),
    "ConvLSTM: input must have 4 channels, [B, 4, H, W], got [2, 3, 8, 8]": (
        lambda: compat.convolutional_lstm_pytorch.ConvLSTM(4, [8], 3)(X[0])
    ),
    "ConvLSTM: inputs must have 4 channels, [S, B, 4, H, W], got": (
        lambda: port.ConvLSTM(4, 8, (2, 8, 8), 3)(X)
    ),
}


@pytest.mark.parametrize("message", BLAMED)
def test_what_the_caller_passed_is_blamed(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BLAMED[message]()


STATES = (X[0, :, :1],) * 2
ARRAYS = {
    "ConvLSTM: inputs": lambda a: ConvLSTM(3, 8)(a(5)),
    "ConvGRU: inputs": lambda a: ConvGRU(3, 8, batch_first=True)(a(5)),
    "TrajGRU: inputs": lambda a: TrajGRU(3, 8, batch_first=True)(a(5)),
    "ConvLSTMCell: input": lambda a: ConvLSTMCell(3, 8)(a(4)),
    "ConvGRUCell: input": lambda a: ConvGRUCell(3, 8)(a(4)),
    "TrajGRUCell: input": lambda a: TrajGRUCell(3, 8)(a(4)),
    "EESP: input": lambda a: EESP(8, 8)(a(4)),
    "DilatedPyramid: input": lambda a: DilatedPyramid(8, 8)(a(4)),
    "SqueezeExcitation: input": lambda a: SqueezeExcitation(8)(a(4)),
    "SelectiveKernelConv: input": lambda a: SelectiveKernelConv(8)(a(4)),
    "SpatialPyramidPooling: input": lambda a: SpatialPyramidPooling(2)(a(4)),
    "ResNet: input": lambda a: se_resnet34(10)(a(4)),
    "EncoderForecaster: frames": lambda a: moving_mnist_traj_gru()(a(5)),
    "ConvLSTM: input_tensor": lambda a: classes[0].ConvLSTM(3, 8, (3, 3), 1)(a(5)),
    "ConvGRU: input_tensor": lambda a: classes[1].ConvGRU(
        (8, 8), 3, 8, (3, 3), 1, FLOATS
    )(a(5)),
    "ConvLSTMCell: input_tensor": lambda a: classes[0].ConvLSTMCell(3, 8, (3, 3), True)(
        a(4), STATES
    ),
    "ConvGRUCell: input_tensor": lambda a: classes[1].ConvGRUCell(
        (8, 8), 3, 8, (3, 3), True, FLOATS
    )(a(4), X[0]),
    "ConvLSTM: input ": lambda a: compat.convolutional_lstm_pytorch.ConvLSTM(3, [8], 3)(
        a(4)
    ),
    "ConvLSTMCell: x ": lambda a: compat.convolutional_lstm_pytorch.ConvLSTMCell(
        3, 8, 3
    )(a(4), *STATES),
    "ConvLSTMCell: x_t": lambda a: compat.openstl.ConvLSTMCell(3, 8, 8, 8, 3, 1, False)(
        a(4), *STATES
    ),
    "TrajGRU: inputs ": lambda a: port.TrajGRU(3, 8, (2, 8, 8))(a(5)),
    "ConvLSTM: inputs ": lambda a: port.ConvLSTM(3, 8, (2, 8, 8), 3)(a(5)),
}


@pytest.mark.parametrize("argument", ARRAYS)
def test_arrays_of_numpy_are_refused_by_name(argument):
    message = f"{argument.strip()} must be a Tensor, got ndarray"
    with pytest.raises(TypeError, match=message):
        ARRAYS[argument](lambda dims: np.zeros([2] * (dims - 3) + [3, 8, 8], "f"))
