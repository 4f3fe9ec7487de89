"""The operators on branches, each as the tests call it."""

import torch
from gate_inputs import normal
from torch import Tensor
from torch.utils._pytree import tree_leaves

import trajgru_ext
from trajgru_ext import reference
from trajgru_ext.ops import _catalog
from trajgru_ext.ops._samples import Samples

SIZE = (2, 5, 4, 6)
LAYOUT = torch.contiguous_format


class Case:
    """A case of the catalog, as functions of its tensors."""

    def __init__(self, case: _catalog.Case) -> None:
        self.case, self.operator = case, case.operator.name
        self.given = self._sample("cpu", torch.float32, SIZE, LAYOUT)
        self.images = sum(t.dim() == 4 for t in self.sample_inputs("cpu"))

    def _sample(self, device, dtype, size, layout):
        sizes = dict(zip("BCHW", size, strict=True))
        source = Samples(sizes, self.case.choices, dtype, device, layout)
        return self.case.operator.sample(source)

    def sample_inputs(self, device, dtype=torch.float32, size=SIZE, layout=LAYOUT):
        """Images first, then the others, in the same dtype."""
        leaves = tree_leaves(self._sample(device, dtype, size, layout))
        return [one for one in leaves if isinstance(one, Tensor)]

    def arguments(self, tensors):
        """Those of the case, with these tensors."""
        each = iter(tensors)

        def of(value):
            if isinstance(value, list):
                return [next(each) for _ in value]
            return next(each) if isinstance(value, Tensor) else value

        return {name: of(value) for name, value in self.given.items()}

    def ours(self, *tensors):
        (output,) = self.case.operator.call(trajgru_ext, self.arguments(tensors))
        return output

    def naive(self, *tensors):
        (output,) = self.case.operator.call(reference, self.arguments(tensors))
        return output


CASES = {case.title: Case(case) for case in _catalog.cases("branches")}


def seed_like(output, layout=LAYOUT):
    """A gradient to an output."""
    generator = torch.Generator().manual_seed(output.numel())
    seed = normal(generator, output.device, output.dtype, *output.shape)
    return seed.contiguous(memory_format=layout) if output.dim() == 4 else seed
