"""Published models at their published sizes, and at sizes that a test runs.

Those of OpenSTL are as it trains them on Moving MNIST: four layers of 128 features,
filters of 5, images of 64 x 64 in patches of 4, ten frames and the ten that follow, and
a batch of 4. So is jhhuang96's encoder-decoder, with a batch of 1. Of RAFT, DGMR and
Robust Video Matting it is what is recurrent: the GRU over the twelve refinements of a
flow for 440 x 1024 pixels, the four layers over the eighteen steps of a forecast for
256 x 256, and those of the decoder over ten frames of 288 x 512.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ports import dgmr, jhhuang, mim, openstl, predrnn, raft, robust_video_matting

Arguments = tuple[Any, ...]  # tensors and lists of them

# Of OpenSTL: the class, the end of its files' names, and whether a mask says from the
# second frame on what is known.
OPENSTL = {
    "ConvLSTM": (openstl.ConvLSTM_Model, "convlstm", 0),
    "PredRNN": (predrnn.PredRNN_Model, "predrnn", 0),
    "PredRNN++": (predrnn.PredRNNpp_Model, "predrnnpp", 0),
    "PredRNNv2": (predrnn.PredRNNv2_Model, "predrnnv2", 1),
    "MIM": (mim.MIM_Model, "mim", 0),
}


class Refinements(nn.Module):
    """RAFT's GRU, once for each refinement."""

    def __init__(self, gru: nn.Module) -> None:
        super().__init__()
        self.gru = gru

    def forward(self, h: Tensor, inputs: Tensor) -> Tensor:
        for x in inputs:
            h = self.gru(h, x)
        return h


class Levels(nn.Module):
    """Layers side by side, each on images of its own size."""

    def __init__(self, grus: list[nn.Module]) -> None:
        super().__init__()
        self.grus = nn.ModuleList(grus)

    def forward(self, inputs: list[Tensor], states: list[Tensor | None]) -> list[Any]:
        pairs = zip(inputs, states, strict=True)
        return [gru(x, h) for gru, (x, h) in zip(self.grus, pairs, strict=True)]


def published(path: Path, name: str) -> Any:
    """A model's class from a checkout of OpenSTL.

    Its files are run one by one: the package itself needs much that these do not.
    """
    folder = path / "openstl"
    if "openstl.modules" not in sys.modules:
        modules = sys.modules["openstl.modules"] = ModuleType("openstl.modules")
        for _, end, _ in OPENSTL.values():
            vars(modules).update(_run(folder / "modules" / f"{end}_modules.py"))
    kind, end, _ = OPENSTL[name]
    return _run(folder / "models" / f"{end}_model.py")[kind.__name__]


def _run(file: Path) -> dict[str, Any]:
    """The classes of a file."""
    spec = importlib.util.spec_from_file_location(f"published_{file.stem}", file)
    if spec is None or spec.loader is None or not file.exists():
        raise SystemExit(f"{file} is not there: --openstl takes a checkout of OpenSTL")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {key: one for key, one in vars(module).items() if isinstance(one, type)}


def _openstl(
    name: str, small: bool, path: Path | None = None, past: int = 10
) -> tuple[nn.Module, Arguments]:
    kind, _, reverse = OPENSTL[name]
    batch, features, past = (1, [8, 8, 8], 2) if small else (4, [128] * 4, past)
    changes = {"in_shape": (past, 1, 12, 12), "patch_size": 2, "filter_size": 3}
    lengths = {"pre_seq_length": past, "aft_seq_length": past, "total_length": 2 * past}
    configs = openstl.moving_mnist(
        **lengths | (changes if small else {}), reverse_scheduled_sampling=reverse
    )
    kind = kind if path is None else published(path, name)
    model = kind(len(features), features, configs)
    patch = configs.patch_size
    image = (configs.in_shape[2] // patch, configs.in_shape[3] // patch, patch**2)
    frames = torch.rand(batch, 2 * past, *image)
    # At the middle of the training half of the forecasts stand for what was known.
    known = 1 if reverse else past
    mask = (torch.rand(batch, 2 * past - 1 - known, *image) < 0.5).float()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("ct_weight", "oc_weight")):
                parameter.normal_(std=0.1)  # are 0 at first
    return model, (frames, mask)


def _jhhuang(name: str, small: bool) -> tuple[nn.Module, Arguments]:
    kind = jhhuang.CGRU_cell if name.endswith("ConvGRU") else jhhuang.CLSTM_cell
    image, features = (8, (32, 32, 32)) if small else (64, (64, 96, 96))
    return jhhuang.network(kind, image, features), (torch.rand(1, 10, 1, image, image),)


def _raft(name: str, small: bool) -> tuple[nn.Module, Arguments]:
    sep = name == "RAFT"
    features, inputs = (8, 5) if small else (128, 256) if sep else (96, 146)
    steps, image = (3, (6, 7)) if small else (12, (55, 128))
    gru = (raft.SepConvGRU if sep else raft.ConvGRU)(features, inputs)
    h = torch.tanh(torch.randn(1, features, *image))
    return Refinements(gru), (h, torch.randn(steps, 1, inputs, *image).relu())


def _dgmr(name: str, small: bool) -> tuple[nn.Module, Arguments]:
    steps, inputs, features, side = (3, 16, 8, 3) if small else (18, 768, 384, 8)
    grus: list[nn.Module] = []
    images, states = [], []
    for k in range(2 if small else 4):
        latent, context, size = inputs >> k, features >> k, side << k
        grus.append(dgmr.ConvGRU(latent + context, context))
        images.append(torch.randn(steps, 1, latent, size, size))
        states.append(torch.randn(1, context, size, size).relu())
    return Levels(grus), (images, states)


def _matting(name: str, small: bool) -> tuple[nn.Module, Arguments]:
    channels, side, frames = ([8, 4], 2, 3) if small else ([64, 40, 20, 16], 18, 10)
    grus: list[nn.Module] = []
    images = []
    for k, count in enumerate(channels):
        grus.append(robust_video_matting.ConvGRU(count))
        sizes = side << k, (side * 16 // 9) << k
        images.append(torch.randn(1, frames, count, *sizes).relu())
    return Levels(grus), (images, [None] * len(grus))


class Case(NamedTuple):
    """What makes a model and its arguments; whether the arguments are images."""

    make: Callable[[str, bool], tuple[nn.Module, Arguments]]
    of_images: bool = True


CASES = {
    **dict.fromkeys(OPENSTL, Case(_openstl, of_images=False)),
    "jhhuang96 ConvGRU": Case(_jhhuang),
    "jhhuang96 ConvLSTM": Case(_jhhuang),
    "RAFT": Case(_raft),
    "RAFT-small": Case(_raft),
    "DGMR": Case(_dgmr),
    "Robust Video Matting": Case(_matting),
}


def model_and_arguments(
    name: str, small: bool = False, checkout: Path | None = None, past: int = 10
) -> tuple[nn.Module, Arguments]:
    """A model and what it is called with.

    Args:
        name: one of CASES.
        small: whether the sizes are those for a test.
        checkout: where OpenSTL is, whose own classes then stand for the ports.
        past: frames that OpenSTL's models see, and as many follow.

    """
    torch.manual_seed(0)
    if name in OPENSTL:
        return _openstl(name, small, checkout, past)
    return CASES[name].make(name, small)


def change(arguments: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same arguments with other tensors."""
    if isinstance(arguments, Tensor):
        return function(arguments)
    if arguments is None:
        return None
    return type(arguments)(change(one, function) for one in arguments)


def channels_last(images: Tensor) -> Tensor:
    """`[..., C, H, W]`, of which the channels of a pixel lie together."""
    flat = images.flatten(0, -4).contiguous(memory_format=torch.channels_last)
    return flat.unflatten(0, images.shape[:-3])


def tensors(results: Any) -> list[Tensor]:
    """Those in what a model returns."""
    if isinstance(results, Tensor):
        return [results]
    return [one for part in results or () for one in tensors(part)]


def infer(model: nn.Module, arguments: Arguments) -> list[Tensor]:
    """The outputs; a model that knows its loss does not compute it."""
    own = {"return_loss": False} if hasattr(model, "MSE_criterion") else {}
    with torch.no_grad():
        return tensors(model(*arguments, **own))


def train_step(
    model: nn.Module, arguments: Arguments
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The outputs, and the gradients of the loss to all parameters that have one.

    The loss is the model's own, of others the mean square of the outputs.
    """
    outputs = tensors(model(*arguments))
    if hasattr(model, "MSE_criterion"):
        loss = outputs[-1]
    else:
        loss = torch.stack([one.square().mean() for one in outputs]).sum()
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    gradients = {
        name: gradient
        for name, gradient in zip(parameters, found, strict=True)
        if gradient is not None
    }
    return [one.detach() for one in outputs], gradients
