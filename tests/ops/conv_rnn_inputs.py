"""What the tests of conv_gru and conv_lstm share: arguments, and their derivatives."""

from dataclasses import dataclass
from typing import Any

import torch

import trajgru_ext
from trajgru_ext import reference

FORMATS = [torch.contiguous_format, torch.channels_last]
PEEPHOLE = ("w_ci", "w_cf", "w_co")
SIZES = (3, 2, 2, 3, 4, 5)
SMALL = (2, 1, 1, 2, 2, 3)


@dataclass(frozen=True)
class Net:
    """A sequence operator, called with named tensors; it returns a tuple."""

    name: str
    gates: int
    states: tuple[str, ...]
    results: int

    def __call__(self, tensors: dict, **options: Any) -> tuple:
        return self._call(trajgru_ext, tensors, options)

    def naive(self, tensors: dict, **options: Any) -> tuple:
        return self._call(reference, tensors, options)

    def _call(self, module: Any, tensors: dict, options: dict) -> tuple:
        weights = [tensors[name] for name in PEEPHOLE if name in tensors]
        others = {k: v for k, v in tensors.items() if k not in PEEPHOLE}
        named = dict.fromkeys(("inputs", *self.states, "x_weight")) | others | options
        if weights:
            named["peephole"] = tuple(weights)
        found = getattr(module, self.name)(**named)
        return found if isinstance(found, tuple) else (found,)


NETS = {
    "conv_gru": Net("conv_gru", 3, ("h",), 1),
    "conv_lstm": Net("conv_lstm", 4, ("h", "c"), 2),
}


def sample_arguments(
    net,
    device="cpu",
    dtype=torch.float64,
    sizes=SIZES,
    kernels=(3, 3),
    *,
    with_inputs=True,
    with_h=True,
    with_bias=True,
    peephole=None,
    layout=FORMATS[0],
):
    """The tensors by name; sizes: T, B, C, F, H, W; kernels: of inputs and of h.

    peephole: "channel" or "element".
    """
    steps, batch, channels, features, height, width = sizes
    generator = torch.Generator().manual_seed(sum(sizes))

    def normal(*shape, scale=1.0):
        values = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(device, dtype)

    def images(count, depth):
        return normal(count, depth, height, width).contiguous(memory_format=layout)

    def weight(depth, size):
        scale = max(1, depth * size * size) ** -0.5
        return normal(net.gates * features, depth, size, size, scale=scale)

    tensors = {}
    if with_inputs:
        inputs = images(steps * batch, channels)
        tensors["inputs"] = inputs.unflatten(0, (steps, batch))
        tensors["x_weight"] = weight(channels, kernels[0])
    if with_h:
        tensors |= {name: images(batch, features) for name in net.states}
    tensors["h_weight"] = weight(features, kernels[1])
    if with_bias:
        for name in ("x_bias", "h_bias") if with_inputs else ("h_bias",):
            tensors[name] = normal(net.gates * features, scale=0.5)
    if peephole is not None:
        pixel = (1, 1) if peephole == "channel" else (height, width)
        tensors |= {name: normal(1, features, *pixel) for name in PEEPHOLE}
    return tensors


def derivatives(function, tensors, seeds, **options):
    """The results and the gradients to all tensors; seeds: to results, or None."""
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items()}
    outputs = function(leaves, **options)
    pairs = [(o, s) for o, s in zip(outputs, seeds, strict=True) if s is not None]
    gradients = torch.autograd.grad(
        [o for o, _ in pairs], list(leaves.values()), [s for _, s in pairs]
    )
    return *outputs, *gradients


def naive_derivatives(net, tensors, seeds, **options):
    """By the formula, in float64, on the CPU."""
    exact = {k: t.cpu().double() for k, t in tensors.items()}
    exact_seeds = [None if s is None else s.cpu().double() for s in seeds]
    options = {k: v.cpu() if hasattr(v, "cpu") else v for k, v in options.items()}
    return derivatives(net.naive, exact, exact_seeds, **options)


def sample_seeds(net, tensors, steps):
    """Gradients to the results: the states of all steps, and of an LSTM the last c."""
    generator = torch.Generator().manual_seed(1)
    weight = tensors["h_weight"]
    sized = tensors.get("inputs", tensors.get("h"))
    batch, features, size = sized.shape[-4], weight.shape[1], sized.shape[-2:]
    shapes = [(steps, batch, features, *size), (batch, features, *size)]
    values = [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in shapes[: net.results]
    ]
    return [value.to(weight.device, weight.dtype) for value in values]


def on_tensors(net, names, **options):
    """The operator as a function of tensors in the order of their names."""

    def call(*tensors):
        return net(dict(zip(names, tensors, strict=True)), **options)

    return call
