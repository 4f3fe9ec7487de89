"""Sequences where a GPU's products and convolutions may round to the bits of TF32."""

import pytest
import torch
from test_devices import CASES, Run

SEQUENCES = [case for case in CASES if case.operator.recurrent]
# A step rounds sums of some products to ten bits, and each step what the last has made.
ROUNDING = 2**-11


@pytest.fixture
def _tf32():
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in backends]
    for one in backends:
        one.allow_tf32 = True
    yield
    for one, allowed in zip(backends, before, strict=True):
        one.allow_tf32 = allowed


@pytest.mark.usefixtures("_tf32")
@pytest.mark.parametrize("case", SEQUENCES, ids=[case.title for case in SEQUENCES])
def test_sequences(backend, case):
    found = Run(case, backend.device)()
    wanted = Run(case, "cpu", dtype=torch.float64)()
    errors = [
        (one.cpu() - other).norm() / other.norm().clamp(min=1e-3)
        for one, other in zip(found, wanted, strict=True)
    ]
    assert max(errors) < 8 * ROUNDING
    # There it rounds, whatever the machine: float32 is much nearer.
    assert backend.name != "cuda-emulated" or max(errors) > ROUNDING / 64
