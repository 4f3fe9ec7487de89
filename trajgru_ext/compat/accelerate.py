"""One call that makes a model run on our operators."""

import warnings
from typing import Any

import torch
from torch import nn

from trajgru_ext.compat import _compare
from trajgru_ext.compat._fast_classes import (
    Accelerated,
    Swap,
    commit,
    convolution_class,
    fast_class,
    original,
    own_class,
    swap,
    swapped,
)
from trajgru_ext.compat._layers import (
    LeftAlone,
    class_name,
    layer_swaps,
    published_base,
)
from trajgru_ext.compat._precipitation_networks import Stage
from trajgru_ext.compat._published import stages
from trajgru_ext.compat._report import Report
from trajgru_ext.nn._as_built import ByWeights
from trajgru_ext.nn.conv2d import may_pay
from trajgru_ext.ops._options import check_choice
from trajgru_ext.ops._traj_gru_fakes import RECOMPUTE

__all__ = ["Report", "accelerate", "restore"]


def accelerate(
    model: nn.Module,
    *,
    verify: Any = None,
    recompute: str = "none",
    probe: bool = True,
) -> Report:
    """Make a model's recurrent layers and convolutions fast ones, in place.

    Every module keeps its identity, its parameters, submodules, hooks, mode, device and
    dtype, and is still an instance of its class: only what its `forward` runs changes.
    Optimisers, `state_dict`, `copy.deepcopy` and pickles go on as before; pickles need
    this package too. Two kinds of modules change:

    - Instances of the layers that `trajgru_ext.compat` has are found anywhere in the
      model by their class name, attributes, and the names, shapes and settings of their
      parameters and layers; the packages they come from need not be importable. They
      run the `forward` of `trajgru_ext.compat`, whose documentation says where
      originals are faulty. Of Precipitation-Nowcasting's `Encoder` and `Forecaster` the
      convolutions run on images whose channels are together, which is faster.
    - Every other `torch.nn.Conv2d`, parametrised or not, that can be quicker as
      `trajgru_ext.nn.Conv2d` becomes one, in modules of any class.

    A published layer is left alone where it is a subclass with methods of its own (with
    a warning), where something inside has hooks, where it cannot be run here, or where
    its numbers are others. For the latter it is run on small random data with random
    parameters, unless `probe` is False. What is hooked, wrapped, replaced, pruned or
    reparametrised inside a layer afterwards makes it call its modules, as the original
    does, step by step; its `computes()` says so.

    Args:
        model: any module; it may itself be such a layer.
        verify: a sample of the model's input, or a tuple of its arguments. The model
            is first run on it as it was and made fast, forward and backward, in its
            mode and with its hooks, and stays as it was where results or gradients
            differ by more than round-off.
        recompute: what the backward pass computes again to save memory: "none", "gates"
            or "flows" (of layers without flows: the gates); see `trajgru_ext.traj_gru`.
            With either, those convolutions too.
        probe: whether each module is compared with its replacement before it is
            replaced.

    Returns:
        A `Report`: what was made fast, what was recognised and left alone, and why.

    Raises:
        TypeError: model is no module.
        ValueError: with `verify` the results differ (the worst are named), or
            recompute is none of those.

    """
    op = "accelerate"
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model must be a Module, got {type(model).__name__}")
    check_choice(op, "recompute", recompute, RECOMPUTE)
    fast = [Swap(m, type(m)) for m in model.modules() if isinstance(m, Accelerated)]
    restore(model)  # another call may choose otherwise
    try:
        report, swaps = _find(op, model, recompute, probe)
        if verify is not None and swaps:
            _verify(op, model, swaps, verify)
    except BaseException:
        commit(fast)
        raise
    commit(swaps)
    return report


def _find(
    op: str, model: nn.Module, recompute: str, probe: bool
) -> tuple[Report, list[Swap]]:
    report, swaps = Report(), []
    whole: set[nn.Module] = set()  # what is inside of modules replaced as a whole
    for name, module in model.named_modules():
        for child, stage in stages(module).items():
            kind = fast_class(Stage, nn.Sequential, {"recompute": recompute})
            swaps.append(Swap(stage, kind))
            report.replaced[f"{name}.{child}" if name else child] = class_name(Stage)
            whole.update(stage.modules())
        if module in whole:
            continue
        if isinstance(module, ByWeights):
            whole.update(module.modules())
        elif published_base(module) is not None:
            try:
                found = layer_swaps(module, recompute, probe)
            except LeftAlone as left:
                report.left_alone[name] = str(left)
                if left.warn:
                    what = f"{op}: {name or 'the model'} is left alone: {left}"
                    warnings.warn(what, stacklevel=3)
                continue
            report.replaced[name] = class_name(found[0].kind._parts[0])
            swaps += found
            whole.update(module.modules())
        elif _is_plain_convolution(module) and may_pay(module):
            swaps.append(swap(module, convolution_class()))
            report.convolutions.append(name)
    return report, swaps


def _is_plain_convolution(module: Any) -> bool:
    """Whether it computes what its class says: PyTorch's, perhaps parametrised."""
    own = vars(module).keys() & {"forward", "_conv_forward"}
    return own_class(module) is nn.Conv2d and not own


def restore(model: nn.Module) -> list[str]:
    """Undo `accelerate`: every module of the model is of its own class again.

    Args:
        model: a module.

    Returns:
        The names of the modules that it had replaced, those inside of others too.

    """
    fast = [(n, m) for n, m in model.named_modules() if isinstance(m, Accelerated)]
    for _, module in fast:
        module.__class__ = original(type(module))
    return [name for name, _ in fast]


def _verify(op: str, model: nn.Module, swaps: list[Swap], sample: Any) -> None:
    """Raise a ValueError where the model computes something else with the swaps."""
    arguments = sample if isinstance(sample, tuple) else (sample,)
    parameters = dict(model.named_parameters())
    results = []
    for some in ([], swaps):
        with _compare.unchanged(model), torch.enable_grad(), swapped(some):
            results.append(_compare.run(model, arguments, parameters))
    if wrong := _compare.differences(results[1], results[0]):
        more = "" if len(wrong) <= 5 else f", and {len(wrong) - 5} more"
        raise ValueError(
            f"{op}: the model must compute what it did, got other numbers, relative "
            f"differences: {', '.join(wrong[:5])}{more}"
        )
