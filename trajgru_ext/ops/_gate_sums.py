"""Autograd Functions of updates of a state by gates that come as a sum of two parts.

Their operators take (x_gates, h_gates, state, options), and the backward operators
the gradients to the results, the same, and whether the gates' and the state's gradients
are wanted.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._autograd import Function, fill_empty, wanted_only
from trajgru_ext.ops._options import GruOptions, LstmOptions, read
from trajgru_ext.ops._registry import operator

Options = GruOptions | LstmOptions


def update_of_sums(
    name: str, kind: type[Any], formula: Callable[[Any], _gates.Formula]
) -> type[Function]:
    """The Function of an operator.

    kind: of its options. formula: from these, the update as a function of the gates'
    sum and the state, in torch operators.
    """
    first_derivative = _first_derivative(name, formula)

    class Update(Function):
        derivative = name

        @staticmethod
        def options_of(numbers: list[float]) -> Any:
            return read(kind, numbers)

        @staticmethod
        def forward(
            x_gates: Tensor | None,
            h_gates: Tensor | None,
            state: Tensor,
            options: Options,
        ) -> Any:
            return operator(name)(x_gates, h_gates, state, options.numbers())

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            *tensors, ctx.options = inputs
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            if all(grad is None for grad in grads):
                return Update.gradients()
            needs = Update.Arguments(*ctx.needs_input_grad)
            x_gates, h_gates, _ = tensors = ctx.saved_tensors
            wanted = (needs.x_gates or needs.h_gates, needs.state)
            of_all = (*tensors, ctx.options, *wanted, *grads)
            found = first_derivative.call_in_backward(*of_all)
            gates, state = found
            # The two parts of a sum have the same gradient.
            return Update.gradients(
                x_gates=gates.to(x_gates.dtype) if needs.x_gates else None,
                h_gates=gates.to(h_gates.dtype) if needs.h_gates else None,
                state=state if needs.state else None,
            )

        @staticmethod
        def tangent(ctx: Any, *tangents: Any) -> Any:
            *along, _ = tangents
            of_sum = formula(ctx.options)

            def of_both(x_gates: Any, h_gates: Any, state: Tensor) -> Any:
                return of_sum(_gates.add_gates(x_gates, h_gates, state), state)

            found = _gates.tangents_of(of_both, ctx.saved_tensors, along)
            return found if len(found) > 1 else found[0]

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
            return _gates.in_one_batch(Update, info, in_dims, args)

    return Update


def _first_derivative(
    name: str, formula: Callable[[Any], _gates.Formula]
) -> type[Function]:
    """The Function of the backward operator. Gradients that are None are 0."""

    def again(ctx: Any) -> _gates.Formula:
        """The first derivative in torch operators; no kernel is worth it here."""
        of_sum = formula(ctx.options)

        def gradients(
            x_gates: Any, h_gates: Any, state: Tensor, *grads: Any
        ) -> tuple[Tensor, ...]:
            both = _gates.add_gates(x_gates, h_gates, state)
            gates, to_state = _gates.pull_back(of_sum, (both, state), grads)
            assert gates is not None
            gates = gates.to(_gates.gates_dtype(x_gates, h_gates))
            return wanted_only((gates, to_state), ctx.wanted)

        return gradients

    class FirstDerivative(Function):
        @staticmethod
        def forward(
            x_gates: Tensor | None,
            h_gates: Tensor | None,
            state: Tensor,
            options: Options,
            gates_grad: bool,
            state_grad: bool,
            *grads: Tensor | None,
        ) -> tuple[Tensor, Tensor]:
            tensors = (*grads, x_gates, h_gates, state)
            backward = operator(f"{name}_backward")
            found: tuple[Tensor, Tensor] = backward(
                *tensors, options.numbers(), gates_grad, state_grad
            )
            return found

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            x_gates, h_gates, state, ctx.options, gates_grad, state_grad, *grads = (
                inputs
            )
            ctx.wanted = (gates_grad, state_grad)
            ctx.save_for_backward(x_gates, h_gates, state, *grads)
            ctx.save_for_forward(x_gates, h_gates, state, *grads)

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
            wanted = wanted_only(cotangents, ctx.wanted)
            found = _gates.pull_back(again(ctx), ctx.saved_tensors, wanted)
            x_gates, h_gates, state, *grads = found
            return x_gates, h_gates, state, None, None, None, *grads

        @staticmethod
        def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
            x_gates, h_gates, state, _, _, _, *grads = tangents
            tensors = ctx.saved_tensors
            along = (x_gates, h_gates, state, *grads)
            found = _gates.tangents_of(again(ctx), tensors, along)
            _, _, old, *_ = tensors
            return fill_empty(found, ctx.wanted, old)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
            return _gates.in_one_batch(FirstDerivative, info, in_dims, args)

    return FirstDerivative


def fake_gradients(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    state: Tensor,
    count: int,
    gates_grad: bool,
    state_grad: bool,
) -> tuple[Tensor, Tensor]:
    """What a fake backward operator returns; count: of gates."""
    lead = _gates.leading(x_gates, h_gates)
    dtype = _gates.gates_dtype(x_gates, h_gates)
    return (
        _gates.empty_like_gates(lead, state, count, dtype)
        if gates_grad
        else state.new_empty(0, dtype=dtype),
        _gates.empty_like_gates(lead, state, 1, state.dtype)
        if state_grad
        else state.new_empty(0),
    )
