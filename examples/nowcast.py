"""Train an encoder-forecaster on frames, forecast, and score it against baselines.

By default it learns moving handwritten digits; `--frames` takes radar composites, the
last of which are held out. The forecasts of the held-out frames are compared with
persistence, the last frame repeated, and with extrapolation along the motion that
`trajgru_ext.flow_warp` finds in the past frames.

Run `python examples/nowcast.py --help` for the options, and it with torchrun on several
processes or machines: the loss is that of one process with the same `--batch`.
"""

import argparse
import functools
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from digits import moving_digits
from drawing import Picture, animate, draw
from network import DIVISOR, learned_flows, network
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm
from training import Training, processes, rank

from trajgru_ext.nowcasting.extrapolation import (
    RAIN_SMOOTHING,
    extrapolation,
    persistence,
)
from trajgru_ext.nowcasting.frames import (
    QUANTITIES,
    read_frames,
    to_pixels,
)
from trajgru_ext.nowcasting.radar import THRESHOLDS
from trajgru_ext.nowcasting.scores import Scores
from trajgru_ext.nowcasting.windows import Windows, split_in_time

# What the result of training depends on, and a checkpoint therefore remembers.
SETTINGS = (
    *("held_out", "past", "ahead", "crop", "crop_step", "movies"),
    *("model", "steps", "batch", "rate", "balance", "seed", "amp"),
)
# Digits are as bright as heavy rain: with HKO-7's full weights for that, 30 to 1, the
# loss is least for forecasts that are bright wherever a digit may be.
DIGITS_BALANCE = 0.5
Forecast = Callable[[Tensor, int], Tensor]


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _number(kind: type, least: float) -> Callable[[str], float]:
    """A parser of finite numbers that are not below a least one."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least):
            name = "a whole" if kind is int else "a finite"
            above = "" if least == -math.inf else f" of {least:g} or more"
            raise argparse.ArgumentTypeError(f"wanted {name} number{above}, got {text}")
        return value

    return parse


def _parser() -> _Parser:
    parser = _Parser(prog="nowcast", description=__doc__.splitlines()[0])
    positive, natural = _number(int, 1), _number(int, 0)
    real = _number(float, -math.inf)
    data = parser.add_argument_group("frames").add_argument
    data("--frames", type=Path, help="a file or folder; moving digits without it")
    data("--variable", help="of NetCDF files that hold several")
    data(
        "--quantity",
        choices=QUANTITIES,
        default="reflectivity",
        help="what numbers mean in files that do not say it (default: %(default)s)",
    )
    data("--gain", type=real, default=0.5, help="dBZ or mm/h = gain * value + offset")
    data("--offset", type=real, default=-32.0)
    data("--missing", type=int, help="value of pixels that are missing")
    data("--minutes-per-frame", type=_number(float, 1e-9), default=5.0)
    data("--held-out", type=positive, default=12, help="last frames, never trained on")
    data("--credit", default="", help="whose data the picture shows")
    windows = parser.add_argument_group("windows").add_argument
    windows("--past", type=_number(int, 2), default=5, help="frames a forecast reads")
    windows("--ahead", type=positive, default=10, help="frames it makes")
    windows("--crop", type=positive, default=64, help="pixels a side, in training")
    windows("--crop-step", type=positive, default=16, help="from one crop to the next")
    windows("--movies", type=positive, default=1024, help="of digits, to train on")
    windows("--test-movies", type=positive, default=64)
    learn = parser.add_argument_group("training").add_argument
    learn("--model", choices=("traj_gru", "conv_gru", "conv_lstm"), default="traj_gru")
    learn("--steps", type=positive, default=1500)
    learn("--batch", type=positive, default=4, help="of all processes together")
    learn("--rate", type=_number(float, 1e-9), default=2e-3, help="highest, of Adam")
    learn(
        "--balance",
        type=_number(float, 0),
        help="1 for HKO-7's loss, the default with --frames; 0 to weigh all pixels "
        "alike; digits are in between",
    )
    learn("--seed", type=natural, default=0)
    learn("--device", choices=("cpu", "cuda"), default="cpu")
    learn("--amp", action="store_true", help="compute in bfloat16 where autocast does")
    learn("--compile", action="store_true")
    learn("--recompute", choices=("none", "gates"), default="none", help="saves memory")
    output = parser.add_argument_group("output").add_argument
    output(
        "--output",
        type=Path,
        default=Path("out/nowcast"),
        help="a folder that all processes see",
    )
    output("--resume", action="store_true", help="from the checkpoint in it")
    output("--save-every", type=positive, default=200, help="steps")
    output("--logs", type=Path, help="folder for TensorBoard")
    return parser


def _frames(args: argparse.Namespace) -> tuple[Windows, Windows]:
    """Windows to train on, and to test with."""
    lengths = args.past, args.ahead
    if args.frames is None:
        count = sum(lengths)
        movies = moving_digits(args.movies, count, args.seed)
        tests = moving_digits(args.test_movies, count, args.seed + 1, test=True)
        return Windows(movies / 255, *lengths), Windows(tests / 255, *lengths)
    frames = to_pixels(
        read_frames(args.frames, args.variable),
        args.quantity,
        gain=args.gain,
        offset=args.offset,
        missing=args.missing,
    )
    height, width = frames.shape[1:]
    padding = (0, -width % DIVISOR, 0, -height % DIVISOR)  # missing, as it were
    frames = F.pad(frames, padding, value=torch.nan)[None]
    if args.crop % DIVISOR or args.crop > min(frames.shape[2:]):
        raise ValueError(
            f"--crop: wanted a multiple of {DIVISOR} up to the size of the frames, "
            f"{height}x{width}, got {args.crop}"
        )
    if args.held_out < args.ahead:
        raise ValueError(
            f"--held-out: wanted at least the {args.ahead} frames of --ahead, got "
            f"{args.held_out}"
        )
    train, test = split_in_time(frames, args.held_out, args.past)
    crops = Windows(train, *lengths, size=args.crop, step=args.crop_step)
    return crops, Windows(test, *lengths)


def _evaluate(
    forecasts: dict[str, Forecast], windows: Windows, device: torch.device
) -> dict[str, dict[str, Tensor]]:
    """The scores of each forecast over all windows and processes."""
    ahead = windows.length - windows.past
    scores = {name: Scores(ahead).to(device) for name in forecasts}
    share = Subset(windows, range(rank(), len(windows), processes()))
    # Together about a megapixel a frame: radar one by one, digits in one go.
    pixels = math.prod(windows.size)
    loader = DataLoader(share, batch_size=max(1, 2**20 // pixels))
    for batch in tqdm(loader, desc="testing", unit="batch", disable=rank() > 0):
        past, coming, mask = (one.to(device).transpose(0, 1) for one in batch)
        for name, forecast in forecasts.items():
            scores[name].update(forecast(past, ahead), coming, mask)
    return {name: one.compute() for name, one in scores.items()}


def _table(scores: dict[str, dict[str, Tensor]]) -> str:
    """The scores as text: means over lead times, a line a score and threshold."""
    lines = [f"{'mean over lead times':<21}" + "".join(f"{n:>15}" for n in scores)]
    for score in ("csi", "hss", "pod", "far"):
        for k, threshold in enumerate(THRESHOLDS):
            values = [s[score][:, k].nanmean().item() for s in scores.values()]
            name = f"{score.upper():<4}{threshold:>5g} mm/h"
            lines.append(f"{name:<21}" + "".join(f"{v:>15.4f}" for v in values))
    for score, name in (("b_mse", "B-MSE"), ("b_mae", "B-MAE")):
        values = [s[score].mean().item() for s in scores.values()]
        lines.append(f"{name:<21}" + "".join(f"{v:>15.0f}" for v in values))
    return "\n".join(lines)


def _as_json(scores: dict[str, dict[str, Tensor]]) -> str:
    """All scores, by lead time and threshold; null where nothing defines them."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return value if math.isfinite(value) else None

    by_name = {
        name: {
            score: plain(torch.atleast_1d(values).tolist())
            for score, values in one.items()
        }
        for name, one in scores.items()
    }
    return json.dumps({"thresholds_mm_h": THRESHOLDS, **by_name}, indent=1) + "\n"


def _writer(folder: Path | None, step: int) -> Any:
    if folder is None or rank() > 0:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(
            "--logs: needs tensorboard: pip install 'trajgru_ext[tensorboard]'"
        ) from error
    return SummaryWriter(folder, purge_step=step + 1)


def run(args: argparse.Namespace, device: torch.device) -> None:
    """Train, forecast, score and draw as the options say."""
    torch.manual_seed(args.seed)
    train, test = _frames(args)
    net = network(args.model, args.ahead, args.recompute).to(device)
    training = Training(net, {name: getattr(args, name) for name in SETTINGS}, device)
    checkpoint = args.output / "checkpoint.pt"
    if args.resume:
        training.load(checkpoint)
    writer = _writer(args.logs, len(training.losses))
    options = {"compile": args.compile, "save_every": args.save_every}
    training.run(train, checkpoint, writer=writer, **options)

    smoothing = 0.0 if args.frames is None else RAIN_SMOOTHING
    forecasts: dict[str, Forecast] = {
        args.model: net.eval(),
        "extrapolation": functools.partial(extrapolation, smoothing=smoothing),
        "persistence": persistence,
    }
    with torch.no_grad():
        scores = _evaluate(forecasts, test, device)
    if rank() > 0:
        return
    table = _table(scores)
    print(table)
    (args.output / "scores.txt").write_text(table + "\n")
    (args.output / "scores.json").write_text(_as_json(scores))
    picture = _picture(args, forecasts, test, device)
    draw(picture, args.output / "forecast.png")
    animate(picture, args.output / "forecast.gif")
    print(f"pictures: {args.output}/forecast.png, forecast.gif")
    if writer is not None:
        writer.add_text("scores", f"<pre>{table}</pre>", args.steps)
        writer.close()


@torch.no_grad()
def _picture(
    args: argparse.Namespace,
    forecasts: dict[str, Forecast],
    test: Windows,
    device: torch.device,
) -> Picture:
    past, coming, mask = test[len(test) - 1]
    past = past[:, None].to(device)
    rows = {"observed": torch.where(mask, coming, torch.nan)[:, 0]}
    for name, forecast in forecasts.items():
        rows[name] = forecast(past, args.ahead)[:, 0, 0].float().cpu()
    flows = learned_flows(forecasts[args.model], past)
    return Picture(
        past=past[:, 0, 0].cpu(),
        rows=rows,
        flows=None if flows is None else flows[:, 0].float().cpu(),
        minutes=args.minutes_per_frame,
        rain=args.frames is not None and args.quantity != "brightness",
        title=args.frames.name if args.frames else "Moving digits",
        credit=args.credit,
    )


def _device(name: str) -> torch.device:
    """The device of this process, among those that torchrun started."""
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ValueError("--device: no CUDA device is available")
    device = torch.device(name, int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; errors of input are one line and exit status 2."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.balance is None:
        args.balance = DIGITS_BALANCE if args.frames is None else 1.0
    try:
        device = _device(args.device)
        if distributed.is_torchelastic_launched():
            distributed.init_process_group("nccl" if args.device == "cuda" else "gloo")
        args.output.mkdir(parents=True, exist_ok=True)
        run(args, device)
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
