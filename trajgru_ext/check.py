"""Proves the operators on the machine at hand, against what is known to be right.

For every operator, dtype and memory format, values and gradients are compared with the
naive formula (`trajgru_ext.reference`) on a few pixels, and with PyTorch's own
operators (`trajgru_ext.decompositions`) on enough of them for several tiles or blocks,
both in float64. Gradients are also compared with finite differences, and a second run
with the first, bit for bit.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

import trajgru_ext
from trajgru_ext import reference
from trajgru_ext.decompositions import decomposed
from trajgru_ext.info import collect, explain
from trajgru_ext.ops import _catalog
from trajgru_ext.ops._operator import Arguments, Case
from trajgru_ext.ops._samples import Samples

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
Sizes = dict[str, int]


def _sizes(*sizes: int) -> Sizes:
    """By their letters in `trajgru_ext.ops._samples`."""
    return dict(zip("TBCFOGLHW", sizes, strict=True))


FEW = _sizes(2, 1, 3, 2, 2, 2, 2, 3, 4)  # for the naive formula, pixel by pixel
MANY = _sizes(3, 2, 19, 17, 17, 5, 3, 33, 37)  # which fill no tile, block or vector
PACKS = _sizes(2, 1, 64, 64, 64, 16, 2, 9, 11)  # whose channels fill them all
# Of flow_conv, on a device of up to 256 multiprocessors and 128 MiB of second-level
# cache: a tile for each of these, so that the kernel that also multiplies is taken
# (csrc/cuda/fused_tiles.h); and more outputs than it has, with more than one chunk of
# warped values (csrc/cuda/chunk_rows.h).
TILES = _sizes(2, 4, 16, 16, 48, 4, 2, 64, 128)
CHUNKS = _sizes(1, 2, 64, 1, 200, 1, 13, 112, 112)
NAIVE, PYTORCH = "naive formula", "PyTorch"
GRADCHECK, AGAIN = "finite differences", "a second run"
AGAINST = (NAIVE, PYTORCH, GRADCHECK, AGAIN)


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
    roundings, steps = (
        (8 * sizes["T"], sizes["T"]) if case.operator.recurrent else (2, 1)
    )
    terms = steps * math.prod(sizes[letter] for letter in "BHW")
    sums = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    return roundings * torch.finfo(dtype).eps + 2 * math.sqrt(terms) * sums


def derivatives(
    case: Case, module: Any, arguments: Arguments, dtype: torch.dtype
) -> list[Tensor]:
    """The results, and the gradients to all tensors.

    dtype: what the gradients to the results are rounded to, the same for any arguments.
    """
    given = tree_map(
        lambda one: one.detach().requires_grad_() if _differs(one) else one, arguments
    )
    leaves = [one for one in tree_leaves(given) if _differs(one)]
    outputs = case.operator.call(module, given)
    generator, grads = torch.Generator().manual_seed(1), []
    for output in outputs:
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        grads.append(grad.to(dtype).to(output))
    gradients = torch.autograd.grad(outputs, leaves, grads)
    return [one.detach() for one in (*outputs, *gradients)]


def _differs(argument: Any) -> bool:
    """Whether results can be differentiated with respect to an argument."""
    return isinstance(argument, Tensor) and argument.is_floating_point()


def _error(got: list[Tensor], exact: list[Tensor]) -> float:
    errors = []
    for one, other in zip(got, exact, strict=True):
        off = (one.double() - other.to(one.device)).abs().max()
        errors.append((off / other.abs().max().to(one.device)).item())
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _exact(arguments: Arguments, device: str) -> Arguments:
    """The same numbers in float64."""
    found: Arguments = tree_map(
        lambda one: one.to(device, torch.float64) if _differs(one) else one, arguments
    )
    return found


def _compare(case: Case, dtype: torch.dtype, device: str) -> Iterator[Finding]:
    def sample(sizes: Sizes, layout: str) -> Arguments:
        source = Samples(sizes, case.choices, dtype, device, FORMATS[layout])
        return case.operator.sample(source)

    operator, exact = case.operator, {}
    compared = {"few": (NAIVE, FEW), "many": (PYTORCH, MANY), "packs": (PYTORCH, PACKS)}
    if operator.name in ("flow_conv", "traj_gru"):
        compared["tiles"] = (PYTORCH, TILES)
    if operator.name == "flow_conv" and dtype == torch.float32:
        compared["chunks"] = (PYTORCH, CHUNKS)
    for name, (against, sizes) in compared.items():
        arguments = sample(sizes, "contiguous")
        if against == NAIVE:
            given = _exact(arguments, "cpu")
            exact[name] = derivatives(case, reference, given, dtype)
        else:
            given = _exact(arguments, device)
            with decomposed():
                exact[name] = derivatives(case, trajgru_ext, given, dtype)
    for layout in FORMATS:
        worst: dict[str, Finding] = {}
        for name, (against, sizes) in compared.items():
            arguments = sample(sizes, layout)
            got = derivatives(case, trajgru_ext, arguments, dtype)
            of = (case.title, against, str(dtype), layout)
            error = _error(got, exact[name])
            found = Finding(*of, error, tolerance(case, sizes, dtype))
            worst[against] = max(worst.get(against, found), found, key=_share)
        yield from worst.values()
        if operator.any_threads if device == "cpu" else operator.fixed_order:
            error = _error(_again(case, arguments, dtype), got)
            yield Finding(case.title, AGAIN, str(dtype), layout, error, 0.0)


def _share(found: Finding) -> float:
    """How much of its tolerance an error takes; infinite where it is no number."""
    share = found.error / found.tolerance
    return math.inf if math.isnan(share) else share


def _again(case: Case, arguments: Arguments, dtype: torch.dtype) -> list[Tensor]:
    """Once more, on the CPU by a single thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return derivatives(case, trajgru_ext, arguments, dtype)
    finally:
        torch.set_num_threads(threads)


def _differences(case: Case, device: str) -> Finding:
    """By gradcheck, which says only whether its own tolerances hold."""
    source = Samples(FEW, case.choices, torch.float64, device)
    arguments, spec = tree_flatten(case.operator.sample(source))
    where = [k for k, one in enumerate(arguments) if _differs(one)]

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        given = list(arguments)
        for k, leaf in zip(where, leaves, strict=True):
            given[k] = leaf
        return case.operator.call(trajgru_ext, tree_unflatten(given, spec))

    leaves = [arguments[k].requires_grad_() for k in where]
    good = torch.autograd.gradcheck(
        function, leaves, raise_exception=False, nondet_tol=1e-10
    )
    of = (case.title, GRADCHECK, str(torch.float64), "contiguous")
    return Finding(*of, 0.0 if good else math.inf, 0.0)


def why_not(device: str) -> str:
    """The reason why nothing can be checked there, or nothing."""
    if device == "cpu":
        return ""
    if torch.device(device).type == "cuda":
        facts = collect()
        missing = [facts["cuda kernels"], facts["cuda devices"]]
        if found := "; ".join(str(x) for x in missing if str(x).startswith("none")):
            return found
    try:  # one pixel says whether any kernel runs
        trajgru_ext.flow_warp(
            torch.zeros(1, 1, 1, 1, device=device),
            torch.zeros(1, 2, 1, 1, device=device),
        ).sum().item()
    except RuntimeError as error:
        return explain(error)
    return ""


@contextmanager
def ieee_float32() -> Iterator[None]:
    """Within it, torch's products and convolutions on a GPU compute in float32.

    Else convolutions, and where somebody says so products, round to the ten bits of
    TF32.
    """
    # Of the two ways to say so, the older: after the newer torch.export fails.
    cudnn: Any = torch.backends.cudnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def machine(device: str) -> str:
    """What computes there, in a line."""
    facts = collect()
    said = [f"torch {facts['torch']}"]
    if torch.device(device).type == "cuda":
        gpus, index = facts["cuda devices"], torch.device(device).index
        said += [f"CUDA {facts['cuda of torch']}", f"cuDNN {facts['cudnn']}"]
        said.append(gpus[torch.cuda.current_device() if index is None else index])
        said.append("float32 as IEEE has it, not TF32")
    else:
        said.append(f"cpu capability {facts['cpu capability']}")
    return ", ".join(said)


def findings(device: str) -> Iterator[list[Finding]]:
    """All comparisons, operator by operator, as they are made."""
    with ieee_float32():
        for case in _catalog.cases():
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
