"""Where a GPU's products and convolutions may round to the bits of TF32."""

import itertools

import pytest
import torch
from test_devices import CASES, Run
from test_flow_conv import derivatives, sample_inputs
from traj_gru_inputs import flatten, sample_arguments

from trajgru_ext import flow_conv, reference
from trajgru_ext.ops._options import GruOptions

SEQUENCES = [case for case in CASES if case.operator.recurrent]
# A step rounds sums of some products to ten bits, and each step what the last has made.
ROUNDING = 2**-11


@pytest.fixture
def allow_tf32():
    """A function that says whether products may be rounded, and convolutions."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in backends]

    def allow(*which):
        for one, allowed in zip(backends, which, strict=True):
            one.allow_tf32 = allowed

    yield allow
    allow(*before)


@pytest.fixture
def _tf32(allow_tf32):
    allow_tf32(True, True)


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


@pytest.fixture(params=["cuda-emulated"])
def emulated(request):
    """What rounds exactly where it may; hardware below 8.0 never does."""
    request.getfixturevalue("emulated_devices")
    return "emulated"


def relative_error(found, wanted):
    return ((found.cpu() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(
    ("products", "convolutions"), list(itertools.product([False, True], repeat=2))
)
def test_flow_conv_rounds_where_convolutions_do(
    emulated, allow_tf32, products, convolutions
):
    arguments = sample_inputs(emulated, size=(2, 8, 9, 10), outputs=6)
    doubles = [one.cpu().double() for one in arguments]
    wanted = derivatives(reference.flow_conv, *doubles)
    allow_tf32(products, convolutions)
    found = derivatives(flow_conv, *arguments)
    for one, exact in zip(found[:4], wanted, strict=False):
        assert (relative_error(one, exact) > ROUNDING / 8) == convolutions
    # Which leaves torch's products as they were.
    image, weight = torch.randn(9, 20), torch.randn(20, 9)
    product = image.to(emulated) @ weight.to(emulated)
    exact = image.double() @ weight.double()
    assert (relative_error(product, exact) > ROUNDING / 8) == products


@pytest.fixture
def _sums_in_float16():
    products = torch.backends.cuda.matmul
    before = products.allow_fp16_accumulation
    products.allow_fp16_accumulation = True
    yield
    products.allow_fp16_accumulation = before


@pytest.mark.usefixtures("_sums_in_float16")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_to_weights_without_products_to_wider_sums(
    emulated, monkeypatch, dtype
):
    """Which torch refuses below 8.0, or where float16 may be added up in float16."""
    arguments = sample_inputs(emulated, dtype, size=(2, 8, 9, 10), outputs=6)
    wanted = derivatives(flow_conv, *arguments)
    monkeypatch.setenv("TRAJGRU_CAPABILITY", "75")
    found = derivatives(flow_conv, *arguments)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_not_touched(emulated, allow_tf32, dtype):
    arguments = sample_inputs(emulated, dtype, outputs=6)
    wanted = flow_conv(*arguments[:4])
    allow_tf32(False, True)
    assert torch.equal(flow_conv(*arguments[:4]), wanted)


def test_flows_of_a_trajgru_are_never_rounded(emulated, allow_tf32):
    arguments = sample_arguments(emulated, torch.float32, (3, 2, 2, 8, 9, 10))
    inputs, h, *parameters = flatten(arguments)
    parameters[8] = parameters[8].flatten(1)
    allow_tf32(True, True)
    operator = torch.ops.trajgru_ext.traj_gru
    options = GruOptions.choose("traj_gru").numbers()
    _, flows, hidden, *_ = operator(inputs, h, parameters, 3, options, None, None, 1)
    weight, bias = (one.cpu().double() for one in parameters[6:8])
    exact = torch.conv2d(
        hidden.cpu().double().flatten(0, 1), weight, bias, padding="same"
    )
    assert relative_error(flows.flatten(0, 1), exact) < ROUNDING / 512
    # The layer before them is: it is a convolution of the states in their dtype.
    allow_tf32(True, False)
    _, _, unrounded, *_ = operator(inputs, h, parameters, 3, options, None, None, 1)
    assert relative_error(hidden, unrounded.cpu()) > ROUNDING / 8
