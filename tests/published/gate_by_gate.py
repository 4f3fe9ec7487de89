"""automan000/Convolutional_LSTM_PyTorch, without its calls of cuda()."""

from torch import nn


class ConvLSTMCell(nn.Module):
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
        i = (self.Wxi(x) + self.Whi(h) + c * self.Wci).sigmoid()
        f = (self.Wxf(x) + self.Whf(h) + c * self.Wcf).sigmoid()
        c = f * c + i * (self.Wxc(x) + self.Whc(h)).tanh()
        o = (self.Wxo(x) + self.Who(h) + c * self.Wco).sigmoid()
        return o * c.tanh(), c

    def init_hidden(self, batch_size, hidden, shape):
        like = next(self.parameters())
        if self.Wci is None:
            for name in ("Wci", "Wcf", "Wco"):
                zeros = like.new_zeros(1, hidden, *shape)
                registered = self.registers_peepholes
                setattr(self, name, nn.Parameter(zeros) if registered else zeros)
        assert self.Wci.shape[2:] == shape, "Input Size Mismatched!"
        return [like.new_zeros(batch_size, hidden, *shape) for _ in range(2)]


class ConvLSTM(nn.Module):
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
