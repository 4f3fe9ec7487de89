"""The rates of matrix products and of copies, measured beside the other sides."""

from collections.abc import Callable

import torch
from peak import peak_gflops
from torch import Tensor
from torch.utils.benchmark import Timer

ORDER = 1024
COPIED = 1 << 28  # bytes, which no cache holds


def single_threaded_sgemm() -> Callable[[], Tensor]:
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
    on_cpu = torch.get_default_device().type == "cpu"
    rate = 2 * ORDER**3 / product_ms * (torch.get_num_threads() if on_cpu else 1)
    return operations / ms / rate


def machine_rates() -> dict[str, float]:
    """What all threads multiply and copy in a second (a copy reads and writes).

    On a CPU also what its registers allow.
    """
    square = torch.randn(2 * ORDER, 2 * ORDER)
    source = torch.empty(COPIED, dtype=torch.uint8).fill_(1)
    target = torch.empty_like(source)
    works = {
        "sgemm, GFLOP/s": (lambda: square @ square, 2 * (2 * ORDER) ** 3),
        "copy, GB/s": (lambda: target.copy_(source), 2 * COPIED),
    }
    rates = {}
    for name, (work, amount) in works.items():
        timer = Timer("work()", globals={"work": work})
        timer.num_threads = torch.get_num_threads()
        rates[name] = amount / timer.timeit(5).median / 1e9
    if torch.get_default_device().type == "cpu":
        rates["peak, GFLOP/s"] = peak_gflops()
    return rates
