"""The blocks' operators: autograd, torch.func, torch.compile, threads, errors."""

import pytest
import torch
from autograd_checks import gradcheck, gradgradcheck, opcheck
from block_inputs import CASES, seed_like
from gate_inputs import derivatives, moved
from test_block_operators import EVERY, LAYOUTS

from trajgru_ext import (
    channel_mean,
    hff_concat,
    se_scale,
    sk_select,
    spatial_pyramid_pool,
)
from trajgru_ext.ops._branches import MOST_BRANCHES
from trajgru_ext.ops.spatial_pyramid_pool import MOST_LEVELS

# Finite differences take time with the square of it.
SMALL = (2, 2, 2, 3)


@EVERY
def test_gradcheck(backend, case):
    tensors = case.sample_inputs(backend.device, torch.float64, SMALL)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    # torch's older vmap, which that check uses, has none for lists of tensors.
    batched = case.operator != "sk_select" and case != CASES["hff_concat, affine"]
    options = {"check_forward_ad": True, "check_batched_grad": batched}
    assert gradcheck(case.ours, tensors, **options)
    if case.operator != "channel_mean":  # which is linear: its Hessian is no function
        assert gradgradcheck(case.ours, tensors, check_fwd_over_rev=True)


@EVERY
def test_one_gradient_alone(backend, case):
    tensors = case.sample_inputs(backend.device, torch.float64)
    seed = seed_like(case.ours(*tensors))
    _, *wanted = derivatives(case.ours, tensors, seed)
    for which, tensor in enumerate(tensors):
        given = [*tensors]
        given[which] = tensor.detach().requires_grad_()
        (got,) = torch.autograd.grad(case.ours(*given), given[which], seed)
        torch.testing.assert_close(got, wanted[which], rtol=0, atol=1e-12)


@EVERY
def test_only_the_arguments_are_saved(backend, case):
    tensors = [t.requires_grad_() for t in case.sample_inputs(backend.device)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    ):
        case.ours(*tensors)
    if case.operator == "spatial_pyramid_pool":
        assert {t.dtype for t in saved} == {torch.int32}  # the maxima's places
        return
    assert {t.data_ptr() for t in saved} <= {t.data_ptr() for t in tensors}


@EVERY
def test_func_transforms(backend, case):
    tensors = case.sample_inputs(backend.device, torch.float64, SMALL)
    every = tuple(range(len(tensors)))
    by_reverse = torch.func.jacrev(case.ours, every)(*tensors)
    by_forward = torch.func.jacfwd(case.ours, every)(*tensors)
    torch.testing.assert_close(by_reverse, by_forward)


@EVERY
@pytest.mark.parametrize("dim", [0, 2])
def test_vmap(backend, case, dim):
    tensors = case.sample_inputs(backend.device, torch.float64)
    dims = (dim,) + (None,) * (len(tensors) - 1)
    stacked = [torch.stack([tensors[0], 0.5 * tensors[0]], dim), *tensors[1:]]
    got = torch.vmap(case.ours, in_dims=dims)(*stacked)
    for k in range(2):
        one = case.ours(stacked[0].select(dim, k), *stacked[1:])
        torch.testing.assert_close(got[k], one)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(backend, dtype, layout):
    def inputs(name):
        return CASES[name].sample_inputs(backend.device, dtype, layout=layout)

    opcheck(backend.operator("channel_mean"), (inputs("channel_mean"),))
    x, weights = inputs("se_scale")
    opcheck(backend.operator("se_scale"), (x, weights.float()))
    backward = backend.operator("se_scale_backward")
    for wanted in ((True, True), (True, False), (False, True)):
        opcheck(backward, (x, x, weights.double(), *wanted))
    *branches, weights = inputs("sk_select, two")
    opcheck(backend.operator("sk_select"), (branches, weights))
    backward = backend.operator("sk_select_backward")
    for wanted in ((True, True), (True, False), (False, True)):
        opcheck(backward, (x, branches, weights, *wanted))
    *branches, scale, shift, slope = inputs("hff_concat, affine")
    concat = backend.operator("hff_concat")
    opcheck(concat, (branches, 1, scale, shift, slope.double()))
    opcheck(concat, (branches, 0))
    grad = torch.cat(branches, 1).contiguous(memory_format=layout)
    opcheck(backend.operator("hff_concat_backward"), (grad, 4, 0))
    opcheck(backend.operator("hff_concat_backward"), (grad, 7, 3))
    backward = backend.operator("hff_concat_affine_backward")
    opcheck(backward, (grad, branches, 0, None, None, torch.cat([slope, slope[:5]])))
    opcheck(backward, (grad[:, :15], branches, 1, scale, shift, slope.double()))
    pool = backend.operator("spatial_pyramid_pool")
    for largest in (True, False):
        opcheck(pool, (x, 3, largest))
        grad, places = pool(x, 3, largest)
        for last in (True, False):
            arguments = (grad, places, *x.shape[2:], 3, largest, last)
            opcheck(backend.operator("spatial_pyramid_pool_backward"), arguments)


@EVERY
@LAYOUTS
def test_compile_without_graph_breaks(backend, case, layout):
    torch.compiler.reset()
    tensors = case.sample_inputs(backend.device, layout=layout)
    seed = seed_like(case.ours(*tensors), layout)
    got = derivatives(backend.compile(case.ours), tensors, seed)
    for one, other in zip(got, derivatives(case.ours, tensors, seed), strict=True):
        torch.testing.assert_close(one, other)


@EVERY
def test_autocast_leaves_dtypes(backend, case):
    tensors = case.sample_inputs(backend.device)
    seed = seed_like(case.ours(*tensors))
    wanted = derivatives(case.ours, tensors, seed)
    with torch.autocast(backend.device, torch.bfloat16):
        got = derivatives(case.ours, tensors, seed)
    assert all(map(torch.equal, got, wanted))


@EVERY
@LAYOUTS
@pytest.mark.parametrize("size", [(3, 33, 17, 19), (2, 1, 90, 70)], ids=str)
def test_bit_for_bit_for_any_number_of_threads(backend, case, layout, size):
    if backend.name != "cpu":
        pytest.skip("threads of the CPU")
    tensors = case.sample_inputs(backend.device, size=size, layout=layout)
    seed = seed_like(case.ours(*tensors), layout)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(derivatives(case.ours, tensors, seed))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


X, L = torch.zeros(2, 3, 4, 5), torch.zeros(2, 2, 3)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (channel_mean, [], ValueError, "channel_mean: there must be 1 to 16 branches"),
        (channel_mean, [X, 3], TypeError, r"branches\[1\] must be a Tensor, got int"),
        (channel_mean, [X[0]], ValueError, r"branches\[0\] must have 4 dimensions"),
        (channel_mean, [X.int()], TypeError, "must be float32.*got .*(Int|int32)"),
        (channel_mean, [X, X[:1]], ValueError, r"must have the sizes of branches\[0\]"),
        (channel_mean, [X, X.double()], TypeError, "must have the dtype of branches"),
        (se_scale, [X, None], TypeError, "se_scale: logits must be a Tensor, got None"),
        (se_scale, [X[0], L[0]], ValueError, "input must have 4 dimensions.*got 3"),
        (se_scale, [X, L], ValueError, r"logits must be \[B, C\] = \[2, 3\] for image"),
        (se_scale, [X, L[0].int()], TypeError, "logits must be float32.*got"),
        (sk_select, [X, L], TypeError, "branches must be a sequence of Tensors, got T"),
        (sk_select, [[X], L], ValueError, "sk_select: there must be 2 to 16 branches"),
        (sk_select, [[X] * 17, L], ValueError, "2 to 16 branches, got 17"),
        (hff_concat, [[]], ValueError, "hff_concat: there must be 1 to 16 branches"),
        (hff_concat, [[X, X], 2], ValueError, "skipped must be 0 to 1, below.*got 2"),
        (hff_concat, [[X, X], 0, L[0, 0]], ValueError, "given together"),
        (hff_concat, [[X], 0, None, None, X[0]], ValueError, r"slope must be \[chann"),
        (hff_concat, [[X], 0, None, None, 0.2], TypeError, "slope must be a Tensor"),
        (spatial_pyramid_pool, [X[0], 2], ValueError, "must have 4 dimensions"),
        (spatial_pyramid_pool, [X[:, :, :0], 2], ValueError, "1 to 2.31 - 1 pixels"),
        (spatial_pyramid_pool, [X, 0], ValueError, "levels must be 1 to 1024, got 0"),
        (spatial_pyramid_pool, [X, 2, "min"], ValueError, "mode must be one of 'max'"),
        (sk_select, [[X, X, X], L], ValueError, r"logits must be \[B, M, C\] = \[2, 3"),
    ],
)
def test_argument_errors(backend, function, arguments, error, message):
    for device in (backend.device, "meta"):
        with pytest.raises(error, match=message):
            function(*moved(arguments, device))


def test_backward_operator_errors(backend):
    x, weights = X.to(backend.device), L.to(backend.device)
    backward = backend.operator("se_scale_backward")
    with pytest.raises(ValueError, match=r"grad must be \[B, C, H, W\] = \[2, 3, 4, 5"):
        backward(x[:1], x, weights[0], True, True)
    with pytest.raises(TypeError, match="grad must have the dtype of the images"):
        backward(x.double(), x, weights[0], True, True)
    with pytest.raises(ValueError, match="grad must have 2 times a branch's channels"):
        backend.operator("hff_concat_backward")(x, 2, 0)
    with pytest.raises(ValueError, match=r"grad must be \[B, \(k - skipped\) \* C"):
        backend.operator("hff_concat_affine_backward")(x, [x, x], 0, None, None, None)
    with pytest.raises(ValueError, match=r"grad must be \[B, C \* 5\], got \[2, 3\]"):
        arguments = (weights[0], weights[0].int(), 4, 5, 2, True, False)
        backend.operator("spatial_pyramid_pool_backward")(*arguments)
    backward = backend.operator("sk_select_backward")
    with pytest.raises(ValueError, match=r"branches\[1\] must have the sizes of"):
        backward(x, [x, x[:1]], weights, True, True)


def test_limits_are_those_of_the_kernels(backend):
    x = X.to(backend.device)
    with pytest.raises(ValueError, match=f"1 to {MOST_BRANCHES} branches, got"):
        backend.operator("channel_mean")([x] * (MOST_BRANCHES + 1))
    with pytest.raises(ValueError, match=f"levels must be 1 to {MOST_LEVELS}, got"):
        backend.operator("spatial_pyramid_pool")(x, MOST_LEVELS + 1, True)


@EVERY
def test_meta_tensors(case):
    tensors = case.sample_inputs("cpu")
    output = case.ours(*moved(tensors, "meta"))
    assert output.shape == case.ours(*tensors).shape
    assert output.device.type == "meta"
    if len(tensors) > 1:
        mixed = [tensors[0], *moved(tensors[1:], "meta")]
        with pytest.raises(ValueError, match=r"must be on cpu.*got meta"):
            case.ours(*mixed)
