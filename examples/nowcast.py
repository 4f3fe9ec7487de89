"""Train on moving handwritten digits, forecast others, and score and draw it.

All of it is `trajgru-ext nowcast` on an array of movies; options are passed on to its
`train`.
"""

import sys
from pathlib import Path

import numpy as np
from digits import moving_digits

from trajgru_ext.nowcasting.cli import main

MOVIES, TESTS = 1024, 64
PAST, AHEAD = 5, 10
# Digits are as bright as heavy rain: with HKO-7's full weights for that, 30 to 1, the
# loss is least for forecasts that are bright wherever a digit may be.
BALANCE = "0.5"


def run(arguments: list[str], folder: Path, movies: int, tests: int) -> None:
    """Run the demonstration into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = folder / "digits.npy"
    count = PAST + AHEAD
    parts = moving_digits(movies, count, 0), moving_digits(tests, count, 1, test=True)
    np.save(frames, np.concatenate([part.numpy() for part in parts]))
    data = ["--frames", str(frames), "--index", str(folder / "digits.sqlite")]
    data += ["--layout", "NTHW", "--quantity", "brightness"]
    data += ["--begin", "2000-01-01", "--step", "5"]
    test = ["--test", f"event:{movies + 1}-{movies + tests}"]
    output = ["--output", str(folder)]
    lengths = ["--past", str(PAST), "--ahead", str(AHEAD)]
    learn = [*lengths, "--validation", "none", "--balance", BALANCE]
    main(["train", *data, *test, *output, *learn, *arguments])
    checkpoint = ["--checkpoint", str(folder / "checkpoint.pt")]
    main(["score", *data, *test, *output, *checkpoint])


if __name__ == "__main__":
    run(sys.argv[1:], Path("out/nowcast"), MOVIES, TESTS)
