"""How many threads compute."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from trajgru_ext.ops import flow_warp


@contextmanager
def one_thread() -> Iterator[None]:
    """Let what this thread calls compute by itself, and other threads as they did.

    A small parallel region ends when its last thread does, which on a busy machine may
    first have to wait for its turn, while the others spin. What is thousands of such
    regions is then several times slower than by one thread. `torch.set_num_threads`
    would change the count of threads that are yet to come, too.
    """
    # A thread that torch, and this package, meet for the first time is given torch's
    # count: not later, over this one.
    torch.get_num_threads()
    pixel = torch.zeros(1, 2, 1, 1)
    flow_warp(pixel, pixel)
    with threadpool_limits(1, user_api="openmp"):
        yield
