"""Training in mixed precision, channels last, checkpointed; copies and pickles."""

import copy
import pickle

import pytest
import torch
from small_networks import SMALL, make_small, sample_frames
from torch.utils.checkpoint import checkpoint


@pytest.fixture(params=["cpu", "emulated"])
def device(request):
    """The CPU, or one whose kernels are those of CUDA."""
    if request.param == "emulated":
        request.getfixturevalue("emulated_devices")
    return request.param


LOW = pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)


def sample_loss(net, frames):
    target = frames[-1:].roll(1, 3)
    return (net(frames) - target).square().mean()


def gradients(net, frames, loss=sample_loss):
    net.zero_grad()
    loss(net, frames).backward()
    return [parameter.grad for parameter in net.parameters()]


def close(got, wanted, share):
    """Within a share of the largest, for each tensor."""
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= share * other.abs().max()


@SMALL
@LOW
def test_steps_of_training_under_autocast(kind, low, device):
    """Scaled, as float16 needs it: gradients are those of float32, the loss falls."""
    net = make_small(kind).float().to(device)
    frames = sample_frames(3, 2, 2, 4, 6).float().to(device)
    wanted = gradients(copy.deepcopy(net), frames)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    scaler, losses = torch.amp.GradScaler(device, init_scale=256.0), []
    for step in range(10):
        optimizer.zero_grad()
        with torch.autocast(device, low):
            loss = sample_loss(net, frames)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if step == 0:
            got = [parameter.grad for parameter in net.parameters()]
            close(got, wanted, 32 * torch.finfo(low).eps)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert scaler.get_scale() == 256  # no step was skipped
    assert losses[-1] < 0.8 * losses[0]


@SMALL
def test_a_step_with_infinite_gradients_is_skipped(kind, device):
    net = make_small(kind).float().to(device)
    frames = sample_frames(3, 2, 2, 4, 6).float().to(device)
    before = copy.deepcopy(net.state_dict())
    optimizer, scaler = torch.optim.SGD(net.parameters()), torch.amp.GradScaler(device)
    scaler.scale(sample_loss(net, frames * 1e36)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 65536
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


@SMALL
def test_channels_last_models(kind):
    net, frames = make_small(kind), sample_frames(3, 2, 2, 4, 6)
    wanted = gradients(net, frames)
    turned = copy.deepcopy(net).to(memory_format=torch.channels_last)
    images = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    got = gradients(turned, images.unflatten(0, (3, 2)))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@SMALL
@pytest.mark.parametrize("reentrant", [False, True], ids=["saved", "reentrant"])
def test_activation_checkpointing(kind, reentrant):
    def again(net, frames):
        frames = frames.requires_grad_()  # what the older kind goes by
        outputs = checkpoint(net, frames, use_reentrant=reentrant)
        return (outputs - frames[-1:].roll(1, 3)).square().mean()

    net, frames = make_small(kind), sample_frames(3, 2, 2, 4, 6)
    wanted = gradients(net, frames)
    wanted = [one.clone() for one in wanted]
    got = gradients(net, frames, again)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@SMALL
def test_copies_and_pickles_train_alike(kind):
    net, frames = make_small(kind), sample_frames(3, 2, 2, 4, 6)
    twins = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
    wanted = gradients(net, frames)
    for twin in twins:
        assert all(
            a is not b for a, b in zip(twin.parameters(), net.parameters(), strict=True)
        )
        torch.testing.assert_close(gradients(twin, frames), wanted, rtol=0, atol=0)
