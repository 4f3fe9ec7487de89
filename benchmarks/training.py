"""What the benchmarks of layers share: ours as a module, and a step of training."""

import torch
from torch import Tensor, nn


class Ours(nn.Module):
    """Our layer's outputs alone."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)[0]


def train_step(model: nn.Module, inputs: Tensor, seed: Tensor) -> list[Tensor]:
    """The outputs and all gradients."""
    outputs = model(inputs)
    leaves = [inputs, *model.parameters()]
    return [outputs.detach(), *torch.autograd.grad(outputs, leaves, seed)]
