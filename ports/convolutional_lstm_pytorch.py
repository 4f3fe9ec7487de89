"""automan000/Convolutional_LSTM_PyTorch, without its calls of cuda().

Every gate has convolutions of its own, of x and of h. All steps see the same image.
"""

from torch import nn

from ports.updates import lstm_with_peepholes


class ConvLSTMCell(nn.Module):
    """One step, with peepholes of 0 that are made for the first image."""

    # Parameters that `cuda()` has been called on are none: plain tensors.
    registers_peepholes = False

    def __init__(self, input_channels, hidden_channels, kernel_size):
        super().__init__()
        self.input_channels = input_channels
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.num_features = 4
        self.padding = (kernel_size - 1) // 2
        for gate in "ifco":
            sizes = hidden_channels, kernel_size, 1, self.padding
            setattr(self, f"Wx{gate}", nn.Conv2d(input_channels, *sizes))
            of_h = nn.Conv2d(hidden_channels, *sizes, bias=False)
            setattr(self, f"Wh{gate}", of_h)
        self.Wci = self.Wcf = self.Wco = None

    def forward(self, x, h, c):
        """The new (h, c)."""
        i, f = self.Wxi(x) + self.Whi(h), self.Wxf(x) + self.Whf(h)
        g, o = self.Wxc(x) + self.Whc(h), self.Wxo(x) + self.Who(h)
        return lstm_with_peepholes((i, f, g, o), c, (self.Wci, self.Wcf, self.Wco))

    def init_hidden(self, batch_size, hidden, shape):
        """States of 0 for images of a size, and the peepholes."""
        like = next(self.parameters())
        if self.Wci is None:
            for name in ("Wci", "Wcf", "Wco"):
                zeros = like.new_zeros(1, hidden, *shape)
                registered = self.registers_peepholes
                setattr(self, name, nn.Parameter(zeros) if registered else zeros)
        assert self.Wci.shape[2:] == shape, "Input Size Mismatched!"
        return [like.new_zeros(batch_size, hidden, *shape) for _ in range(2)]


class ConvLSTM(nn.Module):
    """Layers `cell0`, `cell1` and so on, for some number of steps."""

    def __init__(
        self, input_channels, hidden_channels, kernel_size, step=1, effective_step=(1,)
    ):
        super().__init__()
        self.input_channels = [input_channels, *hidden_channels]
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.num_layers = len(hidden_channels)
        self.step = step
        self.effective_step = effective_step
        self._all_layers = []
        for k in range(self.num_layers):
            cell = ConvLSTMCell(self.input_channels[k], hidden_channels[k], kernel_size)
            setattr(self, f"cell{k}", cell)
            self._all_layers.append(cell)

    def forward(self, input):
        """The last layer's h at the effective steps, and its last (h, c)."""
        states, outputs = {}, []
        for step in range(self.step):
            x = input
            for k, cell in enumerate(self._all_layers):
                if step == 0:
                    sizes = len(x), self.hidden_channels[k], x.shape[2:]
                    states[k] = cell.init_hidden(*sizes)
                states[k] = cell(x, *states[k])
                x, c = states[k]
            if step in self.effective_step:
                outputs.append(x)
        return outputs, (x, c)
