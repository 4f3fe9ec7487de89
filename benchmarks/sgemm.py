"""The machine's matrix-product rate, measured beside the other sides."""

import torch
from measure import Side
from torch import Tensor

ORDER = 1024


def single_threaded_sgemm() -> Side:
    """A product of square matrices on one thread."""
    square = torch.randn(ORDER, ORDER)
    product = torch.empty_like(square)

    def side() -> Tensor:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return torch.mm(square, square, out=product)
        finally:
            torch.set_num_threads(threads)

    return side


def share_of_sgemm(product_ms: float, operations: int, ms: float) -> float:
    """What share of one thread's rate times the threads the operations ran at."""
    rate = 2 * ORDER**3 / product_ms * torch.get_num_threads()
    return operations / ms / rate
