"""The processor's own rate: multiplications and additions on registers alone."""

import ctypes
import subprocess
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

ROUNDS, TRIES = 1 << 20, 9
FACTOR = 0.5  # of each number, plus 1: it stays a normal one


@cache
def _library() -> ctypes.CDLL:
    """peak.c, compiled for this processor."""
    compiler = sysconfig.get_config_var("CC").split()[0]
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "peak.so"
        source = Path(__file__).with_suffix(".c")
        options = ["-O3", "-march=native", "-shared", "-fPIC", "-o", built]
        subprocess.run([*map(str, [compiler, *options, source])], check=True)
        library = ctypes.CDLL(str(built))
    library.operations.restype = ctypes.c_long
    library.multiply_add.argtypes = [ctypes.c_long, ctypes.c_float]
    library.multiply_add.restype = ctypes.c_float
    return library


def peak_gflops() -> float:
    """What all of torch's threads do in a second, at best."""
    library, threads = _library(), torch.get_num_threads()
    count = threads * ROUNDS * library.operations()
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(TRIES):
            begun = time.perf_counter()
            done = [
                pool.submit(library.multiply_add, ROUNDS, FACTOR)
                for _ in range(threads)
            ]
            for one in done:
                one.result()
            best = min(best, time.perf_counter() - begun)
    return count / best / 1e9
