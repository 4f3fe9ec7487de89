"""happyjin/ConvGRU-pytorch: the reset before the convolution, u for the new."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ports.updates import blend

Convolution = Callable[[Tensor], Tensor]


def step(
    conv_gates: Convolution, conv_can: Convolution, x: Tensor, h: Tensor
) -> Tensor:
    """The new h; the gates are r and u, in this order.

    n = tanh(conv_can([x, r h]))    h' = (1 - u) h + u n
    """
    r, u = conv_gates(torch.cat([x, h], 1)).sigmoid().chunk(2, 1)
    n = conv_can(torch.cat([x, r * h], 1)).tanh()
    return blend(u, n, h)


class ConvGRUCell(nn.Module):
    """One step."""

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
        """The new h."""
        return step(self.conv_gates, self.conv_can, input_tensor, h_cur)


class ConvGRU(nn.Module):
    """Layer over layer, from states of 0; the results have the batch first."""

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
        """All outputs and the last [h], of every layer or of the last."""
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
