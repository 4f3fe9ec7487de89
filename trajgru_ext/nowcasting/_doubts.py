"""Numbers that cannot be rain, which say that files have been misread."""

import math
import warnings
from dataclasses import dataclass, field

from torch import Tensor

# Hail reaches 60 dBZ, cloudbursts 300 mm/h, in a few pixels. No radar hears -70 dBZ,
# but many files have -99 or -999 where nothing was measured.
LIMITS = {"reflectivity": (-70.0, 60.0, "dBZ"), "rain": (0.0, 300.0, "mm/h")}
SHARE = 1e-3  # of what is known; of more than that beyond, there is a warning


@dataclass
class Doubts:
    """How many of the values of some frames cannot be rain, by quantity."""

    known: dict[str, int] = field(default_factory=dict)
    below: dict[str, int] = field(default_factory=dict)
    beyond: dict[str, int] = field(default_factory=dict)

    def add(self, values: Tensor, quantity: str) -> "Doubts":
        """Count values, NaN where missing; minus infinity, no echo, is right."""
        if quantity in LIMITS:
            low, high, _ = LIMITS[quantity]
            for counts, which in (
                (self.known, ~values.isnan()),
                (self.below, (values < low) & (values > -math.inf)),
                (self.beyond, values > high),
            ):
                counts[quantity] = counts.get(quantity, 0) + int(which.sum())
        return self

    def warn(self, where: str) -> None:
        """Warn of what was counted.

        Warns:
            UserWarning: more than 0.1% of the known pixels are beyond 60 dBZ or
                300 mm/h, or finite and below -70 dBZ.

        """
        for quantity, known in self.known.items():
            low, high, unit = LIMITS[quantity]
            for counts, limit, what in (
                (self.below, low, "below {}, which no radar hears: check --missing,"),
                (self.beyond, high, "beyond {}, more than rain is: check --missing,"),
            ):
                share = counts[quantity] / max(known, 1)
                if share > SHARE:
                    warnings.warn(
                        f"{where}: {share:.1%} of the known pixels are "
                        f"{what.format(f'{limit:g} {unit}')} --gain, --offset and "
                        "--quantity",
                        stacklevel=3,
                    )
