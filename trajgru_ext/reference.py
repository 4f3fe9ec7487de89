"""Each operator as its naive formula: slow, readable, and differentiable by autograd.

They are what the tests and a doubtful reader compare with. All
compute in float64 and return it.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d as torch_conv2d
from torch.nn.functional import pad

T = TypeVar("T")


def _hat(steps: Tensor, displacement: Tensor) -> Tensor:
    """max(0, 1 - |steps + displacement|), at its corners differentiated to the right.

    The displacement is compared with whole numbers before they are added, since a sum
    would lose on which side of them a small one lies.
    """
    distance = steps + displacement
    rising = (displacement >= -1 - steps) & (displacement < -steps)
    falling = (displacement >= -steps) & (displacement < 1 - steps)
    # A whole number first: the smallest displacement is then a weight, too.
    weight = torch.where(falling, (1 - steps) - displacement, 0)
    weight = torch.where(rising, (1 + steps) + displacement, weight)
    undefined = torch.where(distance.isnan(), distance, 0)
    return weight + undefined * undefined  # NaN in its derivative, too


def _clip(displacement: Tensor, at: Tensor, size: int) -> Tensor:
    """The displacement that ends in the image, constant where it is clipped."""
    first, last = -at, size - 1 - at
    displacement = torch.where(displacement >= last, last, displacement)
    return torch.where(displacement < first, first, displacement)


def flow_warp(
    input: Tensor, flow: Tensor, flow_scale: float = 1.0, padding_mode: str = "zeros"
) -> Tensor:
    """Warp an image along a flow; see `trajgru_ext.flow_warp` for all there is to say.

    M[b,c,i,j] = sum_m sum_n I[b,c,m,n] max(0, 1-|i+V-m|) max(0, 1-|j+U-n|)

    With padding_mode="border", i+V is clipped to [0, H-1] and j+U to [0, W-1].
    """
    image, uv = input.double(), flow_scale * flow.double()
    # Half of a position is none.
    uv = torch.where(uv.isnan().any(1, True), uv.sum(1, True), uv)
    height, width = image.shape[2:]
    rows = torch.arange(height, dtype=torch.float64, device=image.device)
    cols = torch.arange(width, dtype=torch.float64, device=image.device)
    if not image.numel():
        return image + uv.sum()  # empty, and connected to both
    lines = []
    for i in range(height):
        u, v = uv[:, 0, i, :, None], uv[:, 1, i, :, None]
        if padding_mode == "border":
            u, v = _clip(u, cols[:, None], width), _clip(v, rows[i], height)
        # [B, j, m, n]: what each pixel of the line reads of every pixel.
        down, across = _hat(i - rows, v), _hat(cols[:, None] - cols, u)
        lines.append(_weigh(down[..., :, None] * across[..., None, :], image))
    return torch.stack(lines, 1).permute(0, 3, 1, 2)


def _weigh(weight: Tensor, image: Tensor) -> Tensor:
    """sum_mn weight[b,j,m,n] image[b,c,m,n]; what has no weight may be NaN."""
    finite = image.isfinite()
    total = torch.einsum("bjmn,bcmn->bjc", weight, torch.where(finite, image, 0))
    for b, m, n in (~finite).any(1).nonzero().tolist():
        weights = weight[b, :, m, n, None]
        unread = (weights == 0) | finite[b, :, m, n]
        total[b] += weights * torch.where(unread, 0, image[b, :, m, n])
    return total


def flow_conv(
    input: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    flow_scale: float = 1.0,
) -> Tensor:
    """Warp along each link's flow, concatenate, and mix by a 1x1 convolution."""
    links = [flows[:, k : k + 2] for k in range(0, flows.shape[1], 2)]
    parts = [flow_warp(input, flow, flow_scale) for flow in links]
    warped = torch.cat([input.double()[:, :0], *parts], dim=1)  # of no links, too
    output = torch.einsum("ok,bkhw->bohw", weight.double().flatten(1), warped)
    return output if bias is None else output + bias.double()[:, None, None]


def _activate(candidate: Tensor, activation: str, negative_slope: float) -> Tensor:
    if activation == "leaky_relu":
        return torch.where(candidate > 0, candidate, negative_slope * candidate)
    return candidate.tanh() if activation == "tanh" else candidate.relu()


def _given(argument: T | None) -> T:
    """The argument, which must be there where another is None."""
    if argument is None:
        raise TypeError("an argument that the others ask for is None")
    return argument


def _gates(
    x_gates: Tensor | None, h_gates: Tensor | None, order: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The slices of both parts by their letters; zero where a part is None."""
    given = _given(h_gates if x_gates is None else x_gates)
    parts = [torch.zeros_like(given) if g is None else g for g in (x_gates, h_gates)]
    each = [part.double().chunk(len(order), 1) for part in parts]
    x, h = (dict(zip(order, slices, strict=True)) for slices in each)
    return x, h


def gru_gates(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    order: str = "run",
    activation: str = "tanh",
    negative_slope: float = 0.2,
    update: str = "keep",
    zoneout_mask: Tensor | None = None,
) -> Tensor:
    """Compute a GRU's new state, the reset following the convolution."""
    x, s = _gates(x_gates, h_gates, order)
    r, u = (x["r"] + s["r"]).sigmoid(), (x["u"] + s["u"]).sigmoid()
    candidate = x["n"] if h_gates is None else x["n"] + r * s["n"]
    return gru_output(u, candidate, h, activation, negative_slope, update, zoneout_mask)


def gru_reset(
    x_gates: Tensor | None, h_gates: Tensor | None, h: Tensor, order: str = "ru"
) -> tuple[Tensor, Tensor]:
    """Compute the update gate and the state times the reset gate."""
    x, s = _gates(x_gates, h_gates, order)
    r, u = (x["r"] + s["r"]).sigmoid(), (x["u"] + s["u"]).sigmoid()
    return u, r * h.double()


def gru_output(
    u: Tensor,
    candidate: Tensor,
    h: Tensor,
    activation: str = "tanh",
    negative_slope: float = 0.2,
    update: str = "keep",
    zoneout_mask: Tensor | None = None,
) -> Tensor:
    """Compute a GRU's new state; keep: u h + (1-u) n, replace: (1-u) h + u n."""
    n = _activate(candidate.double(), activation, negative_slope)
    u, old = u.double(), h.double()
    new = u * old + (1 - u) * n if update == "keep" else (1 - u) * old + u * n
    return new if zoneout_mask is None else torch.where(zoneout_mask != 0, old, new)


def lstm_gates(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    c: Tensor,
    peephole: tuple[Tensor, Tensor, Tensor] | None = None,
    order: str = "ifog",
    forget_bias: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Compute an LSTM's new hidden and cell state: see `trajgru_ext.lstm_gates`."""
    x, s = _gates(x_gates, h_gates, order)
    old = c.double()
    a = {gate: x[gate] + s[gate] for gate in order}
    if peephole is not None:
        w_ci, w_cf, w_co = (w.double() for w in peephole)
        a["i"], a["f"] = a["i"] + w_ci * old, a["f"] + w_cf * old
    i, f, g = a["i"].sigmoid(), (a["f"] + forget_bias).sigmoid(), a["g"].tanh()
    new = f * old + i * g
    o = (a["o"] if peephole is None else a["o"] + w_co * new).sigmoid()
    return o * new.tanh(), new


def lstm_memory(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    c: Tensor,
    order: str = "ifg",
    forget_bias: float = 0.0,
) -> Tensor:
    """Compute an LSTM's new cell state: see `trajgru_ext.lstm_memory`."""
    x, s = _gates(x_gates, h_gates, order)
    i, f, g = (x[gate] + s[gate] for gate in "ifg")
    return (f + forget_bias).sigmoid() * c.double() + i.sigmoid() * g.tanh()


Conv = tuple[Tensor, Tensor | None]


def convolve(image: Tensor, conv: Conv, dilation: int | tuple[int, int] = 1) -> Tensor:
    """Convolve, keeping the size, with a weight and a bias or None."""
    weight, bias = conv[0].double(), None if conv[1] is None else conv[1].double()
    if 0 in image.shape[2:]:  # which torch refuses
        none = image.double().sum() * weight.sum()
        return none.expand(len(image), len(weight), *image.shape[2:])
    both = (dilation, dilation) if isinstance(dilation, int) else dilation
    sizes = zip(both, weight.shape[2:], strict=True)
    padding = [one * (size // 2) for one, size in sizes]
    return torch_conv2d(image.double(), weight, bias, padding=padding, dilation=both)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Convolve: the sum over channels and taps of the padded image, product by product.

    y[b,o,i,j] = sum_c sum_m sum_n x[b,c,i s+m d-p,j s+n d-p] w[o,c,m,n]
    """
    rows, columns = padding
    image = pad(input.double(), (columns, columns, rows, rows))
    parts = []
    weights = weight.double().chunk(groups)
    for x, w in zip(image.chunk(groups, 1), weights, strict=True):
        patches = image.new_zeros(())
        for m, n in itertools.product(range(w.shape[2]), range(w.shape[3])):
            height = x.shape[2] - dilation[0] * (w.shape[2] - 1)
            width = x.shape[3] - dilation[1] * (w.shape[3] - 1)
            first_row, first_column = m * dilation[0], n * dilation[1]
            seen = x[:, :, first_row : first_row + height : stride[0]]
            seen = seen[..., first_column : first_column + width : stride[1]]
            patches = patches + torch.einsum("bchw,oc->bohw", seen, w[:, :, m, n])
        parts.append(patches)
    output = torch.cat(parts, 1)
    return output if bias is None else output + bias.double()[:, None, None]


def traj_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    i2h: Conv | None,
    i2f_conv1: Conv | None,
    h2f_conv1: Conv,
    flows_conv: Conv,
    ret: Conv,
    steps: int | None = None,
    activation: str = "leaky_relu",
    negative_slope: float = 0.2,
    zoneout_mask: Tensor | None = None,
    flow_offset: Tensor | float = 0,
) -> tuple[Tensor, Tensor]:
    """Run a TrajGRU step by step, and return its states and flows."""
    unmoved = h is None
    if h is None:
        h = _zero_state(inputs, len(ret[0]) // 3)
    outputs, all_flows = [], []
    for t in range(_count(inputs, steps)):
        hidden, x_gates = convolve(h, h2f_conv1), None
        if inputs is not None:
            hidden = hidden + convolve(inputs[t], _given(i2f_conv1))
            x_gates = convolve(inputs[t], _given(i2h))
        hidden = _activate(hidden, activation, negative_slope)
        flows = convolve(hidden, flows_conv) + flow_offset
        # A state that there is not is not moved, even along flows that are NaN.
        along = torch.zeros_like(flows) if unmoved and t == 0 else flows
        hh = flow_conv(h, along, *ret, flow_scale=-1.0)
        mask = None if zoneout_mask is None else zoneout_mask[t]
        h = gru_gates(
            x_gates,
            hh,
            h,
            activation=activation,
            negative_slope=negative_slope,
            zoneout_mask=mask,
        )
        outputs.append(h)
        all_flows.append(flows)
    no_flows = h.new_empty(len(h), len(flows_conv[0]), *h.shape[2:])
    return _sequence(outputs, h), _sequence(all_flows, no_flows)


def _count(inputs: Tensor | None, steps: int | None) -> int:
    return _given(steps) if inputs is None else len(inputs)


def _zero_state(inputs: Tensor | None, features: int) -> Tensor:
    _, batch, _, *size = _given(inputs).shape
    return _given(inputs).new_zeros(batch, features, *size)


def _sequence(states: list[Tensor], state: Tensor) -> Tensor:
    """The states of all steps, of which there may be none."""
    return torch.stack(states) if states else state.new_empty(0, *state.shape)


def _old_states(
    zoneout_mask: Tensor | None,
    lengths: Tensor | list[int] | None,
    state: Tensor,
    t: int,
) -> Tensor:
    """Where a state of step t stays as it is."""
    old = torch.zeros_like(state, dtype=torch.bool)
    if zoneout_mask is not None:
        old = old | (zoneout_mask[t] != 0)
    if lengths is not None:
        lengths = torch.as_tensor(lengths, device=state.device)
        old = old | (t >= lengths)[:, None, None, None]
    return old


def conv_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    x_weight: Tensor | None,
    h_weight: Tensor,
    x_bias: Tensor | None = None,
    h_bias: Tensor | None = None,
    order: str = "run",
    reset: str = "after",
    activation: str = "tanh",
    negative_slope: float = 0.2,
    update: str = "keep",
    x_dilation: int | tuple[int, int] = 1,
    h_dilation: int | tuple[int, int] = 1,
    zoneout_mask: Tensor | None = None,
    lengths: Tensor | list[int] | None = None,
    steps: int | None = None,
) -> Tensor:
    """Run a ConvGRU step by step, and return its states."""
    h = _zero_state(inputs, h_weight.shape[1]) if h is None else h
    h = h.double()
    outputs = []
    for t in range(_count(inputs, steps)):
        x_gates = None
        if inputs is not None:
            x_gates = convolve(inputs[t], (_given(x_weight), x_bias), x_dilation)
        h_gates = convolve(h, (h_weight, h_bias), h_dilation)
        mask = _old_states(zoneout_mask, lengths, h, t)
        if reset == "after":
            parts = (x_gates, h_gates, h)
            h = gru_gates(*parts, order, activation, negative_slope, update, mask)
        else:
            x, s = _gates(x_gates, h_gates, order)
            r, u = (x["r"] + s["r"]).sigmoid(), (x["u"] + s["u"]).sigmoid()
            after = convolve(r * h, (h_weight, h_bias), h_dilation)
            candidate = x["n"] + after.chunk(3, 1)[order.index("n")]
            h = gru_output(u, candidate, h, activation, negative_slope, update, mask)
        outputs.append(h)
    return _sequence(outputs, h)


def conv_lstm(
    inputs: Tensor | None,
    h: Tensor | None,
    c: Tensor | None,
    x_weight: Tensor | None,
    h_weight: Tensor,
    x_bias: Tensor | None = None,
    h_bias: Tensor | None = None,
    peephole: tuple[Tensor, Tensor, Tensor] | None = None,
    order: str = "ifog",
    forget_bias: float = 0.0,
    x_dilation: int | tuple[int, int] = 1,
    h_dilation: int | tuple[int, int] = 1,
    lengths: Tensor | list[int] | None = None,
    steps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a ConvLSTM step by step, and return its states and the last cell state."""
    sized = _given(h if inputs is None else inputs)
    zero = sized.new_zeros(sized.shape[-4], h_weight.shape[1], *sized.shape[-2:])
    h, c = (zero.double() if state is None else state.double() for state in (h, c))
    outputs = []
    for t in range(_count(inputs, steps)):
        x_gates = None
        if inputs is not None:
            x_gates = convolve(inputs[t], (_given(x_weight), x_bias), x_dilation)
        h_gates = convolve(h, (h_weight, h_bias), h_dilation)
        fresh = lstm_gates(x_gates, h_gates, c, peephole, order, forget_bias)
        old = _old_states(None, lengths, h, t)
        h, c = torch.where(old, h, fresh[0]), torch.where(old, c, fresh[1])
        outputs.append(h)
    return _sequence(outputs, h), c


def channel_mean(*branches: Tensor) -> Tensor:
    """Average each channel of the sum of images."""
    return torch.stack([branch.double() for branch in branches]).sum(0).mean((2, 3))


def se_scale(input: Tensor, logits: Tensor) -> Tensor:
    """Scale each channel by the sigma of its logit."""
    return input.double() * logits.double().sigmoid()[:, :, None, None]


def sk_select(branches: Sequence[Tensor], logits: Tensor) -> Tensor:
    """Mix branches by the softmax of their logits."""
    weights = logits.double().softmax(1)[..., None, None]
    return (weights * torch.stack([b.double() for b in branches], 1)).sum(1)


def hff_concat(
    branches: Sequence[Tensor],
    skipped: int = 0,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    slope: Tensor | None = None,
) -> Tensor:
    """Add each branch to those before it, concatenate, normalise, and apply PReLU."""
    sums = torch.stack([branch.double() for branch in branches]).cumsum(0)
    z = torch.cat(list(sums[skipped:]), 1)
    if scale is not None:
        z = scale.double()[:, None, None] * z
        z = z + _given(shift).double()[:, None, None]
    return z if slope is None else torch.where(z > 0, z, slope[:, None, None] * z)


def spatial_pyramid_pool(input: Tensor, levels: int, mode: str = "max") -> Tensor:
    """Pool to n x n bins for n = 1 to `levels`, bin by bin."""
    x = input.double()
    pooled = []
    for n in range(1, levels + 1):
        rows, cols = (_bins(size, n) for size in x.shape[2:])
        bins = [_pool(x[:, :, i, j].flatten(2), mode) for i in rows for j in cols]
        area = math.prod(-(-size // n) for size in x.shape[2:])
        level = torch.stack(bins, 2).flatten(1)
        pooled.append(level / area if mode == "mean" else level)
    return torch.cat(pooled, 1)


def _bins(size: int, n: int) -> list[slice]:
    """The n bins of an axis, without what is padding."""
    kernel = -(-size // n)
    padding = (kernel * n - size + 1) // 2
    ends = [max(k * kernel - padding, 0) for k in range(n + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def _pool(inside: Tensor, mode: str) -> Tensor:
    """The sum of a bin's pixels, or the first of their maxima."""
    if mode == "mean" or inside.shape[2] == 0:
        return inside.sum(2)
    return inside.gather(2, inside.argmax(2, keepdim=True)).squeeze(2)
