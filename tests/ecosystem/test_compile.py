"""Networks under torch.compile, torch.export with AOTInductor, and torch.func."""

import subprocess
import sys

import torch
from small_networks import KINDS, SMALL, make_small, sample_frames
from torch import nn
from torch.func import functional_call, grad, vmap

# T, B, H, W. The first are unlike each other and the images' channels: what is alike
# where it is traced is taken to be one number. 1 is always a case of its own.
SIZES = [(7, 5, 6, 8), (4, 2, 8, 10), (2, 6, 10, 4), (3, 3, 2, 2)]


class Layers(nn.Module):
    """Encoder and forecaster without the convolutions around them."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images, steps):
        _, state = self.net.encoder[0](images)
        return self.net.forecaster[0](None, state, steps=steps)[0]


def same_without_recompiling(compiled, plain, calls, parameters=()):
    """Compile at the first call; from then on a compilation is an error."""
    for k, arguments in enumerate(calls):
        with torch.compiler.set_stance("fail_on_recompile" if k else "default"):
            got = compiled(*arguments)
        wanted = plain(*arguments)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
        if parameters:
            losses = got.square().sum(), wanted.square().sum()
            both = [torch.autograd.grad(loss, parameters) for loss in losses]
            torch.testing.assert_close(*both, rtol=0, atol=1e-10)


@SMALL
def test_inference_compiles_once_for_any_size(kind):
    torch.compiler.reset()
    net = make_small(kind, levels=1)
    compiled = torch.compile(net, fullgraph=True, dynamic=True)
    calls = [(sample_frames(t, b, 2, h, w),) for t, b, h, w in SIZES]
    with torch.no_grad():
        same_without_recompiling(compiled, net, calls)


@SMALL
def test_training_compiles_once_for_any_size(kind):
    torch.compiler.reset()
    layers = Layers(make_small(kind, levels=1))
    parameters = [*layers.net.encoder.parameters(), *layers.net.forecaster.parameters()]
    compiled = torch.compile(layers, fullgraph=True, dynamic=True)
    calls = [(sample_frames(t, b, 3, h, w), t + 7) for t, b, h, w in SIZES]
    same_without_recompiling(compiled, layers, calls, parameters)


@SMALL
def test_training_of_networks_is_traced_once_for_any_size(kind):
    """By all of torch.compile but inductor.

    Its gradient of torch's own convolutions is compiled for one width.
    """
    torch.compiler.reset()
    net = make_small(kind, levels=1)
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend="aot_eager")
    calls = [(sample_frames(t, b, 2, h, w),) for t, b, h, w in SIZES]
    same_without_recompiling(compiled, net, calls, list(net.parameters()))


class Together(nn.Module):
    """All networks, so that one package is compiled."""

    def __init__(self):
        super().__init__()
        self.networks = nn.ModuleList(make_small(kind, levels=1) for kind in KINDS)

    def forward(self, frames):
        return [net(frames) for net in self.networks]


RUN_PACKAGE = """
import sys, torch, trajgru_ext
package, inputs, results = sys.argv[1:]
run = torch._inductor.aoti_load_package(package)
torch.save([run(frames) for frames in torch.load(inputs)], results)
"""


def test_export_and_package(tmp_path):
    """Ahead of time for any T, B, H and W, run by a process without the model."""
    model, every = Together().eval(), {k: torch.export.Dim.AUTO for k in (0, 1, 3, 4)}
    inputs = [sample_frames(t, b, 2, h, w) for t, b, h, w in SIZES]
    with torch.no_grad():
        program = torch.export.export(model, (inputs[0],), dynamic_shapes=(every,))
        wanted = [model(frames) for frames in inputs]
        # The package needs no headers compiled for others to come.
        options = {"aot_inductor.precompile_headers": False}
        package = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(tmp_path / "networks.pt2"),
            inductor_configs=options,
        )
    exported = program.module()
    torch.testing.assert_close([exported(one) for one in inputs], wanted)
    torch.save(inputs, tmp_path / "inputs.pt")
    files = [package, tmp_path / "inputs.pt", tmp_path / "results.pt"]
    subprocess.run([sys.executable, "-c", RUN_PACKAGE, *map(str, files)], check=True)
    got = torch.load(files[2])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@SMALL
def test_gradients_of_each_sample(kind):
    """functional_call in grad in vmap, against one backward pass for each sample."""
    net, frames = make_small(kind), sample_frames(2, 3, 2, 4, 6)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters, sample):
        return functional_call(net, parameters, sample[:, None]).square().sum()

    got = vmap(grad(loss), in_dims=(None, 1))(parameters, frames)
    for k in range(3):
        net.zero_grad()
        net(frames[:, k : k + 1]).square().sum().backward()
        for name, parameter in net.named_parameters():
            one = got[name][k]
            torch.testing.assert_close(one, parameter.grad, rtol=0, atol=1e-10)
