"""Every operator in one entry: how it is called, and what is true of it.

An entry is a function that makes arguments from a source of sizes, choices and tensors.
`trajgru-ext check` reads the catalog, and so do the tests: what stands here is drawn at
random and compared with its formula and its decomposition, launched on more elements
than 32 bits count, and run by any number of threads. An operator's formula is the
function of its name in `trajgru_ext.reference`; its decomposition is registered beside
its fake kernels.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from trajgru_ext.ops._operator import Arguments, Case, Operator, Sample
from trajgru_ext.ops._samples import Source

_UPDATES = ("keep", "replace")

OPERATORS: dict[str, Operator] = {}


def cases(*families: str) -> Iterator[Case]:
    """Every case of the operators, or of those of some families."""
    for operator in OPERATORS.values():
        if not families or operator.family in families:
            for label, choices in operator.cases.items():
                title = f"{operator.name}, {label}" if label else operator.name
                yield Case(title, operator, choices)


def _entry(
    family: str,
    *,
    cases: Mapping[str, Mapping[str, Any]] | None = None,
    products: bool = False,
    fixed_order: bool = True,
    starred: str | None = None,
) -> Callable[[Sample], Sample]:
    """Enter the operator of the function's name; see `Operator` for the rest."""

    def enter(sample: Sample) -> Sample:
        name = sample.__name__
        tried = {"": {}} if cases is None else cases
        OPERATORS[name] = Operator(
            name, family, sample, tried, products, fixed_order, starred
        )
        return sample

    return enter


def _bias(s: Source, outputs: int, to_flows: bool = False) -> Tensor | None:
    return s.bias(outputs, to_flows) if s.choose("bias", True, False) else None


@_entry("flow", cases={"": {}, "border": {"padding_mode": "border"}}, fixed_order=False)
def flow_warp(s: Source) -> Arguments:
    batch, channels, height, width = s.sizes("BCHW")
    return {
        "input": s.tensor(batch, channels, height, width),
        "flow": s.flow(batch, 2, height, width),
        "flow_scale": s.choose("flow_scale", 1.0, -1.0, 0.5, 0.0),
        "padding_mode": s.choose("padding_mode", "zeros", "border"),
    }


@_entry("flow", products=True, fixed_order=False)
def flow_conv(s: Source) -> Arguments:
    batch, channels, height, width = s.sizes("BCHW")
    links, outputs = s.sizes("LO")
    return {
        "input": s.tensor(batch, channels, height, width),
        "flows": s.flow(batch, 2 * links, height, width),
        "weight": s.weight(outputs, links * channels),
        "bias": _bias(s, outputs),
        "flow_scale": s.choose("flow_scale", 1.0, -1.0, 0.5),
    }


@_entry(
    "conv",
    cases={
        "": {},
        "5x5": {"kernel": (5, 5)},
        "1x5": {"kernel": (1, 5)},
        "7x1": {"kernel": (7, 1)},
        "strided": {"stride": (2, 1), "dilation": (1, 2)},
    },
    products=True,
    fixed_order=False,
)
def conv2d(s: Source) -> Arguments:
    batch, channels, height, width = s.sizes("BCHW")
    (outputs,) = s.sizes("O")
    kernel = s.choose("kernel", (3, 3), (5, 5), (1, 3), (1, 5), (5, 1), (7, 1))
    dilation = s.choose("dilation", (1, 1), (1, 2))
    return {
        "input": s.tensor(batch, channels, height, width),
        "weight": s.weight(outputs, channels, *kernel),
        "bias": _bias(s, outputs),
        "stride": s.choose("stride", (1, 1), (2, 1)),
        "padding": tuple(k // 2 * d for k, d in zip(kernel, dilation, strict=True)),
        "dilation": dilation,
    }


def _gates(s: Source, count: int) -> tuple[Arguments, list[int]]:
    """One part of the gates or both, and the sizes of the state."""
    batch, features, height, width = size = s.sizes("BFHW")
    both = ("x_gates", "h_gates")
    given = s.choose("given", both, ("x_gates",), ("h_gates",))
    shape = (batch, count * features, height, width)
    parts = {
        part: s.tensor(*shape, dtype="lower") if part in given else None
        for part in both
    }
    return parts, size


def _order(s: Source, letters: str) -> str:
    orders = itertools.permutations(letters)
    chosen: str = s.choose("order", *map("".join, orders))
    return chosen


def _new_state(s: Source, *mask: int, activation: str = "tanh") -> Arguments:
    """How a GRU makes it; mask: the shape of zoneout's."""
    others = [one for one in ("tanh", "relu", "leaky_relu") if one != activation]
    return {
        "activation": s.choose("activation", activation, *others),
        "negative_slope": s.choose("negative_slope", 0.2, 0.0),
        "zoneout_mask": s.mask(*mask) if s.choose("zoneout", False, True) else None,
    }


def _peephole(s: Source, size: list[int], dtype: str) -> tuple[Tensor, ...] | None:
    _, features, height, width = size
    pixels = s.choose("peephole", "shared", "of each pixel", None)
    if pixels is None:
        return None
    height, width = (1, 1) if pixels == "shared" else (height, width)
    return tuple(s.tensor(1, features, height, width, dtype=dtype) for _ in range(3))


@_entry("gates", cases={"": {}, "leaky_relu": {"activation": "leaky_relu"}})
def gru_gates(s: Source) -> Arguments:
    parts, size = _gates(s, 3)
    choices = {"order": _order(s, "run"), "update": s.choose("update", *_UPDATES)}
    return parts | {"h": s.tensor(*size)} | choices | _new_state(s, *size)


@_entry("gates")
def gru_reset(s: Source) -> Arguments:
    parts, size = _gates(s, 2)
    return parts | {"h": s.tensor(*size), "order": _order(s, "ru")}


@_entry("gates")
def gru_output(s: Source) -> Arguments:
    size = s.sizes("BFHW")
    return {
        "u": s.tensor(*size),
        "candidate": s.tensor(*size, dtype="lower"),
        "h": s.tensor(*size),
        "update": s.choose("update", *_UPDATES),
        **_new_state(s, *size),
    }


@_entry("gates")
def lstm_gates(s: Source) -> Arguments:
    parts, size = _gates(s, 4)
    return {
        **parts,
        "c": s.tensor(*size),
        "peephole": _peephole(s, size, "any"),
        "order": _order(s, "ifog"),
        "forget_bias": s.choose("forget_bias", 0.0, 1.0),
    }


@_entry("gates")
def lstm_memory(s: Source) -> Arguments:
    parts, size = _gates(s, 3)
    return {
        **parts,
        "c": s.tensor(*size),
        "order": _order(s, "ifg"),
        "forget_bias": s.choose("forget_bias", 0.0, 1.0),
    }


def _conv(
    s: Source, outputs: int, inputs: int, kernel: int, to_flows: bool = False
) -> tuple[Tensor, Tensor | None]:
    weight = s.weight(outputs, inputs, kernel, kernel, to_flows=to_flows)
    return weight, _bias(s, outputs, to_flows)


def _inputs_and_states(s: Source, *states: str) -> Arguments:
    """Inputs or a state h, at least."""
    steps, batch, channels, features, height, width = s.sizes("TBCFHW")
    given = s.choose("given", ("inputs", *states), ("inputs",), states, ("h",))
    found: Arguments = dict.fromkeys(("inputs", *states))
    if "inputs" in given:
        found["inputs"] = s.tensor(steps, batch, channels, height, width)
    for state in states:
        if state in given:
            found[state] = s.tensor(batch, features, height, width)
    return found | {"steps": steps}


def _conv_rnn(s: Source, gates: int, *states: str) -> Arguments:
    steps, batch, channels, features = s.sizes("TBCF")
    found = _inputs_and_states(s, *states)
    found["x_weight"] = found["x_bias"] = None
    kernel = s.choose("kernel", 3, 1)
    if found["inputs"] is not None:
        x_kernel = s.choose("kernel", 3, 1)
        x_conv = _conv(s, gates * features, channels, x_kernel)
        found["x_weight"], found["x_bias"] = x_conv
        found["x_dilation"] = s.choose("x_dilation", 1, 2)
    found["h_weight"], found["h_bias"] = _conv(s, gates * features, features, kernel)
    found["h_dilation"] = s.choose("h_dilation", 1, 2, (1, 3))
    found["recompute"] = s.choose("recompute", "none", "gates")
    found["lengths"] = None
    if s.choose("lengths", False, True):
        each = [s.choose("length", *range(steps + 1)) for _ in range(batch)]
        found["lengths"] = each
    return found


@_entry("sequences", products=True, fixed_order=False)
def conv_lstm(s: Source) -> Arguments:
    return {
        **_conv_rnn(s, 4, "h", "c"),
        "peephole": _peephole(s, s.sizes("BFHW"), "same"),
        "order": _order(s, "ifog"),
        "forget_bias": s.choose("forget_bias", 0.0, 1.0),
    }


@_entry(
    "sequences",
    cases={"": {}, "reset before": {"reset": "before"}},
    products=True,
    fixed_order=False,
)
def conv_gru(s: Source) -> Arguments:
    return {
        **_conv_rnn(s, 3, "h"),
        "order": _order(s, "run"),
        "reset": s.choose("reset", "after", "before"),
        "update": s.choose("update", *_UPDATES),
        **_new_state(s, *s.sizes("TBFHW")),
    }


# A state whose rounding crosses the kink of leaky_relu would have another gradient.
@_entry(
    "sequences",
    cases={"": {"activation": "tanh"}},
    products=True,
    fixed_order=False,
)
def traj_gru(s: Source) -> Arguments:
    channels, features, hidden, links = s.sizes("CFGL")
    found = _inputs_and_states(s, "h")
    found["i2h"] = found["i2f_conv1"] = None
    if found["inputs"] is not None:
        found["i2h"] = _conv(s, 3 * features, channels, s.choose("i2h kernel", 3, 1))
        found["i2f_conv1"] = _conv(s, hidden, channels, s.choose("kernel", 5, 3, 1))
    h2f_kernel, flows_kernel = (s.choose("kernel", 5, 3, 1) for _ in range(2))
    return {
        **found,
        "h2f_conv1": _conv(s, hidden, features, h2f_kernel),
        "flows_conv": _conv(s, 2 * links, hidden, flows_kernel, to_flows=True),
        "ret": _conv(s, 3 * features, links * features, 1),
        **_new_state(s, *s.sizes("TBFHW"), activation="leaky_relu"),
        "recompute": s.choose("recompute", "none", "gates", "flows"),
        "return_flows": True,
    }


def _branches(s: Source, least: int) -> list[Tensor]:
    size = s.sizes("BCHW")
    count = s.choose("branches", *dict.fromkeys((3, least, 4)))
    return [s.tensor(*size) for _ in range(count)]


@_entry("branches", cases={"": {}, "one": {"branches": 1}}, starred="branches")
def channel_mean(s: Source) -> Arguments:
    return {"branches": _branches(s, 1)}


@_entry("branches")
def se_scale(s: Source) -> Arguments:
    batch, channels, height, width = s.sizes("BCHW")
    return {
        "input": s.tensor(batch, channels, height, width),
        "logits": s.tensor(batch, channels, dtype="any"),
    }


@_entry("branches", cases={"": {}, "two": {"branches": 2}})
def sk_select(s: Source) -> Arguments:
    batch, channels = s.sizes("BC")
    branches = _branches(s, 2)
    logits = s.tensor(batch, len(branches), channels, dtype="any")
    return {"branches": branches, "logits": logits}


@_entry(
    "branches",
    cases={
        "": {"branches": 4},
        "skipped": {"skipped": 2},
        "affine": {
            "branches": 4,
            "skipped": 1,
            "numbers": ("scale", "shift", "slope"),
        },
    },
)
def hff_concat(s: Source) -> Arguments:
    _, channels = s.sizes("BC")
    branches = _branches(s, 1)
    skipped = s.choose("skipped", 0, len(branches) - 1)
    norm, slope = ("scale", "shift"), ("slope",)
    numbers = s.choose("numbers", (), norm, slope, norm + slope)
    results = (len(branches) - skipped) * channels
    found: Arguments = {"branches": branches, "skipped": skipped}
    return found | {name: s.tensor(results, dtype="any") for name in numbers}


@_entry("branches", cases={"max": {"mode": "max"}, "mean": {"mode": "mean"}})
def spatial_pyramid_pool(s: Source) -> Arguments:
    return {
        "input": s.tensor(*s.sizes("BCHW", least=1)),
        "levels": s.choose("levels", 4, 1, 2),
        "mode": s.choose("mode", "max", "mean"),
    }
