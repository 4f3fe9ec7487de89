"""Functions and modules that are activations, or do nothing."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

SIGMOID, TANH, RELU, LEAKY_RELU = "sigmoid", "tanh", "relu", "leaky_relu"
IDENTITY = "identity"
CANDIDATES = (TANH, RELU, LEAKY_RELU)

FUNCTIONS: dict[Any, str] = {
    torch.sigmoid: SIGMOID,
    functional.sigmoid: SIGMOID,
    torch.special.expit: SIGMOID,
    torch.tanh: TANH,
    functional.tanh: TANH,
    torch.relu: RELU,
    functional.relu: RELU,
    functional.leaky_relu: LEAKY_RELU,
}
_MODULES: dict[type, str] = {
    nn.Sigmoid: SIGMOID,
    nn.Tanh: TANH,
    nn.ReLU: RELU,
    nn.LeakyReLU: LEAKY_RELU,
    nn.Identity: IDENTITY,
}
_DROPOUTS = (nn.Dropout, nn.Dropout2d)

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def is_plain(module: nn.Module) -> bool:
    """Whether a call of a module of PyTorch's does what its class says, and no more."""
    own = vars(module)
    return "forward" not in own and not any(own[name] for name in _HOOKS)


def activation_of(module: nn.Module) -> tuple[str, float] | None:
    """The function and slope of a module that is an activation, or does nothing."""
    function = _MODULES.get(type(module))
    if isinstance(module, _DROPOUTS) and module.p == 0:
        function = IDENTITY
    if function is None or not is_plain(module):
        return None
    return function, float(getattr(module, "negative_slope", 0.0))
