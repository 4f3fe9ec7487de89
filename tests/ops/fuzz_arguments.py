"""Random arguments for every public operator, as the catalog asks for them.

Tensors are of tiny sizes, any dtype and strides, and of values that kernels tend to
get wrong.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from accuracy import DTYPES, opmath
from torch import Tensor

from trajgru_ext.ops._catalog import OPERATORS

# conv2d refuses what torch refuses, empty images among it: test_conv2d.py draws for it.
NAMES = [name for name, one in OPERATORS.items() if one.family != "conv"]
STRIDES = ["plain", "channels last", "permuted", "sliced", "offset", "expanded"]
VALUES = ["normal", "normal", "whole", "zero", "denormal", "saturating"]
PLANTS = ["large", "-large", "denormal", -0.0, math.nan, math.inf, -math.inf]
# About the ends of vectors and blocks.
CHANNELS = [1, 2, 3, 5, 8, 17, 33]
SIZES = {"T": [1, 2, 0], "B": [1, 2], "C": CHANNELS, "F": CHANNELS, "G": [2]}
SIZES |= {"O": [1, 3, 9, 0], "L": [1, 2, 0], "H": [1, 2, 4], "W": [1, 3, 5]}
# Their formulas are slow, and torch convolves no image without channels.
SIZES_OF_SEQUENCES = SIZES | {"C": [1, 2], "F": [1, 2, 5], "L": [1, 2]}


class Drawn:
    """What one case of an operator draws from: all of it follows from a seed.

    Drawing each choice from hypothesis would cost several times what a case does.
    """

    def __init__(self, seed: int, name: str) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.pick(DTYPES)
        # What stands out from one of the tensors, until it is planted.
        self.plants: list = [self.pick(PLANTS)] * self.pick([0, 1])
        self.operator = OPERATORS[name]
        if self.operator.recurrent:
            # torch's convolutions may spread what is not finite to pixels that do not
            # read it.
            finite = ["denormal", -0.0, *["large"] * (self.dtype != torch.float16)]
            self.plants = [one for one in self.plants if one in finite]
        self.all_sizes = self._draw_sizes()

    def arguments(self) -> dict:
        return self.operator.sample(self)

    def _draw_sizes(self) -> dict[str, int]:
        """Mostly a few pixels, sometimes none."""
        recurrent = self.operator.recurrent
        choices = SIZES_OF_SEQUENCES if recurrent else SIZES
        found = {letter: self.pick(sizes) for letter, sizes in choices.items()}
        if self.pick([False] * 9 + [True]):
            letters = self.pick(["B", "H", "W", "" if recurrent else "CF"])
            found |= dict.fromkeys(letters, 0)
        return found

    def sizes(self, letters: str, least: int = 0) -> list[int]:
        return [max(self.all_sizes[letter], least) for letter in letters]

    def choose(self, name: str, *choices: Any) -> Any:
        return self.pick(choices)

    def pick(self, choices: Sequence) -> Any:
        return self.random.choice(choices)

    def permuted(self, items: Iterable) -> list:
        return self.random.sample(list(items), k=len(list(items)))

    def values(self, shape: tuple[int, ...], dtype: torch.dtype, kind: str) -> Tensor:
        normal = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        if kind == "whole":
            normal = (2 * normal).round()
        elif kind == "zero":
            normal = 0 * normal
        elif kind == "denormal":
            normal = torch.finfo(dtype).smallest_normal / 4 * normal
        elif kind == "saturating":
            normal = 30 * normal
        elif kind == "border":
            # Whole displacements, and the numbers beside them.
            side = self.pick([0.0, 1.0, -1.0]) * torch.finfo(dtype).eps
            normal = (2 * normal).round() * (1 + side)
        return normal.to(dtype)

    def numbers(
        self,
        *shape: int,
        dtype: torch.dtype | None = None,
        kind: str | None = None,
        plant: bool = True,
        scale: float = 1.0,
    ) -> Tensor:
        """A tensor of some values, one of them special, in some strides."""
        dtype = dtype or self.dtype
        kind = kind or self.pick(VALUES)
        tensor = self.values(shape, dtype, kind)
        if scale != 1:
            tensor = (scale * tensor).to(dtype)
        strides = self.pick(STRIDES)
        if strides == "expanded" and tensor.dim():
            dim = self.pick(range(tensor.dim()))
            if tensor.shape[dim]:
                return tensor.narrow(dim, 0, 1).expand(shape)
        if plant and self.plants and tensor.numel():
            named = {"denormal": torch.finfo(dtype).smallest_normal / 8}
            named["large"] = 3e4 if dtype == torch.float16 else 1e30
            named["-large"] = -named["large"]
            planted = self.plants.pop()
            where = int(torch.randint(tensor.numel(), (), generator=self.generator))
            tensor.view(-1)[where] = named.get(planted, planted)
        return self.strided(tensor, strides)

    def strided(self, tensor: Tensor, how: str) -> Tensor:
        """The same values in other memory."""
        if how == "channels last" and tensor.dim() >= 3:
            return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)
        if how == "permuted" and tensor.dim() > 1:
            order = self.permuted(range(tensor.dim()))
            back = [order.index(k) for k in range(tensor.dim())]
            return tensor.permute(order).contiguous().permute(back)
        if how == "sliced" and tensor.dim():
            dim = self.pick(range(tensor.dim()))
            shape = list(tensor.shape)
            shape[dim] = 2 * shape[dim] + 3
            # Beside what belongs to the tensor NaN lies in wait.
            wide = tensor.new_full(shape, math.nan).movedim(dim, 0)
            wide[2:-1:2] = tensor.movedim(dim, 0)
            return wide[2:-1:2].movedim(0, dim)
        if how == "offset":
            before = tensor.new_full((5,), math.nan)
            return torch.cat((before, tensor.flatten()))[5:].view(tensor.shape)
        return tensor

    def tensor(self, *shape: int, dtype: str = "same") -> Tensor:
        fits = {"same": [self.dtype], "any": DTYPES}
        fits["lower"] = [
            d for d in DTYPES if torch.promote_types(d, self.dtype) == self.dtype
        ]
        return self.numbers(*shape, dtype=self.pick(fits[dtype]))

    def flow(self, *shape: int) -> Tensor:
        kind = self.pick(["normal", "whole", "border", "zero", "saturating"])
        return self.numbers(*shape, dtype=self.pick(DTYPES), kind=kind)

    def weight(self, *shape: int, to_flows: bool = False) -> Tensor:
        """Finite, since what padding times infinity is nobody says."""
        if len(shape) == 2:
            return self.numbers(*shape, plant=False)
        kind = self.pick(["normal", "normal", "zero"])
        scale = max(1, math.prod(shape[1:])) ** -0.5
        return self.numbers(*shape, kind=kind, plant=False, scale=scale)

    def bias(self, outputs: int, to_flows: bool = False) -> Tensor:
        return self.numbers(outputs)

    def mask(self, *shape: int) -> Tensor:
        """One that may be the same along some dimensions."""
        some = tuple(self.pick([n, n, min(n, 1)]) for n in shape)
        return (torch.rand(some, generator=self.generator) < 0.3).expand(shape)


def exact(tensor: Any, dtype: torch.dtype) -> Any:
    """The values as the operator reads them, in float64."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return tensor
    # A copy is an operation, and so off by a rounding where all are: terms may cancel.
    return tensor.detach().to(opmath(dtype)).to(torch.float64, copy=True).cpu()


# What is no argument of any operator, or of few.
OBJECTS = [None, True, -1, 0, 2**62, 2**70, -(2**70), 0.5, math.nan, math.inf, 1j]
OBJECTS += ["", "tanh", b"run", [], (), {}, [None], (1, 2), [2**70, 1], object()]
OBJECTS += [Tensor, torch.ones(2), torch.ones(2, dtype=torch.int64).numpy()]


def wrong_tensors(tensor: Tensor) -> list[Callable[[], Any]]:
    """What is like the tensor but for one thing."""
    first, *others = tensor.shape or [0]
    made: list[Callable[[], Any]] = [
        lambda: tensor[None],
        lambda: tensor.flatten(),
        lambda: tensor.sum(),
        lambda: tensor.new_zeros([n + 1 for n in tensor.shape]),
        lambda: tensor.new_zeros([0 for _ in tensor.shape]),
        lambda: tensor.new_zeros([first + 1, *others]),
        lambda: tensor.new_zeros([3 * first, *others]),
        lambda: tensor.to("meta"),
        lambda: tensor.to_sparse(),
        lambda: tensor.tolist(),
        lambda: tensor.double().numpy(force=True),
    ]
    kinds = [torch.int64, torch.bool, torch.uint8, torch.complex64, torch.float8_e5m2]
    return made + [lambda k=k: tensor.to(k) for k in [*kinds, *DTYPES]]


def spoiled(d: Drawn, value: Any) -> Any:
    """The argument, or one within it, made wrong."""
    if isinstance(value, (list, tuple)) and value and d.pick([True, False]):
        items = list(value)
        which = d.pick(range(len(items)))
        dropped = d.pick([True, False, False])
        items[which : which + 1] = [] if dropped else [spoiled(d, items[which])]
        return type(value)(items)
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    dense = dense and value.dtype in DTYPES
    if dense and value.device.type == "cpu" and d.pick([True, True, False]):
        return d.pick(wrong_tensors(value))()
    return d.pick(OBJECTS)
