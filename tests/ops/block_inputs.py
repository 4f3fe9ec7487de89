"""The operators of the convolutional blocks, each as the tests call it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from gate_inputs import normal

import trajgru_ext
from trajgru_ext import reference

SIZE = (2, 5, 4, 6)
LAYOUT = torch.contiguous_format


@dataclass(frozen=True)
class Case:
    """An operator with options, of `images` images and what else it takes."""

    operator: str
    images: int = 1
    # Shapes from (B, C) of the other arguments.
    others: tuple[Callable[[int, int], tuple[int, ...]], ...] = ()
    # From (images, others) to the arguments, and the options.
    arrange: Callable[[list, list], list] = lambda images, others: [*images, *others]
    options: dict = field(default_factory=dict)

    def sample_inputs(self, device, dtype=torch.float32, size=SIZE, layout=LAYOUT):
        """Images first, then the others, in the same dtype."""
        generator = torch.Generator().manual_seed(sum(size) + self.images)
        shapes = [size] * self.images + [one(*size[:2]) for one in self.others]
        tensors = [normal(generator, device, dtype, *shape) for shape in shapes]
        return [
            t.contiguous(memory_format=layout) if k < self.images else t
            for k, t in enumerate(tensors)
        ]

    def arguments(self, tensors):
        images, others = tensors[: self.images], tensors[self.images :]
        return self.arrange(list(images), list(others))

    def ours(self, *tensors):
        function = getattr(trajgru_ext, self.operator)
        return function(*self.arguments(tensors), **self.options)

    def naive(self, *tensors):
        function = getattr(reference, self.operator)
        return function(*self.arguments(tensors), **self.options)


def as_list(images, others):
    """The images as a list; of three others, those of hff_concat after `skipped`."""
    return [images, 1, *others] if len(others) == 3 else [images, *others]


def concatenated(batch, channels):
    return (3 * channels,)


def logits(branches, batch, channels):
    return (batch, branches, channels)


CASES = {
    "channel_mean": Case("channel_mean"),
    "channel_mean, 3": Case("channel_mean", 3),
    "se_scale": Case("se_scale", others=(lambda batch, channels: (batch, channels),)),
    "sk_select": Case("sk_select", 2, (partial(logits, 2),), as_list),
    "hff_concat": Case("hff_concat", 4, (), as_list),
    "hff_concat, skipped": Case("hff_concat", 3, (), as_list, {"skipped": 2}),
    "hff_concat, affine": Case("hff_concat", 4, (concatenated,) * 3, as_list),
    "max pyramid": Case("spatial_pyramid_pool", options={"levels": 4}),
    "mean pyramid": Case("spatial_pyramid_pool", options={"levels": 4, "mode": "mean"}),
    "sk_select, 3": Case("sk_select", 3, (partial(logits, 3),), as_list),
}


def seed_like(output, layout=LAYOUT):
    """A gradient to an output."""
    generator = torch.Generator().manual_seed(output.numel())
    seed = normal(generator, output.device, output.dtype, *output.shape)
    return seed.contiguous(memory_format=layout) if output.dim() == 4 else seed
