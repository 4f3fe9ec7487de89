"""Where sample arguments of the operators come from, for the catalog."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class Source(Protocol):
    """Sizes, choices and tensors for one call, fixed or drawn at random."""

    def sizes(self, letters: str, least: int = 0) -> list[int]:
        """The sizes of these letters, none of them below `least`.

        T steps, B batch, C channels, F features of a state, G hidden channels,
        O outputs, L links, H height, W width.
        """

    def choose(self, name: str, *choices: Any) -> Any:
        """One of the choices, of which the first is the usual one."""

    def tensor(self, *shape: int, dtype: str = "same") -> Tensor:
        """Numbers of the sample's dtype, or of one that may be "lower", or "any"."""

    def flow(self, *shape: int) -> Tensor:
        """Displacements, in any dtype."""

    def weight(self, *shape: int, to_flows: bool = False) -> Tensor:
        """Of a product or a convolution, keeping the scale of what it is applied to.

        to_flows: its results are displacements.
        """

    def bias(self, outputs: int, to_flows: bool = False) -> Tensor:
        """What is added to those results."""

    def mask(self, *shape: int) -> Tensor:
        """A zoneout mask for a state of this shape."""


class Samples:
    """A fixed source: always the same numbers, whatever the dtype and the format.

    Flows point into the middle of a cell, so that no rounding and no finite difference
    crosses whole displacements, where gradients jump.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        choices: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._sizes, self._choices = sizes, dict(choices or {})
        self.dtype, self.device, self.layout = dtype, device, layout
        self.generator = torch.Generator().manual_seed(0)

    def sizes(self, letters: str, least: int = 0) -> list[int]:
        """As they were given."""
        return [self._sizes[letter] for letter in letters]

    def choose(self, name: str, *choices: Any) -> Any:
        """As it was given, else the usual one."""
        return self._choices.get(name, choices[0])

    def tensor(self, *shape: int, dtype: str = "same") -> Tensor:
        """Normal numbers; images, of four dimensions and more, in the format."""
        return self.arranged(self.normal(*shape))

    def flow(self, *shape: int) -> Tensor:
        """Some pixels long."""
        normal = self.normal(*shape)
        return self.arranged((2 * normal).floor() + 0.5 + 0.1 * normal.clamp(-3, 3))

    def weight(self, *shape: int, to_flows: bool = False) -> Tensor:
        """Small where it makes flows."""
        scale = 0.05 if to_flows else 1.0
        _, *summed = shape
        return self.placed(scale / math.prod(summed) ** 0.5 * self.normal(*shape))

    def bias(self, outputs: int, to_flows: bool = False) -> Tensor:
        """The middle of a cell where it makes flows."""
        normal = self.normal(outputs)
        return self.placed(torch.full_like(normal, 0.5) if to_flows else normal)

    def mask(self, *shape: int) -> Tensor:
        """True for a part of the state."""
        return (self.normal(*shape) < -0.5).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Numbers in float64 and on the CPU."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def placed(self, values: Tensor) -> Tensor:
        """The numbers in the dtype and on the device."""
        return values.to(self.device, self.dtype)

    def arranged(self, values: Tensor) -> Tensor:
        """The same, an image or a stack of them in the memory format."""
        tensor = self.placed(values)
        if tensor.dim() < 4:
            return tensor
        *stack, channels, height, width = tensor.shape
        images = tensor.reshape(math.prod(stack), channels, height, width)
        return images.contiguous(memory_format=self.layout).view(tensor.shape)
