"""ndrplz/ConvLSTM_pytorch: one convolution of [x, h], its slices i, f, o, g."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ports.updates import lstm


def step(
    conv: Callable[[Tensor], Tensor], x: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """The new (h, c); `conv` computes the gates from x and h together."""
    i, f, o, g = conv(torch.cat([x, h], 1)).chunk(4, 1)
    return lstm(i, f, g, o, c)


class ConvLSTMCell(nn.Module):
    """One step."""

    def __init__(self, input_dim, hidden_dim, kernel_size, bias):
        super().__init__()
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.kernel_size = kernel_size
        self.padding = kernel_size[0] // 2, kernel_size[1] // 2
        self.bias = bias
        sizes = input_dim + hidden_dim, 4 * hidden_dim, kernel_size
        self.conv = nn.Conv2d(*sizes, padding=self.padding, bias=bias)

    def forward(self, input_tensor, cur_state):
        """The new (h, c)."""
        return step(self.conv, input_tensor, *cur_state)


class ConvLSTM(nn.Module):
    """Layer over layer, from states of 0; the results have the batch first."""

    def __init__(
        self,
        input_dim,
        hidden_dim,
        kernel_size,
        num_layers,
        batch_first=False,
        bias=True,
        return_all_layers=False,
    ):
        super().__init__()
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.kernel_size = kernel_size
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.bias = bias
        self.return_all_layers = return_all_layers
        channels = [input_dim, *hidden_dim]
        self.cell_list = nn.ModuleList(
            ConvLSTMCell(channels[k], hidden_dim[k], kernel_size[k], bias)
            for k in range(num_layers)
        )

    def forward(self, input_tensor, hidden_state=None):
        """All outputs and the last [h, c], of every layer or of the last."""
        if hidden_state is not None:
            raise NotImplementedError
        if not self.batch_first:
            input_tensor = input_tensor.transpose(0, 1)
        batch, steps, _, *size = input_tensor.shape
        outputs, last = [], []
        for cell in self.cell_list:
            zero = input_tensor.new_zeros(batch, cell.hidden_dim, *size)
            state, done = (zero, zero), []
            for t in range(steps):
                image = input_tensor[:, t]
                state = cell(input_tensor=image, cur_state=list(state))
                done.append(state[0])
            input_tensor = torch.stack(done, 1)
            outputs.append(input_tensor)
            last.append(list(state))
        return (outputs, last) if self.return_all_layers else (outputs[-1:], last[-1:])
