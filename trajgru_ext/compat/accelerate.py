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
from trajgru_ext.compat._gate_plans import gate_class, plan
from trajgru_ext.compat._gate_rewrites import Alone
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
    this package too. Three kinds of modules change:

    - Instances of the layers that `trajgru_ext.compat` has are found anywhere in the
      model by their class name, attributes, and the names, shapes and settings of their
      parameters and layers; the packages they come from need not be importable. They
      run the `forward` of `trajgru_ext.compat`, whose documentation says where
      originals are faulty. Of Precipitation-Nowcasting's `Encoder` and `Forecaster` the
      convolutions run on images whose channels are together, which is faster.
    - Every other `torch.nn.Conv2d`, parametrised or not, that can be quicker as
      `trajgru_ext.nn.Conv2d` becomes one, in modules of any class.
    - Modules of any class whose `forward` can be traced by `torch.fx` and has the gate
      update of an LSTM, of its memory alone, or of a GRU, however it is written, run
      it by `lstm_gates`, `lstm_memory`, `gru_gates`, `gru_reset` or `gru_output`, and
      calls of `torch.nn.functional.conv2d` by `trajgru_ext.conv2d`; everything else in
      their `forward` stays as it is. Arguments that are None, numbers or texts choose
      the trace, which is made when they first come, and so do how many there are and
      the sizes that loops and conditions ask for. The original runs where others are no
      tensors, or where an attribute of the module was set to something else; and the
      original's arithmetic where an operator does not take the sizes, dtypes or device.
      New traces are made in the main thread alone, at most 32 for a module, of loops
      over at most 64 items. Not noticed are changes of the environment, and of what a
      forward reads of a class by the class's name.

    A published layer is not replaced as a whole where it is a subclass with methods of
    its own (with a warning, unless its gates are found), where something inside has
    hooks, where it cannot be run here, or where its numbers are others. For the latter
    it is run on small random data with random parameters, unless `probe` is False. What
    is hooked, wrapped, replaced, pruned or reparametrised inside a layer afterwards
    makes it call its modules, as the original does, step by step; its `computes()` says
    so. Gates that no operator computes are left alone too, as those of a convolution
    for each gate of an LSTM.

    Tools that look up a module's exact class (quantisation, `fuse_modules`) need
    `restore` first.

    Args:
        model: any module; it may itself be such a layer.
        verify: a sample of the model's input, or a tuple of its arguments. The model
            is first run on it as it was and made fast, forward and backward, in its
            mode and with its hooks, and stays as it was where results or gradients
            differ by more than round-off.
        recompute: what the backward pass computes again to save memory: "none", "gates"
            or "flows" (of layers without flows: the gates); see `trajgru_ext.traj_gru`.
            With either, those convolutions too.
        probe: whether each layer is compared with its replacement, and each gate update
            with the operator, before it is replaced.

    Returns:
        A `Report`: what was made fast, what was recognised and left alone, and why.

    Raises:
        TypeError: model is no module.
        ValueError: with `verify` the results differ (the worst are named), or
            recompute is none of those.

    Examples:
        >>> import torch
        >>> from trajgru_ext import accelerate
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, padding=1))
        >>> print(accelerate(model, verify=torch.randn(1, 64, 32, 32)))
        convolutions: 1 (0)

    """
    op = "accelerate"
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model must be a Module, got {type(model).__name__}")
    check_choice(op, "recompute", recompute, RECOMPUTE)
    fast = [Swap(m, type(m)) for m in model.modules() if isinstance(m, Accelerated)]
    restore(model)  # another call may choose otherwise
    try:
        search = _Search(recompute, probe)
        search.visit(model)
        report, swaps = search.report, search.swaps
        if verify is not None and swaps:
            _verify(op, model, swaps, verify)
    except BaseException:
        commit(fast)
        raise
    commit(swaps)
    for name in search.warned:
        if (why := report.left_alone.get(name)) is not None:
            what = f"{op}: {name or 'the model'} is left alone: {why}"
            warnings.warn(what, stacklevel=2)
    return report


class _Search:
    """What is to be changed in a model, and the report of it."""

    def __init__(self, recompute: str, probe: bool) -> None:
        self.recompute, self.probe = recompute, probe
        self.report = Report()
        self.swaps: list[Swap] = []
        self.warned: list[str] = []
        """Names of modules whose class somebody may think is made fast."""

    def visit(self, model: nn.Module) -> None:
        """Look at all modules of a model."""
        whole: set[nn.Module] = set()  # what is inside of modules replaced as a whole
        for name, module in model.named_modules():
            for child, stage in stages(module).items():
                kind = fast_class(Stage, nn.Sequential, {"recompute": self.recompute})
                self.swaps.append(Swap(stage, kind))
                inner = f"{name}.{child}" if name else child
                self.report.replaced[inner] = class_name(Stage)
                whole.update(stage.modules())
            if module in whole:
                continue
            if isinstance(module, ByWeights) or self._layer(name, module):
                whole.update(module.modules())
            elif _is_plain_convolution(module):
                if may_pay(module):
                    self.swaps.append(swap(module, convolution_class()))
                    self.report.convolutions.append(name)
            else:
                self._gates(name, module)

    def _layer(self, name: str, module: nn.Module) -> bool:
        """Replace an instance of a published class, if it is one."""
        if published_base(module) is None:
            return False
        try:
            found = layer_swaps(module, self.recompute, self.probe)
        except LeftAlone as left:
            self.report.left_alone[name] = str(left)
            if left.warn:
                self.warned.append(name)
            return False
        self.swaps += found
        self.report.replaced[name] = class_name(found[0].kind._parts[0])
        return True

    def _gates(self, name: str, module: nn.Module) -> None:
        """Replace the gate updates of a module of any class, if it has some."""
        kind = own_class(module)
        try:
            found = plan(module, kind, self.probe)
        except Alone as alone:
            reasons = [self.report.left_alone.get(name), str(alone)]
            self.report.left_alone[name] = "; ".join(filter(None, reasons))
            return
        if found is not None:
            self.swaps.append(Swap(module, gate_class(kind, found)))
            self.report.gates[name] = found.what()
            self.report.left_alone.pop(name, None)


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

    Examples:
        >>> import torch
        >>> from trajgru_ext import accelerate, restore
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, padding=1))
        >>> _ = accelerate(model)
        >>> restore(model)
        ['0']

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
