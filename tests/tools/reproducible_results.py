"""Runs every operator on images that several threads share, and saves the results.

`python tests/tools/reproducible_results.py FILE`, with ATEN_CPU_CAPABILITY set. Ends
with status 1 where results depend on the number of threads, or on the run.
"""

import sys

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import trajgru_ext
from trajgru_ext.ops import _catalog
from trajgru_ext.ops._operator import Case
from trajgru_ext.ops._samples import Samples

# Enough to do for four threads; of inputs of a sequence fewer channels.
SIZES = {"T": 3, "B": 2, "C": 35, "F": 6, "G": 4, "O": 9, "L": 2, "H": 40, "W": 56}


def samples(sizes: dict[str, int], **options: object) -> dict[str, tuple[Case, dict]]:
    """The arguments of every case of every operator, by its title."""
    found = {}
    for case in _catalog.cases():
        fewer = {"C": 3} if case.operator.recurrent else {}
        source = Samples(sizes | fewer, case.choices, **options)
        found[case.title] = (case, case.operator.sample(source))
    return found


def derivatives(
    case: Case, arguments: dict, dtype: torch.dtype, device: str = "cpu"
) -> list[Tensor]:
    """The results, and the gradients of a weighted sum of them."""
    leaves = []

    def leaf(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        leaves.append(value.to(device, dtype).requires_grad_())
        return leaves[-1]

    found = case.operator.call(trajgru_ext, tree_map(leaf, arguments))
    weights = [torch.linspace(-1, 1, f.numel(), dtype=f.dtype) for f in found]
    grads = [
        torch.empty_like(f).copy_(w.view(f.shape))
        for f, w in zip(found, weights, strict=True)
    ]
    return [f.detach() for f in found] + list(torch.autograd.grad(found, leaves, grads))


def main(path: str) -> None:
    results = {}
    for title, (case, given) in samples(SIZES).items():
        if not case.operator.any_threads:
            continue
        for dtype in (torch.float32, torch.bfloat16):
            for threads in (1, 2, 4, 16, 16):
                torch.set_num_threads(threads)
                found = derivatives(case, given, dtype)
                first = results.setdefault(f"{title} {dtype}", found)
                if not all(map(torch.equal, first, found)):
                    raise SystemExit(f"{title}, {dtype}: others with {threads} threads")
    torch.save(results, path)


if __name__ == "__main__":
    main(sys.argv[1])
