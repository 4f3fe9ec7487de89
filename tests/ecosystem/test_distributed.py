"""Two gloo processes: DDP, FSDP2, distributed checkpoints, against one process."""

import copy

import pytest
import torch
from small_networks import KINDS, make_small, sample_frames
from torch import distributed, multiprocessing
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

PROCESSES = 2

needs_gloo = pytest.mark.skipif(
    not distributed.is_gloo_available(), reason="this torch has no gloo"
)


def sample_batch():
    return sample_frames(3, 2 * PROCESSES, 2, 4, 6)


def own_part(frames):
    """This process's samples."""
    return frames.chunk(PROCESSES, 1)[distributed.get_rank()]


def loss(net, frames):
    return (net(frames) - frames[-1:].roll(1, 3)).square().mean()


def steps(net, optimizer, frames, count):
    for _ in range(count):
        optimizer.zero_grad()
        loss(net, frames).backward()
        optimizer.step()


def adam(net):
    return torch.optim.Adam(net.parameters(), lr=0.02)


def whole(tensor):
    """All of a tensor that the processes may share out."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def assert_same(net, plain, *, gradients=False):
    pairs = zip(net.parameters(), plain.parameters(), strict=True)
    for one, other in pairs:
        got, wanted = (one.grad, other.grad) if gradients else (one, other)
        torch.testing.assert_close(whole(got), wanted, rtol=0, atol=1e-10)


def parallel(net, shard):
    """The network in two processes."""
    if shard:
        mesh = init_device_mesh("cpu", (PROCESSES,))
        for layer in (*net.encoder, *net.forecaster):
            fully_shard(layer, mesh=mesh)
        return fully_shard(net, mesh=mesh)
    return DistributedDataParallel(net)


def train(kind, shard):
    """Gradients, and three steps, as on the joined batch."""
    plain, frames = make_small(kind), sample_batch()
    net = parallel(copy.deepcopy(plain), shard)
    optimizers = adam(net), adam(plain)
    steps(plain, optimizers[1], frames, 1)
    steps(net, optimizers[0], own_part(frames), 1)
    assert_same(net, plain, gradients=True)
    steps(plain, optimizers[1], frames, 2)
    steps(net, optimizers[0], own_part(frames), 2)
    assert_same(net, plain)


def resume(kind, folder):
    """Save while training sharded; two steps more from what another network reads."""
    frames = sample_batch()
    net = parallel(make_small(kind), True)
    optimizer = adam(net)
    steps(net, optimizer, own_part(frames), 1)
    model_state, optimizer_state = get_state_dict(net, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    checkpoint.save(state, checkpoint_id=folder)
    steps(net, optimizer, own_part(frames), 2)
    wanted = [whole(parameter) for parameter in net.parameters()]

    for shard in (True, False):  # sharded alike, and not at all
        other = make_small(kind)
        for parameter in other.parameters():
            torch.nn.init.zeros_(parameter)
        other = parallel(other, shard)
        optimizer = adam(other)
        model_state, optimizer_state = get_state_dict(other, optimizer)
        state = {"model": model_state, "optimizer": optimizer_state}
        checkpoint.load(state, checkpoint_id=folder)
        set_state_dict(
            other,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        steps(other, optimizer, own_part(frames), 2)
        got = [whole(parameter) for parameter in other.parameters()]
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


def everything(rank, folder):
    """What each process does: all of it, since starting one takes seconds."""
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", PROCESSES)
    options = {"store": store, "rank": rank, "world_size": PROCESSES}
    distributed.init_process_group("gloo", **options)
    try:
        for kind in KINDS:
            train(kind, False)
            train(kind, True)
            resume(kind, f"{folder}/{kind}")
    finally:
        distributed.destroy_process_group()


@needs_gloo
def test_two_processes_train_as_one(tmp_path):
    multiprocessing.spawn(everything, (str(tmp_path),), nprocs=PROCESSES)
