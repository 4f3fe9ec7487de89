"""happyjin/ConvGRU-pytorch."""

import torch
from torch import nn


class ConvGRUCell(nn.Module):
    def __init__(self, input_size, input_dim, hidden_dim, kernel_size, bias, dtype):
        super().__init__()
        self.height, self.width = input_size
        self.padding = kernel_size[0] // 2, kernel_size[1] // 2
        self.hidden_dim = hidden_dim
        self.bias = bias
        self.dtype = dtype
        options = {"padding": self.padding, "bias": bias}
        both = input_dim + hidden_dim
        self.conv_gates = nn.Conv2d(both, 2 * hidden_dim, kernel_size, **options)
        self.conv_can = nn.Conv2d(both, hidden_dim, kernel_size, **options)

    def forward(self, input_tensor, h_cur):
        gates = self.conv_gates(torch.cat([input_tensor, h_cur], 1)).sigmoid()
        r, u = gates.chunk(2, 1)
        n = self.conv_can(torch.cat([input_tensor, r * h_cur], 1)).tanh()
        return (1 - u) * h_cur + u * n


class ConvGRU(nn.Module):
    def __init__(
        self,
        input_size,
        input_dim,
        hidden_dim,
        kernel_size,
        num_layers,
        dtype,
        batch_first=False,
        bias=True,
        return_all_layers=False,
    ):
        super().__init__()
        self.height, self.width = input_size
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.kernel_size = kernel_size
        self.dtype = dtype
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.bias = bias
        self.return_all_layers = return_all_layers
        channels = [input_dim, *hidden_dim]
        self.cell_list = nn.ModuleList(
            ConvGRUCell(
                input_size, channels[k], hidden_dim[k], kernel_size[k], bias, dtype
            )
            for k in range(num_layers)
        )

    def forward(self, input_tensor, hidden_state=None):
        if not self.batch_first:
            input_tensor = input_tensor.transpose(0, 1)
        outputs, last = [], []
        for cell in self.cell_list:
            sizes = len(input_tensor), cell.hidden_dim, self.height, self.width
            h, done = torch.zeros(sizes).type(self.dtype), []
            for image in input_tensor.unbind(1):
                h = cell(input_tensor=image, h_cur=h)
                done.append(h)
            input_tensor = torch.stack(done, 1)
            outputs.append(input_tensor)
            last.append([h])
        return (outputs, last) if self.return_all_layers else (outputs[-1:], last[-1:])
