"""How to draw arguments for every public operator: one function each, in a table.

Tensors are of tiny sizes, any dtype and strides, and of values that kernels tend to
get wrong.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from accuracy import DTYPES, opmath
from torch import Tensor

STRIDES = ["plain", "channels last", "permuted", "sliced", "offset", "expanded"]
VALUES = ["normal", "normal", "whole", "zero", "denormal", "saturating"]
PLANTS = ["large", "-large", "denormal", -0.0, math.nan, math.inf, -math.inf]
# About the ends of vectors and blocks.
CHANNELS = [1, 2, 3, 5, 8, 17, 33]


class Drawn:
    """What one case draws from: all of it follows from a seed.

    Drawing each choice from hypothesis would cost several times what a case does.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.pick(DTYPES)
        # What stands out from one of the tensors, until it is planted.
        self.plants: list = [self.pick(PLANTS)] * self.pick([0, 1])

    def pick(self, choices: Sequence) -> Any:
        return self.random.choice(choices)

    def permuted(self, items: Iterable) -> list:
        return self.random.sample(list(items), k=len(list(items)))

    def image(self, least: int = 0) -> tuple[int, ...]:
        """[B, C, H, W]: mostly a few pixels, sometimes none."""
        sizes = [self.pick(n) for n in ([1, 2], CHANNELS, [1, 2, 4], [1, 3, 5])]
        if not least and self.pick([False] * 9 + [True]):
            sizes[self.pick([0, 1, 2, 3])] = 0
        return tuple(sizes)

    def values(self, shape: tuple[int, ...], dtype: torch.dtype, kind: str) -> Tensor:
        normal = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        if kind == "whole":
            normal = (2 * normal).round()
        elif kind == "zero":
            normal = 0 * normal
        elif kind == "denormal":
            normal = torch.finfo(dtype).smallest_normal / 4 * normal
        elif kind == "saturating":
            normal = 30 * normal
        elif kind == "border":
            # Whole displacements, and the numbers beside them.
            side = self.pick([0.0, 1.0, -1.0]) * torch.finfo(dtype).eps
            normal = (2 * normal).round() * (1 + side)
        return normal.to(dtype)

    def tensor(
        self,
        *shape: int,
        dtype: torch.dtype | None = None,
        kind: str | None = None,
        plant: bool = True,
        scale: float = 1.0,
    ) -> Tensor:
        """A tensor of some values, one of them special, in some strides."""
        dtype = dtype or self.dtype
        kind = kind or self.pick(VALUES)
        tensor = self.values(shape, dtype, kind)
        if scale != 1:
            tensor = (scale * tensor).to(dtype)
        strides = self.pick(STRIDES)
        if strides == "expanded" and tensor.dim():
            dim = self.pick(range(tensor.dim()))
            if tensor.shape[dim]:
                return tensor.narrow(dim, 0, 1).expand(shape)
        if plant and self.plants and tensor.numel():
            named = {"denormal": torch.finfo(dtype).smallest_normal / 8}
            named["large"] = 3e4 if dtype == torch.float16 else 1e30
            named["-large"] = -named["large"]
            planted = self.plants.pop()
            where = int(torch.randint(tensor.numel(), (), generator=self.generator))
            tensor.view(-1)[where] = named.get(planted, planted)
        return self.strided(tensor, strides)

    def strided(self, tensor: Tensor, how: str) -> Tensor:
        """The same values in other memory."""
        if how == "channels last" and tensor.dim() >= 3:
            return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)
        if how == "permuted" and tensor.dim() > 1:
            order = self.permuted(range(tensor.dim()))
            back = [order.index(k) for k in range(tensor.dim())]
            return tensor.permute(order).contiguous().permute(back)
        if how == "sliced" and tensor.dim():
            dim = self.pick(range(tensor.dim()))
            shape = list(tensor.shape)
            shape[dim] = 2 * shape[dim] + 3
            # Beside what belongs to the tensor NaN lies in wait.
            wide = tensor.new_full(shape, math.nan).movedim(dim, 0)
            wide[2:-1:2] = tensor.movedim(dim, 0)
            return wide[2:-1:2].movedim(0, dim)
        if how == "offset":
            before = tensor.new_full((5,), math.nan)
            return torch.cat((before, tensor.flatten()))[5:].view(tensor.shape)
        return tensor

    def other(self, *shape: int, **options: Any) -> Tensor:
        """A tensor in any of the dtypes."""
        return self.tensor(*shape, dtype=self.pick(DTYPES), **options)

    def lower(self, *shape: int, **options: Any) -> Tensor:
        """A tensor of the dtype, or of a lower one."""
        fits = [d for d in DTYPES if torch.promote_types(d, self.dtype) == self.dtype]
        return self.tensor(*shape, dtype=self.pick(fits), **options)

    def flow(self, *shape: int) -> Tensor:
        kind = self.pick(["normal", "whole", "border", "zero", "saturating"])
        return self.other(*shape, kind=kind)

    def images(self, least: int) -> list[Tensor]:
        size = self.image()
        return [self.tensor(*size) for _ in range(self.pick([least, 3, 4]))]

    def order(self, letters: str) -> str:
        return "".join(self.permuted(letters))

    def maybe(self, tensor: Callable[[], Tensor]) -> Tensor | None:
        return tensor() if self.pick([True, False]) else None


def flow_warp(d: Drawn) -> dict:
    batch, _, height, width = size = d.image()
    flow = d.flow(batch, 2, height, width)
    scale = d.pick([1.0, -1.0, 0.5, 0.0])
    return {"input": d.tensor(*size), "flow": flow, "flow_scale": scale}


def flow_conv(d: Drawn) -> dict:
    batch, channels, height, width = size = d.image()
    links, outputs = d.pick([1, 2, 0]), d.pick([1, 3, 9, 0])
    return {
        "input": d.tensor(*size),
        "flows": d.flow(batch, 2 * links, height, width),
        "weight": d.tensor(outputs, links * channels, plant=False),
        "bias": d.maybe(lambda: d.tensor(outputs)),
        "flow_scale": d.pick([1.0, -1.0, 0.5]),
    }


def gates(d: Drawn, count: int, size: tuple[int, ...]) -> dict:
    batch, features, height, width = size
    given = d.pick([("x_gates", "h_gates"), ("x_gates",), ("h_gates",)])
    shape = (batch, count * features, height, width)
    return {k: d.lower(*shape) if k in given else None for k in ("x_gates", "h_gates")}


def blend(d: Drawn, size: tuple[int, ...]) -> dict:
    return {
        "activation": d.pick(["tanh", "relu", "leaky_relu"]),
        "negative_slope": d.pick([0.2, 0.0]),
        "update": d.pick(["keep", "replace"]),
        "zoneout_mask": d.maybe(lambda: zoneout(d, size)),
    }


def zoneout(d: Drawn, shape: tuple[int, ...]) -> Tensor:
    """A mask that may be the same along some dimensions."""
    some = tuple(d.pick([n, n, min(n, 1)]) for n in shape)
    return (torch.rand(some, generator=d.generator) < 0.3).expand(shape)


def lstm_gates(d: Drawn) -> dict:
    size = d.image()
    state = {"c": d.tensor(*size), "order": d.order("ifog")}
    bias = {"forget_bias": d.pick([0.0, 1.0])}
    return gates(d, 4, size) | state | bias | {"peephole": peephole(d, size)}


def peephole(d: Drawn, size: tuple[int, ...], same: bool = False) -> tuple | None:
    pixel = d.pick([None, (1, 1), size[2:]])
    if pixel is None:
        return None
    make = d.tensor if same else d.other
    return tuple(make(1, size[1], *pixel) for _ in range(3))


def gru_gates(d: Drawn) -> dict:
    size = d.image()
    state = {"h": d.tensor(*size), "order": d.order("run")}
    return gates(d, 3, size) | state | blend(d, size)


def gru_reset(d: Drawn) -> dict:
    size = d.image()
    return gates(d, 2, size) | {"h": d.tensor(*size), "order": d.order("ru")}


def gru_output(d: Drawn) -> dict:
    size = d.image()
    tensors = {"u": d.tensor(*size), "candidate": d.lower(*size), "h": d.tensor(*size)}
    return tensors | blend(d, size)


def sequence(d: Drawn, states: tuple[str, ...]) -> tuple[dict, tuple[int, ...]]:
    """Inputs, states and steps; and the sizes T, B, C, F, H, W.

    What is not finite is left out: torch's convolutions may spread it to pixels that do
    not read it.
    """
    finite = ["denormal", -0.0, *["large"] * (d.dtype != torch.float16)]
    d.plants = [one for one in d.plants if one in finite]
    steps, channels, features = d.pick([1, 2, 0]), d.pick([1, 2]), d.pick([1, 2, 5])
    batch, _, height, width = d.image()
    size = (batch, features, height, width)
    given = d.pick(["both", "inputs", *states])
    tensors: dict = {name: None for name in ("inputs", *states)}
    if given in ("both", "inputs"):
        tensors["inputs"] = d.tensor(steps, batch, channels, height, width)
    for name in states:
        if given in ("both", "h") or given == name != "c":
            tensors[name] = d.tensor(*size)
    if tensors["inputs"] is None and tensors["h"] is None:
        tensors["h"] = d.tensor(*size)
    return tensors | {"steps": steps}, (steps, batch, channels, features, height, width)


def weight(d: Drawn, outputs: int, inputs: int, size: int) -> Tensor:
    """Of a convolution; finite, since what padding times infinity is nobody says."""
    kind, scale = d.pick(["normal", "normal", "zero"]), max(1, inputs * size**2) ** -0.5
    return d.tensor(outputs, inputs, size, size, kind=kind, plant=False, scale=scale)


def conv_rnn(d: Drawn, count: int, states: tuple[str, ...]) -> tuple[dict, tuple]:
    given, sizes = sequence(d, states)
    steps, batch, channels, features, _, _ = sizes
    given |= {
        "h_weight": weight(d, count * features, features, d.pick([1, 3])),
        "x_weight": weight(d, count * features, channels, d.pick([1, 3])),
        "h_bias": d.maybe(lambda: d.tensor(count * features)),
        "h_dilation": d.pick([1, 2, (1, 3)]),
        "recompute": d.pick(["none", "gates"]),
        "lengths": None,
    }
    if given["inputs"] is not None:
        given["x_bias"] = d.maybe(lambda: d.tensor(count * features))
        given["x_dilation"] = d.pick([1, 2])
    else:
        given["x_weight"] = None
    if d.pick([False, False, True]):
        given["lengths"] = [d.pick(range(steps + 1)) for _ in range(batch)]
    return given, sizes


def conv_gru(d: Drawn) -> dict:
    given, (steps, batch, _, *size) = conv_rnn(d, 3, ("h",))
    options = {"order": d.order("run"), "reset": d.pick(["after", "before"])}
    return given | options | blend(d, (steps, batch, *size))


def conv_lstm(d: Drawn) -> dict:
    given, (_, batch, _, *size) = conv_rnn(d, 4, ("h", "c"))
    options = {"order": d.order("ifog"), "forget_bias": d.pick([0.0, 1.0])}
    return given | options | {"peephole": peephole(d, (batch, *size), same=True)}


def traj_gru(d: Drawn) -> dict:
    given, (steps, batch, channels, features, *size) = sequence(d, ("h",))
    hidden, links = 2, d.pick([1, 2])

    def conv(outputs: int, inputs: int, kernel: int) -> tuple:
        bias = d.maybe(lambda: d.tensor(outputs))
        return weight(d, outputs, inputs, kernel), bias

    given["i2h"] = given["i2f_conv1"] = None
    if given["inputs"] is not None:
        given["i2h"] = conv(3 * features, channels, d.pick([1, 3]))
        given["i2f_conv1"] = conv(hidden, channels, d.pick([1, 3]))
    given["h2f_conv1"] = conv(hidden, features, d.pick([1, 3]))
    given["flows_conv"] = conv(2 * links, hidden, d.pick([1, 3]))
    given["ret"] = conv(3 * features, links * features, 1)
    options = blend(d, (steps, batch, features, *size))
    del options["update"]
    given["recompute"] = d.pick(["none", "gates", "flows"])
    return given | options | {"return_flows": True}


def channel_mean(d: Drawn) -> dict:
    return {"branches": d.images(1)}


def se_scale(d: Drawn) -> dict:
    size = d.image()
    return {"input": d.tensor(*size), "logits": d.other(*size[:2])}


def sk_select(d: Drawn) -> dict:
    branches = d.images(2)
    batch, channels, *_ = branches[0].shape
    return {"branches": branches, "logits": d.other(batch, len(branches), channels)}


def hff_concat(d: Drawn) -> dict:
    branches = d.images(1)
    skipped = d.pick([0, len(branches) - 1])
    results = (len(branches) - skipped) * branches[0].shape[1]
    options = {"branches": branches, "skipped": skipped}
    names = d.pick([(), ("scale", "shift"), ("slope",)])
    return options | {name: d.other(results) for name in names}


def spatial_pyramid_pool(d: Drawn) -> dict:
    options = {"levels": d.pick([1, 2, 4]), "mode": d.pick(["max", "mean"])}
    return {"input": d.tensor(*d.image(least=1))} | options


OPERATORS: dict[str, Callable[[Drawn], dict]] = {
    draw.__name__: draw
    for draw in (
        *(flow_warp, flow_conv, lstm_gates, gru_gates, gru_reset, gru_output),
        *(conv_lstm, conv_gru, traj_gru),
        *(channel_mean, se_scale, sk_select, hff_concat, spatial_pyramid_pool),
    )
}
SEQUENCES = ("conv_lstm", "conv_gru", "traj_gru")
# What the reference knows nothing of.
OURS_ALONE = ("recompute", "return_flows")


def exact(tensor: Any, dtype: torch.dtype) -> Any:
    """The values as the operator reads them, in float64."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return tensor
    # A copy is an operation, and so off by a rounding where all are: terms may cancel.
    return tensor.detach().to(opmath(dtype)).to(torch.float64, copy=True).cpu()


# What is no argument of any operator, or of few.
OBJECTS = [None, True, -1, 0, 2**62, 2**70, -(2**70), 0.5, math.nan, math.inf, 1j]
OBJECTS += ["", "tanh", b"run", [], (), {}, [None], (1, 2), [2**70, 1], object()]
OBJECTS += [Tensor, torch.ones(2), torch.ones(2, dtype=torch.int64).numpy()]


def wrong_tensors(tensor: Tensor) -> list[Callable[[], Any]]:
    """What is like the tensor but for one thing."""
    first, *others = tensor.shape or [0]
    made: list[Callable[[], Any]] = [
        lambda: tensor[None],
        lambda: tensor.flatten(),
        lambda: tensor.sum(),
        lambda: tensor.new_zeros([n + 1 for n in tensor.shape]),
        lambda: tensor.new_zeros([0 for _ in tensor.shape]),
        lambda: tensor.new_zeros([first + 1, *others]),
        lambda: tensor.new_zeros([3 * first, *others]),
        lambda: tensor.to("meta"),
        lambda: tensor.to_sparse(),
        lambda: tensor.tolist(),
        lambda: tensor.double().numpy(force=True),
    ]
    kinds = [torch.int64, torch.bool, torch.uint8, torch.complex64, torch.float8_e5m2]
    return made + [lambda k=k: tensor.to(k) for k in [*kinds, *DTYPES]]


def spoiled(d: Drawn, value: Any) -> Any:
    """The argument, or one within it, made wrong."""
    if isinstance(value, (list, tuple)) and value and d.pick([True, False]):
        items = list(value)
        which = d.pick(range(len(items)))
        dropped = d.pick([True, False, False])
        items[which : which + 1] = [] if dropped else [spoiled(d, items[which])]
        return type(value)(items)
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    dense = dense and value.dtype in DTYPES
    if dense and value.device.type == "cpu" and d.pick([True, True, False]):
        return d.pick(wrong_tensors(value))()
    return d.pick(OBJECTS)
