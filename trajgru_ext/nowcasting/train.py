"""Train an encoder-forecaster on an archive of frames.

Run it with torchrun (`torchrun --nproc-per-node=2 -m trajgru_ext nowcast train ...`) on
several processes or machines: the loss is that of one process with the same --batch.
"""

import argparse
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from trajgru_ext.info import cuda_devices
from trajgru_ext.nowcasting import cli
from trajgru_ext.nowcasting.archive import Archive, Series
from trajgru_ext.nowcasting.errors import measure_errors
from trajgru_ext.nowcasting.network import DIVISOR, network
from trajgru_ext.nowcasting.splits import split
from trajgru_ext.nowcasting.training import Training, rank
from trajgru_ext.nowcasting.windows import Windows

# What the result of training depends on, and a checkpoint therefore remembers.
SETTINGS = (
    *("past", "ahead", "crop", "crop_step"),
    *("model", "steps", "batch", "rate", "balance", "seed", "amp"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    cli.add_frames(parser)
    positive, above_zero = cli.positive, cli.above_zero
    parts = parser.add_argument_group(
        "split",
        "times (2016-09, 2016-09-28T14:45/2016-09-28T16) and events (event:3-5), with "
        "commas between them",
    ).add_argument
    parts("--train", help="default: all that is in no other part")
    parts("--validation", help="default: the last tenth of these; none for none")
    parts("--test", help="left alone")
    windows = parser.add_argument_group("windows").add_argument
    windows("--past", type=cli.number(int, 2), default=5, help="frames that are read")
    windows("--ahead", type=positive, default=10, help="frames that are forecast")
    windows("--crop", type=positive, help="pixels a side (default: whole frames)")
    windows("--crop-step", type=positive, default=32, help="from one crop to the next")
    learn = parser.add_argument_group("training").add_argument
    learn("--model", choices=("traj_gru", "conv_gru", "conv_lstm"), default="traj_gru")
    learn("--steps", type=positive, default=1500)
    learn("--batch", type=positive, default=4, help="of all processes together")
    learn("--rate", type=above_zero, default=2e-3, help="highest, of Adam")
    learn(
        "--balance",
        type=cli.number(float, 0),
        default=1.0,
        help="1 for HKO-7's loss, 0 to weigh all pixels alike",
    )
    learn("--seed", type=cli.natural, default=0)
    learn("--amp", action="store_true", help="compute in bfloat16 where autocast does")
    learn("--compile", action="store_true")
    learn("--recompute", choices=("none", "gates"), default="none", help="saves memory")
    learn("--workers", type=cli.natural, default=0, help="processes that read frames")
    learn("--validate-every", type=positive, default=200, help="steps")
    learn("--patience", type=positive, help="validations without gain before the end")
    learn("--device", choices=cli.devices(), default="cpu")
    output = parser.add_argument_group("output").add_argument
    output(
        "--output",
        type=Path,
        default=Path("out/nowcast"),
        help="folder that all processes see, for checkpoint.pt and best.pt",
    )
    output("--resume", action="store_true", help="from the checkpoint in it")
    output("--save-every", type=positive, default=200, help="steps")
    output("--tensorboard", type=Path, metavar="FOLDER", help="logs for TensorBoard")


def describe(archive: Archive, parts: Mapping[str, Sequence[Series]]) -> dict[str, Any]:
    """What a forecaster and a resumed training must find again in the data.

    Warns and raises as `Archive.check_values`.
    """
    train, validation = parts["train"], parts["validation"]
    grids = [one.kind.grid for one in train]
    zr = archive.zr
    return {
        "quantity": archive.quantity,
        "zr": [zr.a, zr.b],
        "minutes": archive.minutes,
        "pixel_metres": round(grids[0].pixel_metres, 1) if grids[0] else None,
        "frames": sum(len(one.times) for one in train),
        "frames_digest": _digest(train),
        "validation_digest": _digest(validation),
        "values_digest": archive.check_values([*train, *validation]),
    }


def _digest(series: Sequence[Series]) -> str:
    """Times, sizes and places of frames, by which they are known again."""
    digest = hashlib.sha256()
    for one in series:
        digest.update(repr((one.shape, one.kind.quantity, one.kind.grid)).encode())
        digest.update(one.times.astype(int).tobytes())
    return digest.hexdigest()[:16]


def make_windows(
    args: argparse.Namespace, parts: Sequence[Series], name: str, step: int
) -> Windows:
    """Windows of a part of the split.

    Raises:
        ValueError: there are none, or the crop does not fit.

    """
    wanted = args.past + args.ahead
    if not parts:
        raise ValueError(
            f"--{name}: no stretch of {wanted} frames without a gap, which --past and "
            "--ahead want"
        )
    smallest = min(min(one.shape[1:]) for one in parts)
    crop = args.crop
    if crop is not None and (crop % DIVISOR or crop > smallest + -smallest % DIVISOR):
        raise ValueError(
            f"--crop: wanted a multiple of {DIVISOR} up to the size of the frames, "
            f"{smallest}, got {crop}"
        )
    return Windows(parts, args.past, args.ahead, crop, step, DIVISOR)


def run(args: argparse.Namespace) -> None:
    """Train as the options say."""
    device = device_of(args.device)
    try:
        if distributed.is_torchelastic_launched():
            distributed.init_process_group("nccl" if args.device == "cuda" else "gloo")
        _run(args, device)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _run(args: argparse.Namespace, device: torch.device) -> None:
    torch.manual_seed(args.seed)
    archive = _shared_archive(args)
    lengths = {"past": args.past, "ahead": args.ahead}
    none = args.validation == "none"
    chosen = args.train, "" if none else args.validation, args.test
    parts = split(archive, *chosen, **lengths)
    windows = make_windows(args, parts["train"], "train", args.crop_step)
    validation = None
    if parts["validation"]:
        step = args.crop or args.crop_step
        validation = make_windows(args, parts["validation"], "validation", step)
    elif args.validation is not None and not none:
        make_windows(args, [], "validation", 1)
    if rank() == 0:
        print("\n".join(archive.report))
        sizes = {k: sum(len(s.times) for s in v) for k, v in parts.items()}
        print(", ".join(f"{name}: {n} frames" for name, n in sizes.items()))
        print(f"rain by {archive.zr}, {len(windows)} windows to train on", flush=True)
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings["data"] = describe(archive, parts)
    decoding = archive.reading.decoding
    settings["decoding"] = {
        "quantity": decoding.quantity,
        "gain": decoding.gain,
        "offset": decoding.offset,
        "missing": list(decoding.missing),
        "accumulation": decoding.accumulation,
    }
    net = network(args.model, args.ahead, args.recompute).to(device)
    training = Training(net, settings, device)
    checkpoint = args.output / "checkpoint.pt"
    if args.resume:
        training.load(checkpoint)
    elif rank() == 0:
        # The best of another training is not that of this one.
        checkpoint.with_name("best.pt").unlink(missing_ok=True)
    args.output.mkdir(parents=True, exist_ok=True)
    training.run(
        windows,
        checkpoint,
        validation=validation,
        patience=args.patience,
        validate_every=args.validate_every,
        compile=args.compile,
        save_every=args.save_every,
        workers=args.workers,
        writer=_writer(args.tensorboard, len(training.losses)),
    )
    if rank() == 0:
        _finish(training, checkpoint, validation)


def _finish(training: Training, checkpoint: Path, validation: Windows | None) -> None:
    """Measure the errors of the checkpoints, by which ensembles are made."""
    print(f"checkpoint: {checkpoint}")
    if validation is None:
        return
    best = checkpoint.with_name("best.pt")
    for path in (checkpoint, best):
        if not path.exists():  # no validation had a loss that is a number
            continue
        training.load(path)
        training.errors = measure_errors(training.net, validation, training.device)
        training.save(path)
    step, loss = min(training.validations, key=lambda one: one[1])
    if math.isfinite(loss):
        print(f"best: {best}, of step {step}, validation loss {loss:.4g}")


def _shared_archive(args: argparse.Namespace) -> Archive:
    """The archive; the first process makes the index for all."""
    if rank() > 0:
        distributed.barrier()
    archive = cli.archive_of(args)
    if rank() == 0 and distributed.is_initialized():
        distributed.barrier()
    return archive


def _writer(folder: Path | None, step: int) -> Any:
    if folder is None or rank() > 0:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(
            "--tensorboard: needs tensorboard: pip install 'trajgru_ext[tensorboard]'"
        ) from error
    return SummaryWriter(folder, purge_step=step + 1)


def device_of(name: str) -> torch.device:
    """The device of this process, among those that torchrun started."""
    if name == "cpu":
        return torch.device(name)
    module: Any = torch.get_device_module(name)
    if not module.is_available():
        why = f" ({cuda_devices()})" if name == "cuda" else ""
        raise ValueError(f"--device: no {name.upper()} device is available{why}")
    device = torch.device(name, int(os.environ.get("LOCAL_RANK", "0")))
    torch.accelerator.set_device_index(device)
    return device
