"""Two processes that train on a device each."""

import copy

import pytest
import torch
from emulation import device
from small_networks import make_small
from test_distributed import (
    PROCESSES,
    adam,
    assert_same,
    needs_gloo,
    own_part,
    sample_batch,
    steps,
)
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

DEVICES = ["emulated:0", "emulated:1"]


pytestmark = pytest.mark.usefixtures("emulated_devices")


class Done(distributed._Work):
    """What has been waited for."""

    def __init__(self, result):
        super().__init__()
        self.future = torch.futures.Future()
        self.future.set_result(result)

    def wait(self, timeout=None):
        return True

    def get_future(self):
        return self.future


class ByTheHost(distributed.ProcessGroup):
    """The processes' group of the CPU, for tensors that are copied there and back."""

    def __init__(self, group):
        super().__init__(group.rank(), group.size())
        self.group, self.calls = group, set()

    def size(self):
        return self.group.size()

    def getBackendName(self):
        return "by the host"

    def _done(self, name, tensors, run):
        copies = [one.cpu() for one in tensors]
        run(copies).wait()
        for one, other in zip(tensors, copies, strict=True):
            one.copy_(other)
        self.calls.add(name)
        return Done(tensors)

    def allreduce(self, tensors, options=None):
        options = options or distributed.AllreduceOptions()
        return self._done(
            "allreduce", tensors, lambda copies: self.group.allreduce(copies, options)
        )

    def broadcast(self, tensors, options=None):
        options = options or distributed.BroadcastOptions()
        return self._done(
            "broadcast", tensors, lambda copies: self.group.broadcast(copies, options)
        )

    def allgather(self, outputs, inputs, options=None):
        copies = [[one.cpu() for one in each] for each in outputs]
        self.group.allgather(copies, [one.cpu() for one in inputs]).wait()
        for each, others in zip(outputs, copies, strict=True):
            for one, other in zip(each, others, strict=True):
                one.copy_(other)
        return Done(outputs)


def train_in_process(rank, folder):
    torch.set_num_threads(1)
    device.load()
    store = distributed.FileStore(f"{folder}/store", PROCESSES)
    options = {"store": store, "rank": rank, "world_size": PROCESSES}
    distributed.init_process_group("gloo", **options)
    try:
        on = DEVICES[rank]
        torch.accelerator.set_device_index(rank)
        group = ByTheHost(distributed.group.WORLD)
        for kind in ("traj_gru", "conv_lstm", "conv_gru"):
            plain, frames = make_small(kind), sample_batch()
            inner = copy.deepcopy(plain).to(on)
            net = DistributedDataParallel(inner, process_group=group)
            steps(plain, adam(plain), frames, 3)
            steps(net, adam(net), own_part(frames).to(on), 3)
            assert_same(copy.deepcopy(inner).cpu(), plain)
        assert {"allreduce", "broadcast"} <= group.calls
    finally:
        distributed.destroy_process_group()


@needs_gloo
def test_two_processes_train_as_one(tmp_path):
    multiprocessing.spawn(train_in_process, (str(tmp_path),), nprocs=PROCESSES)
