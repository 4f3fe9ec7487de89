"""ndrplz/ConvLSTM_pytorch."""

import torch
from torch import nn


class ConvLSTMCell(nn.Module):
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
        h, c = cur_state
        i, f, o, g = self.conv(torch.cat([input_tensor, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class ConvLSTM(nn.Module):
    cell = ConvLSTMCell

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
            self.cell(channels[k], hidden_dim[k], kernel_size[k], bias)
            for k in range(num_layers)
        )

    def forward(self, input_tensor, hidden_state=None):
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
