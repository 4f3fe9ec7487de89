from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

def facts() -> dict[str, Any]: ...
def conv_algorithm() -> str: ...
def conv_algorithm_forced() -> bool: ...
def set_conv_algorithm(name: str) -> None: ...
def option_names() -> dict[str, list[str]]: ...
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor: ...

few_products: int

def packed_weights_limit() -> int: ...
def set_packed_weights_limit(bytes: int) -> None: ...
def packed_weights_bytes() -> int: ...
def differentiable(
    name: str, tensors: Sequence[Tensor | None], numbers: Sequence[float]
) -> list[Tensor]: ...
def set_differentiate_again(function: Callable[..., Any]) -> None: ...

CellConv = tuple[Tensor, Tensor | None, Sequence[int], Sequence[int]]

def fits_step(
    input: Any,
    states: tuple[Any, ...],
    input_channels: int,
    hidden_channels: int,
    parameters: list[Tensor],
) -> bool: ...
def lstm_cell(
    input: Tensor | None,
    h: Tensor,
    c: Tensor,
    conv: CellConv,
    peephole: Sequence[Tensor | None],
    options: Sequence[float],
) -> list[Tensor]: ...
def gru_cell_after(
    input: Tensor | None,
    h: Tensor,
    i2h: CellConv | None,
    h2h: CellConv,
    options: Sequence[float],
    mask: Tensor | None,
) -> Tensor: ...
def gru_cell_before(
    input: Tensor | None,
    h: Tensor,
    conv_gates: CellConv,
    conv_can: CellConv,
    options: Sequence[float],
    mask: Tensor | None,
) -> Tensor: ...
def traj_gru_cell(
    input: Tensor | None,
    h: Tensor,
    i2h: CellConv | None,
    i2f: CellConv | None,
    h2f: CellConv,
    flows_conv: CellConv,
    ret: CellConv,
    options: Sequence[float],
    mask: Tensor | None,
) -> Tensor: ...
