"""Proves the operators on the machine at hand, against what is known to be right.

For every operator, dtype and memory format, values and gradients are compared with the
naive formula (`trajgru_ext.reference`) on a few pixels, and with PyTorch's own
operators (`trajgru_ext.decompositions`) on enough of them for several tiles or blocks,
both in float64. Gradients are also compared with finite differences, and a second run
with the first, bit for bit.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import trajgru_ext
from trajgru_ext import reference
from trajgru_ext.decompositions import decomposed
from trajgru_ext.info import collect

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
Sizes = dict[str, int]
Tensors = dict[str, Tensor]


def _sizes(*sizes: int) -> Sizes:
    """Steps, batch, channels, features, hidden channels, links, height, width."""
    return dict(zip("TBCFGLHW", sizes, strict=True))


FEW = _sizes(2, 1, 3, 2, 2, 2, 3, 4)  # for the naive formula, pixel by pixel
MANY = _sizes(3, 2, 19, 17, 5, 3, 33, 37)  # which fill no tile, block or vector
NAIVE, PYTORCH = "naive formula", "PyTorch"
GRADCHECK, AGAIN = "finite differences", "a second run"
AGAINST = (NAIVE, PYTORCH, GRADCHECK, AGAIN)


@dataclass(frozen=True)
class Case:
    """An operator, how it is called, and its tensors.

    shapes: the factors of each size, by the letters above, as "B 4F H W".
    recurrent: whether each step rounds what the one before has rounded.
    fixed_order: whether CUDA, too, adds up in a fixed order.
    """

    name: str
    call: Callable[[ModuleType, Tensors], Any]
    shapes: dict[str, str]
    recurrent: bool = False
    fixed_order: bool = True

    def tensors(self, sizes: Sizes, dtype: torch.dtype, device: str) -> Tensors:
        """Random ones."""
        generator = torch.Generator().manual_seed(len(self.name))
        found = {}
        for name, text in self.shapes.items():
            shape = [_product(factors, sizes) for factors in text.split()]
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            found[name] = _scaled(name, values).to(device, dtype)
        return found

    def in_format(self, tensors: Tensors, layout: str) -> Tensors:
        """The same, images and flows in a memory format."""
        found = dict(tensors)
        for name, tensor in tensors.items():
            if self.shapes[name].endswith("H W"):
                images = tensor.flatten(0, -4).contiguous(memory_format=FORMATS[layout])
                found[name] = images.unflatten(0, tensor.shape[:-3])
        return found


def _product(factors: str, sizes: Sizes) -> int:
    parts = re.findall(r"\d+|[A-Z]", factors)
    return math.prod(sizes[one] if one in sizes else int(one) for one in parts)


def _scaled(name: str, values: Tensor) -> Tensor:
    """Weights that keep the scale, and flows within a cell, whatever is rounded."""
    if name in ("flow", "flows"):
        return (2 * values).floor() + 0.5 + 0.1 * values.clamp(-3, 3)
    if name == "flows_bias":
        return torch.full_like(values, 0.5)
    if "weight" in name:
        values = values / math.prod(values.shape[1:]) ** 0.5
    return 0.05 * values if name == "flows_weight" else values


def _keywords(function: str, **options: Any) -> Callable[[ModuleType, Tensors], Any]:
    return lambda module, tensors: getattr(module, function)(**tensors, **options)


def _listed(function: str, **options: Any) -> Callable[[ModuleType, Tensors], Any]:
    """With the first tensors, of one letter and a number, as a list of branches."""

    def call(module: ModuleType, tensors: Tensors) -> Any:
        branches = [t for name, t in tensors.items() if name[1:].isdigit()]
        rest = {name: t for name, t in tensors.items() if not name[1:].isdigit()}
        return getattr(module, function)(branches, **rest, **options)

    return call


def _with_peephole(function: str) -> Callable[[ModuleType, Tensors], Any]:
    def call(module: ModuleType, tensors: Tensors) -> Any:
        *names, i, f, o = tensors
        peephole = tuple(tensors[name] for name in (i, f, o))
        rest = {name: tensors[name] for name in names}
        return getattr(module, function)(**rest, peephole=peephole)

    return call


def _call_traj_gru(module: ModuleType, tensors: Tensors) -> Any:
    inputs, h, *rest = tensors.values()
    convs = zip(rest[::2], rest[1::2], strict=True)
    options = {} if module is reference else {"return_flows": True}
    return module.traj_gru(inputs, h, *convs, **options)


IMAGE, GATE = "B C H W", "B F H W"
PEEPHOLE = dict.fromkeys(("w_ci", "w_cf", "w_co"), "1 F 1 1")
BRANCHES = dict.fromkeys(("x0", "x1", "x2"), IMAGE)


def _gates(count: int, state: str) -> dict[str, str]:
    return {"x_gates": f"B {count}F H W", "h_gates": f"B {count}F H W", state: GATE}


def _sequence(gates: int, *states: str) -> dict[str, str]:
    weights = {"x_weight": f"{gates}F C 3 3", "h_weight": f"{gates}F F 3 3"}
    biases = {"x_bias": f"{gates}F", "h_bias": f"{gates}F"}
    return {"inputs": "T B C H W", **dict.fromkeys(states, GATE), **weights, **biases}


TRAJ_GRU = {"inputs": "T B C H W", "h": GATE}
for _name, _weight in (
    ("i2h", "3F C 3 3"),
    ("i2f", "G C 5 5"),
    ("h2f", "G F 5 5"),
    ("flows", "2L G 5 5"),
    ("ret", "3F LF"),
):
    TRAJ_GRU |= {f"{_name}_weight": _weight, f"{_name}_bias": _weight.split()[0]}

CASES = (
    Case(
        "flow_warp",
        _keywords("flow_warp"),
        {"input": IMAGE, "flow": "B 2 H W"},
        fixed_order=False,
    ),
    Case(
        "flow_conv",
        _keywords("flow_conv"),
        {"input": IMAGE, "flows": "B 2L H W", "weight": "F LC", "bias": "F"},
        fixed_order=False,
    ),
    Case("gru_gates", _keywords("gru_gates"), _gates(3, "h")),
    Case("gru_reset", _keywords("gru_reset"), _gates(2, "h")),
    Case(
        "gru_output",
        _keywords("gru_output"),
        dict.fromkeys(("u", "candidate", "h"), GATE),
    ),
    Case("lstm_gates", _with_peephole("lstm_gates"), _gates(4, "c") | PEEPHOLE),
    Case(
        "conv_lstm",
        _with_peephole("conv_lstm"),
        _sequence(4, "h", "c") | PEEPHOLE,
        True,
        False,
    ),
    Case("conv_gru", _keywords("conv_gru"), _sequence(3, "h"), True, False),
    Case(
        "conv_gru, reset before",
        _keywords("conv_gru", reset="before"),
        _sequence(3, "h"),
        True,
        False,
    ),
    Case("traj_gru", _call_traj_gru, TRAJ_GRU, True, False),
    Case("channel_mean", lambda m, t: m.channel_mean(*t.values()), BRANCHES),
    Case("se_scale", _keywords("se_scale"), {"input": IMAGE, "logits": "B C"}),
    Case("sk_select", _listed("sk_select"), BRANCHES | {"logits": "B 3 C"}),
    Case("hff_concat", _listed("hff_concat", skipped=1), BRANCHES),
    Case(
        "hff_concat, affine",
        _listed("hff_concat"),
        BRANCHES | dict.fromkeys(("scale", "shift", "slope"), "3C"),
    ),
    Case(
        "spatial_pyramid_pool, max",
        _keywords("spatial_pyramid_pool", levels=4),
        {"input": IMAGE},
    ),
    Case(
        "spatial_pyramid_pool, mean",
        _keywords("spatial_pyramid_pool", levels=4, mode="mean"),
        {"input": IMAGE},
    ),
)


@dataclass(frozen=True)
class Finding:
    """The largest error of an operator's values and gradients, and the tolerance.

    Both are shares of the largest element of what is compared.
    """

    operator: str
    against: str
    dtype: str
    format: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the tolerance."""
        return self.error <= self.tolerance


def tolerance(case: Case, sizes: Sizes, dtype: torch.dtype) -> float:
    """How far results may be off, as a share of their largest element.

    An operator rounds a result to the dtype once, a step of a sequence a handful of
    times. A weight's gradient sums up a product a pixel and step, in float32 at least,
    whose errors have random signs.
    """
    roundings, steps = (8 * sizes["T"], sizes["T"]) if case.recurrent else (2, 1)
    terms = steps * math.prod(sizes[letter] for letter in "BHW")
    sums = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    return roundings * torch.finfo(dtype).eps + 2 * math.sqrt(terms) * sums


def derivatives(
    case: Case, module: ModuleType, tensors: Tensors, dtype: torch.dtype
) -> list[Tensor]:
    """The results, and the gradients to all tensors.

    dtype: what the gradients to the results are rounded to, the same for any tensors.
    """
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    outputs = case.call(module, leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator, seeds = torch.Generator().manual_seed(1), []
    for output in outputs:
        seed = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        seeds.append(seed.to(dtype).to(output))
    gradients = torch.autograd.grad(outputs, list(leaves.values()), seeds)
    return [one.detach() for one in (*outputs, *gradients)]


def _error(got: list[Tensor], exact: list[Tensor]) -> float:
    errors = []
    for one, other in zip(got, exact, strict=True):
        off = (one.double() - other.to(one.device)).abs().max()
        errors.append((off / other.abs().max().to(one.device)).item())
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _in_double(tensors: Tensors) -> Tensors:
    return {name: tensor.double() for name, tensor in tensors.items()}


def _compare(case: Case, dtype: torch.dtype, device: str) -> Iterator[Finding]:
    few, many = (case.tensors(sizes, dtype, device) for sizes in (FEW, MANY))
    on_cpu = {name: tensor.cpu() for name, tensor in _in_double(few).items()}
    naive = derivatives(case, reference, on_cpu, dtype)
    with decomposed():
        by_pytorch = derivatives(case, trajgru_ext, _in_double(many), dtype)
    for layout in FORMATS:
        for against, sizes, tensors, exact in (
            (NAIVE, FEW, few, naive),
            (PYTORCH, MANY, many, by_pytorch),
        ):
            got = derivatives(case, trajgru_ext, case.in_format(tensors, layout), dtype)
            of = (case.name, against, str(dtype), layout)
            yield Finding(*of, _error(got, exact), tolerance(case, sizes, dtype))
        if device == "cpu" or case.fixed_order:
            error = _error(_again(case, tensors, layout, dtype), got)
            yield Finding(case.name, AGAIN, str(dtype), layout, error, 0.0)


def _again(case: Case, tensors: Tensors, layout: str, dtype: torch.dtype) -> list:
    """Once more, on the CPU by a single thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return derivatives(case, trajgru_ext, case.in_format(tensors, layout), dtype)
    finally:
        torch.set_num_threads(threads)


def _differences(case: Case, device: str) -> Finding:
    """By gradcheck, which says only whether its own tolerances hold."""
    tensors = case.tensors(FEW, torch.float64, device)

    def function(*leaves: Tensor) -> Any:
        return case.call(trajgru_ext, dict(zip(tensors, leaves, strict=True)))

    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    good = torch.autograd.gradcheck(
        function, leaves, raise_exception=False, nondet_tol=1e-10
    )
    of = (case.name, GRADCHECK, str(torch.float64), "contiguous")
    return Finding(*of, 0.0 if good else math.inf, 0.0)


def why_not(device: str) -> str:
    """The reason why nothing can be checked there, or nothing."""
    if device == "cpu":
        return ""
    facts = collect()
    missing = [facts["cuda kernels"], facts["cuda devices"]]
    return "; ".join(str(one) for one in missing if str(one).startswith("none"))


def findings(device: str) -> Iterator[list[Finding]]:
    """All comparisons, operator by operator, as they are made."""
    # cuDNN's convolutions round float32 to ten bits, unless they are told not to.
    with torch.backends.cudnn.flags(allow_tf32=False):
        for case in CASES:
            made = [one for dtype in DTYPES for one in _compare(case, dtype, device)]
            yield [*made, _differences(case, device)]


def table(made: list[Finding]) -> Iterator[str]:
    """A line for each dtype: the largest errors of both formats, and verdicts."""
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        mine = [one for one in made if one.dtype == str(dtype)]
        line = f"{made[0].operator:<26} {name:<9}"
        for against in AGAINST:
            those = [one for one in mine if one.against == against]
            worst = max(
                those, key=lambda one: (not one.passed, one.error), default=None
            )
            line += _cell(against, worst)
        yield line


def _cell(against: str, worst: Finding | None) -> str:
    if worst is None:
        text = "-"
    elif against in (NAIVE, PYTORCH):
        verdict = "ok" if worst.passed else "WRONG"
        text = f"{worst.error:.1e} / {worst.tolerance:.1e} {verdict}"
    else:
        text = "ok" if worst.passed else "WRONG"
    return f"  {text:<24}" if against in (NAIVE, PYTORCH) else f"  {text:<18}"


def heading() -> str:
    """What the columns of the table are."""
    columns = [f"{NAIVE}, tolerance", f"{PYTORCH}, tolerance", GRADCHECK, AGAIN]
    widths = (24, 24, 18, 18)
    cells = (f"  {one:<{width}}" for one, width in zip(columns, widths, strict=True))
    return f"{'operator':<26} {'dtype':<9}" + "".join(cells)
