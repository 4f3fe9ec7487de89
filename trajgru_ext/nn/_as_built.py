"""By weights or by modules: whether modules are as a constructor made them.

A layer that hands the weights of its modules to one kernel computes what a call of
those modules would only while they are what its constructor made. People wrap, replace,
hook, prune and reparametrise modules, at any time; so the layer asks at every call, and
where something is not as built it calls the modules themselves.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from trajgru_ext.ops._overrides import PLAIN

# What a kernel takes for granted of a module, beside its class and the sizes of its
# parameters and buffers.
_SETTINGS: dict[type, tuple[str, ...]] = {
    nn.Conv2d: ("stride", "padding", "dilation", "groups", "padding_mode")
}

_HOOKS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_backward_hooks": "a backward hook",
    "_backward_pre_hooks": "a backward pre-hook",
}

# Attributes of an instance that stand before its class's.
_OWN = ("forward", "_conv_forward")


_HOOKED = "a hook of all modules (torch.nn.modules.module) is set"


class Built(NamedTuple):
    """What a module was when its layer was made."""

    kind: type
    settings: dict[str, Any]
    sizes: dict[str, tuple[int, ...] | None]
    """Of parameters and buffers; None for one that the module is made without."""
    inner: dict[str, "Built"]


def built(module: nn.Module) -> Built:
    """Note how a module is, and all modules in it."""
    tensors = {**module._parameters, **module._buffers}
    return Built(
        type(module),
        {name: getattr(module, name) for name in _SETTINGS.get(type(module), ())},
        {name: None if t is None else tuple(t.shape) for name, t in tensors.items()},
        {name: built(one) for name, one in module._modules.items() if one is not None},
    )


def kind_of(module: nn.Module | None) -> type:
    """The class that says what a module computes.

    Of a module that `accelerate` gave a class of its own, it is the one named there.
    """
    kind: type = vars(type(module)).get("_stands_for", type(module))
    return kind


def change(module: nn.Module | None, made: Built) -> str | None:
    """What is no longer so, as " has a forward hook" or ".conv has ...", or None."""
    kind = kind_of(module)
    if module is None or kind is not made.kind:
        return f" is a {kind.__name__}, not the {made.kind.__name__} it was made"
    # Attributes are read past `__getattr__`, as tracers put others in their place.
    own = vars(module)
    if why := _other_attribute(own, made) or _other_tensors(own, made):
        return why
    inner = own["_modules"]
    if inner.keys() != made.inner.keys():
        return f" has {list(inner)} inside, not {list(made.inner)}"
    for name, one in made.inner.items():
        if why := change(inner[name], one):
            return f".{name}{why}"
    return None


def _other_attribute(own: dict[str, Any], made: Built) -> str | None:
    for hooks, what in _HOOKS.items():
        if own[hooks]:
            return f" has {what}"
    for name in _OWN:
        if name in own:
            return f" has a {name} of its own"
    for name, value in made.settings.items():
        if own[name] != value:
            return f" has {name}={own[name]!r}, not {value!r}"
    return None


def _other_tensors(own: dict[str, Any], made: Built) -> str | None:
    parameters, buffers = own["_parameters"], own["_buffers"]
    for name, size in made.sizes.items():
        tensor = parameters.get(name)
        tensor = buffers.get(name) if tensor is None else tensor
        if tensor is None and size is not None:
            tensor = own.get(name)  # as DataParallel's replicas have it
        if type(tensor) in PLAIN and tensor.shape == size:
            continue
        if why := _other_tensor(tensor, size):
            return f".{name} {why}"
    return None


def _other_tensor(tensor: Any, size: tuple[int, ...] | None) -> str | None:
    if tensor is None:
        return None if size is None else "is not there any more"
    kind = type(tensor)
    if size is None or not isinstance(tensor, Tensor):
        return f"is a {kind.__name__} now"
    if tensor.shape != size:
        return f"is {list(tensor.shape)}, not {list(size)}"
    plain = kind.__torch_function__ is torch._C._disabled_torch_function_impl
    if kind in PLAIN or (plain and not is_traceable_wrapper_subclass(tensor)):
        return None
    return f"is a {kind.__name__}, not a plain Tensor"


def all_hooked() -> str | None:
    """Whether hooks are set that every module runs: a sentence, or None."""
    hooked = (
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )
    return _HOOKED if hooked else None


def hooked(module: nn.Module) -> bool:
    """Whether a call of the module runs more than its class's forward."""
    own = vars(module)
    for name in _OWN:
        if name in own:
            return True
    for hooks in _HOOKS:
        if own[hooks]:
            return True
    return all_hooked() is not None


class ByWeights(nn.Module):
    """A module that reads the weights of those inside it, while they are as built."""

    _built: Built

    def _remember(self, *inner: str) -> None:
        """Note how the modules inside are, all or those of these names.

        For the end of a constructor.
        """
        made = built(self)
        kept = {name: made.inner[name] for name in inner or made.inner}
        self._built = made._replace(inner=kept)

    def _change(self) -> str | None:
        """What inside is not as built, as "conv has a forward hook", or None."""
        if why := all_hooked():
            return why
        inner = vars(self)["_modules"]
        for name, made in self._built.inner.items():
            if why := change(inner.get(name), made):
                return f"{name}{why}"
        return None

    def _change_in(self, name: str) -> str | None:
        """What of one of the modules inside is not as built, or None."""
        if why := all_hooked():
            return why
        why = change(vars(self)["_modules"].get(name), self._built.inner[name])
        return None if why is None else f"{name}{why}"

    def computes(self) -> str:
        """How a call now computes: "by weights", or "by modules: " and the reason.

        By weights, those of the modules inside are handed to one kernel. By modules,
        because something inside is not as the constructor made it, those modules are
        called, step by step.
        """
        why = self._change()
        return "by weights" if why is None else f"by modules: {why}"

    def _options(self) -> str:
        """What `repr` shows of the settings."""
        return ""

    def extra_repr(self) -> str:
        """What `repr` shows: the settings, and why modules are called, if they are."""
        why = self._change()
        shown = [self._options(), "" if why is None else f"by modules: {why}"]
        return ", ".join(one for one in shown if one)
