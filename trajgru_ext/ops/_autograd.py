"""What the operators' autograd Functions share."""

import inspect
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from trajgru_ext import _C
from trajgru_ext.ops import _registry

_compiled: dict[str, type] = {}  # the Functions that have one, by their derivative


class Function(torch.autograd.Function):
    """An autograd Function that may have forward-mode derivatives.

    torch.compile traces no Function that defines `jvp`, so a subclass gives its rule
    the name `tangent`, and `call` takes the place of `apply`.

    A subclass's arguments go by their names: `Arguments` makes a named tuple of what
    its `forward` takes (the arguments, the flags of `ctx.needs_input_grad`, tangents),
    and `gradients` the plain tuple that `backward` returns; what is left out is None. A
    `forward` of any number of tensors has neither.
    """

    derivative: ClassVar[str] = ""
    """The operator whose first derivative csrc/autograd has, where it has.

    It takes tensors and numbers, which are of `forward`'s arguments those that
    `tensors_of` and `numbers_of` find.
    """

    Arguments: ClassVar[Callable[..., Any]]
    gradients: ClassVar[Callable[..., tuple[Any, ...]]]

    def __init_subclass__(cls, **options: Any) -> None:
        """Name the arguments as the signature of the subclass's own `forward` does."""
        super().__init_subclass__(**options)
        if cls.__dict__.get("derivative"):
            _compiled[cls.derivative] = cls
        if "forward" not in cls.__dict__:
            return
        parameters = inspect.signature(cls.forward).parameters
        if any(one.kind is one.VAR_POSITIONAL for one in parameters.values()):
            return
        names = list(parameters)
        make: Callable[..., Any] = namedtuple
        made = make("Arguments", names, defaults=[None] * len(names))

        # Two functions, since torch.compile calls no class that is an attribute of a
        # Function, and loses without a word the gradients in a named tuple.
        def arguments(*values: Any, **named: Any) -> Any:
            return made(*values, **named)

        def gradients(**named: Any) -> tuple[Any, ...]:
            return tuple(made(**named))

        cls.Arguments = staticmethod(arguments)
        cls.gradients = staticmethod(gradients)

    @staticmethod
    def options_of(numbers: list[float]) -> Any:
        """The last argument, from its numbers."""
        raise NotImplementedError

    @classmethod
    def tensors_of(cls, args: Sequence[Any]) -> Sequence[Any]:
        """What belongs to the tensors: as they come, all but the options."""
        return args[:-1]

    @classmethod
    def numbers_of(cls, args: Sequence[Any]) -> Sequence[float]:
        """The numbers among the arguments."""
        numbers: list[float] = args[-1].numbers()
        return numbers

    @classmethod
    def arguments_of(
        cls, tensors: Sequence[Any], numbers: list[float]
    ) -> tuple[Any, ...]:
        """Undo the two."""
        return *tensors, cls.options_of(numbers)

    @classmethod
    def call(cls, *args: Any) -> Any:
        """Apply the Function; with its forward-mode derivative where eager.

        Where nothing differentiates, what a Function costs is spared: several times
        what a small operator takes.
        """
        if _registry.replaced():
            return cls.forward(*args)
        if torch.compiler.is_compiling():
            function: Any = cls
            return function.apply(*args)
        if transforming():
            return _with_jvp(cls).apply(*args)
        if cls.derivative:
            tensors, numbers = cls.tensors_of(args), cls.numbers_of(args)
            results = _C.differentiable(cls.derivative, tensors, numbers)
            return results[0] if len(results) == 1 else tuple(results)
        if _differentiating(args):
            # What torch's own `apply` adds for transforms (it inspects the signature)
            # takes as long as a small operator.
            plain: Any = super(torch.autograd.Function, _with_jvp(cls))
            return plain.apply(*args)
        return cls.forward(*args)

    @classmethod
    def call_in_backward(cls, *args: Any) -> Any:
        """`call` of any number of tensors, within a backward pass.

        torch.compile, which differentiates but once, does not trace such a Function
        there.
        """
        compiling = torch.compiler.is_compiling()
        return cls.forward(*args) if compiling else cls.call(*args)


class FunctionOfTensors(Function):
    """One whose arguments are all tensors."""

    @classmethod
    def tensors_of(cls, args: Sequence[Any]) -> Sequence[Any]:
        """All of them."""
        return args

    @classmethod
    def numbers_of(cls, args: Sequence[Any]) -> Sequence[float]:
        """None."""
        return ()

    @classmethod
    def arguments_of(
        cls, tensors: Sequence[Any], numbers: list[float]
    ) -> tuple[Any, ...]:
        """The tensors."""
        return tuple(tensors)


class _Context:
    """What `setup_context` leaves for `backward`."""

    saved_tensors: tuple[Tensor | None, ...]

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        """Do nothing: this is for a backward pass."""

    def set_materialize_grads(self, value: bool) -> None:
        """Do nothing: gradients that are not there are None."""


def _differentiate_again(
    name: str,
    tensors: list[Tensor | None],
    numbers: list[float],
    needs: list[bool],
    grads: list[Tensor | None],
) -> list[Tensor | None]:
    """The gradients to the tensors as functions that can be differentiated."""
    function: Any = _compiled[name]
    # Of what is no tensor nobody asks whether it needs a gradient.
    context = _Context(function.arguments_of(needs, numbers))
    function.setup_context(context, function.arguments_of(tensors, numbers), None)
    return list(function.tensors_of(function.backward(context, *grads)))


_C.set_differentiate_again(_differentiate_again)


def transforming() -> bool:
    """Whether forward mode or a transform of torch.func is at work."""
    # No public names tell.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _differentiating(args: tuple[Any, ...]) -> bool:
    """Whether autograd records what is done with the arguments."""
    return torch.is_grad_enabled() and any(
        isinstance(arg, Tensor) and arg.requires_grad for arg in args
    )


_eager: dict[type, Any] = {}


def _with_jvp(function: Any) -> Any:
    if function not in _eager:
        rule = {"jvp": staticmethod(function.tangent)}
        _eager[function] = type(function.__name__, (function,), rule)
    return _eager[function]


def push_forward(
    function: Callable[..., tuple[Tensor, ...]],
    primals: tuple[Tensor, ...],
    tangents: tuple[Tensor | None, ...],
) -> tuple[Tensor, ...]:
    """The function's derivative along the tangents, None being zero.

    Forward mode does not nest, but the transpose of a transpose does.
    """
    along = tuple(
        torch.zeros_like(primal) if tangent is None else tangent
        for primal, tangent in zip(primals, tangents, strict=True)
    )
    vjp: Callable[..., Any] = torch.func.vjp
    output, pull_back = vjp(function, *primals)
    zeros = tuple(torch.zeros_like(one) for one in output)
    _, transposed = vjp(lambda *cotangent: pull_back(cotangent), *zeros)
    found: tuple[Tensor, ...] = transposed(along)
    return found


def fold(info: Any, in_dims: tuple[Any, ...], *tensors: Tensor) -> list[Tensor]:
    """Fold the dimension that vmap maps over into the batch, the first dimension."""
    folded = []
    for tensor, dim in zip(tensors, in_dims[: len(tensors)], strict=True):
        if dim is None:
            mapped = tensor.expand(info.batch_size, *tensor.shape)
        else:
            mapped = tensor.movedim(dim, 0)
        folded.append(mapped.flatten(0, 1))
    return folded


def unfold(info: Any, tensor: Tensor) -> Tensor:
    """Undo `fold`, the mapped dimension being the first."""
    batch = tensor.shape[0] // info.batch_size
    return torch.unflatten(tensor, 0, (info.batch_size, batch))


def unfold_stack(info: Any, stack: Tensor) -> Tensor:
    """Undo `fold` for stacked results: the mapped dimension becomes the second."""
    batch = stack.shape[1] // info.batch_size
    return torch.unflatten(stack, 1, (info.batch_size, batch))


def unfold_wanted(
    info: Any, found: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Undo `fold` for results, and where their mapped dimension is.

    What is not wanted is empty, and has no batch.
    """
    mapped = [one.dim() > 1 for one in found]
    pairs = zip(found, mapped, strict=True)
    values = tuple(unfold(info, one) if has else one for one, has in pairs)
    return values, tuple(0 if has else None for has in mapped)


def one_by_one(
    function: type[Function], info: Any, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Any, Any]:
    """Apply a Function to each sample that vmap maps over, and stack the results."""
    results = []
    for k in range(info.batch_size):
        pairs = zip(args, in_dims, strict=True)
        one = [a.select(dim, k) if isinstance(dim, int) else a for a, dim in pairs]
        results.append(function.call(*one))
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def wanted_only(found: Sequence[Any], wanted: Sequence[bool]) -> tuple[Any, ...]:
    """What is wanted of what is found."""
    return tuple(one for one, want in zip(found, wanted, strict=True) if want)


def wanted_or_none(found: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    """What is found where it is wanted, None elsewhere."""
    return [one if want else None for one, want in zip(found, wanted, strict=True)]


def fill_empty(
    found: Sequence[Tensor], wanted: Sequence[bool], like: Tensor
) -> tuple[Tensor, ...]:
    """Undo `wanted_only`: empty tensors elsewhere, as the operators return them."""
    each = iter(found)
    return tuple(next(each) if want else like.new_empty(0) for want in wanted)
