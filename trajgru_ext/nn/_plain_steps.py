"""Steps of cells that are one call of a compiled function."""

# Unions in inner functions stay unevaluated: torch 2.9 cannot compile them.
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext import _C
from trajgru_ext.nn._as_built import ByWeights, hooked
from trajgru_ext.nn._recurrent import own_parameters
from trajgru_ext.ops._arguments import recorded_by_jit
from trajgru_ext.ops._autograd import transforming
from trajgru_ext.ops._overrides import PLAIN
from trajgru_ext.ops._registry import replaced


def own_or_attribute(module: nn.Module, name: str) -> Any:
    """A parameter, quicker than an attribute where it is one."""
    own = module._parameters
    return own[name] if name in own else getattr(module, name)


def _more_than_computed() -> bool:
    """Whether something is traced or transformed, beside being computed."""
    return (
        torch.compiler.is_compiling()
        or transforming()
        or recorded_by_jit()
        or replaced()
    )


class PlainSteps(ByWeights):
    """A cell whose step is one call, where there is nothing beside it to be done."""

    input_channels: int
    hidden_channels: int

    def _is_plain(self, input: Tensor | None, *states: Tensor | None) -> bool:
        """Whether a step's arguments fit, and are nothing but numbers to compute with.

        Not where anything is traced, transformed or cast, or of another dtype; nor for
        images of no pixels, which torch doesn't convolve.
        """
        if _more_than_computed():
            return False
        channels, features = self.input_channels, self.hidden_channels
        fits: bool = _C.fits_step(
            input, states, channels, features, self._own_parameters()
        )
        return fits

    def _only_step(
        self,
        inputs: Tensor | None,
        lengths: Any,
        steps: int | None,
        recompute: str,
    ) -> Tensor | None:
        """The input of a sequence of one small step, which is sooner taken as a step.

        None for any other sequence. A large step's convolutions need not be the same
        bits for any number of threads, as a sequence's are.
        """
        if (
            _more_than_computed()
            or type(inputs) not in PLAIN
            or inputs is None
            or inputs.dim() != 5
            or inputs.shape[0] != 1
            or steps not in (1, None)
            or lengths is not None
            or recompute != "none"
        ):
            return None
        pixels = inputs.numel() // max(inputs.shape[2], 1)
        most = max(one.numel() for one in self._own_parameters())
        # Which one thread computes alone (csrc/cpu/parallel.h).
        return inputs[0] if pixels * most <= _C.few_products else None

    def _own_parameters(self) -> list[Tensor]:
        """Those of the cell and its convolutions, quicker than `parameters`."""
        found = list(own_parameters(self).values())
        for module in self._modules.values():
            if module is not None:
                found += own_parameters(module).values()
        return [one for one in found if one is not None]

    def _plain_convolution(self, name: str, inputs: int, outputs: int | None) -> Any:
        """What a compiled step reads of a convolution that keeps the size.

        None where there is none, or one that runs more or makes something else.
        outputs: None where any number of them will do.
        """
        conv: Any = self._modules.get(name)
        if type(conv) is not nn.Conv2d or hooked(conv):
            return None
        if conv.stride != (1, 1) or conv.groups != 1 or conv.padding_mode != "zeros":
            return None
        weight, bias = own_or_attribute(conv, "weight"), own_or_attribute(conv, "bias")
        padding, dilation = conv.padding, conv.dilation
        fits = weight.dim() == 4 and weight.shape[1] == inputs
        if not fits or outputs not in (weight.shape[0], None):
            return None
        if type(padding) is not tuple or type(dilation) is not tuple:
            return None
        down, across = weight.shape[2:]
        if 2 * padding[0] != dilation[0] * (down - 1) or 2 * padding[1] != dilation[
            1
        ] * (across - 1):
            return None
        return weight, bias, padding, dilation
