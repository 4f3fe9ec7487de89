"""What `accelerate` tells of what it did."""

from dataclasses import dataclass, field

_SHOWN = 3  # names of convolutions in a line


@dataclass
class Report:
    """What `accelerate` did, by the modules' names: "" is the model itself."""

    replaced: dict[str, str] = field(default_factory=dict)
    """The class of `trajgru_ext.compat` that a module of a published class now is."""

    convolutions: list[str] = field(default_factory=list)
    """The convolutions that are `trajgru_ext.nn.Conv2d` now."""

    gates: dict[str, str] = field(default_factory=dict)
    """The operators that a module of any class now calls for gates, or conv2d."""

    left_alone: dict[str, str] = field(default_factory=dict)
    """Why a module that looks like a recurrent layer or cell is as it was."""

    def __str__(self) -> str:
        lines = [f"{_shown(name)}: {to}" for name, to in self.replaced.items()]
        lines += [f"{_shown(name)}: {found}" for name, found in self.gates.items()]
        if self.convolutions:
            names = ", ".join(map(_shown, self.convolutions[:_SHOWN]))
            more = len(self.convolutions) - _SHOWN
            names += f" and {more} more" if more > 0 else ""
            lines.append(f"convolutions: {len(self.convolutions)} ({names})")
        lines += [
            f"{_shown(name)}: left alone, {why}"
            for name, why in self.left_alone.items()
        ]
        return "\n".join(lines) or "nothing was found to make fast"


def _shown(name: str) -> str:
    return name or "the model"
