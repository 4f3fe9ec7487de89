"""The names that HKO-7's MXNet code (sxjscience/HKO-7) gives parameters, and ours."""

import re
from collections.abc import Iterable

# Levels count from 1 there, from 0 here.
_LAYER = re.compile(
    r"([ef])brnn([1-9]\d*)_0_(i2h|h2h|i2f_conv1|h2f_conv1|f_out)_(weight|bias)"
)
_BETWEEN = re.compile(r"(edown|fup)([1-9]\d*)_(?:de)?conv_(weight|bias)")
_ENDS = re.compile(r"(econv1|fdeconv1|conv_final|out)_(weight|bias)")

_HALVES = {"e": "encoder", "f": "forecaster"}
_IN_TRAJ_GRU = {"h2h": "ret", "f_out": "flows_conv"}
_OF_ENDS = {
    "econv1": "down.0.0",
    "fdeconv1": "head.0",
    "conv_final": "head.2",
    "out": "head.4",
}


def ours(names: Iterable[str]) -> dict[str, str]:
    """For every name that of `trajgru_ext.nn`'s networks, where HKO-7 gave it.

    The weights are laid out as torch's. Where no recurrent layer has such a name,
    nothing is changed; a TrajGRU is told by the convolution that makes its flows.
    """
    plain = {name: re.sub("^(arg|aux):", "", name) for name in names}
    layers = [match for match in map(_LAYER.fullmatch, plain.values()) if match]
    if not layers:
        return dict(zip(plain, plain, strict=True))
    traj_gru = any(match[3] == "f_out" for match in layers)
    return {old: _our_name(name, traj_gru) or old for old, name in plain.items()}


def _our_name(name: str, traj_gru: bool) -> str | None:
    if match := _LAYER.fullmatch(name):
        half, level, conv, kind = match.groups()
        conv = _IN_TRAJ_GRU.get(conv, conv) if traj_gru else f"cell_list.0.{conv}"
        return f"{_HALVES[half]}.{int(level) - 1}.{conv}.{kind}"
    if match := _BETWEEN.fullmatch(name):
        place, level, kind = match.groups()
        if place == "edown":
            return f"down.{level}.0.{kind}"
        return f"up.{int(level) - 1}.0.{kind}"
    if match := _ENDS.fullmatch(name):
        return f"{_OF_ENDS[match[1]]}.{match[2]}"
    return None
