"""The training loop: batches, processes, checkpoints and interruptions."""

import math
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler, Subset
from tqdm import tqdm

from trajgru_ext.nowcasting.losses import balanced_loss
from trajgru_ext.nowcasting.radar import HKO7, ZR
from trajgru_ext.nowcasting.windows import Windows

# Of more windows than this no order is drawn, which would fill memory: every step draws
# some of them, whatever was drawn before.
ORDERED = 2**22
VALIDATED = 256  # windows at most, spread evenly over all
CLIP = 1.0  # norm of the gradients; from then on they are shortened to it


def rank() -> int:
    """Number of this process among those that torchrun started."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    """How many processes torchrun started."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


class Batches(Sampler[list[int]]):
    """Of the batch of every step, from a first one on, the share of this process.

    All samples are gone through in an order drawn anew each time, unless they are more
    than `ORDERED`, of which each step draws its own. What a step gets
    depends on the seed and its number alone: the shares of all processes together are
    the batch of one process, and training that is resumed goes on where it was.
    """

    def __init__(
        self, samples: int, batch: int, seed: int, first: int, steps: int
    ) -> None:
        if batch % processes() or batch > samples:
            raise ValueError(
                f"batch must be a multiple of the {processes()} processes and at most "
                f"the {samples} windows to train on, got {batch}"
            )
        self.samples, self.batch, self.seed = samples, batch, seed
        self.first, self.steps = first, steps

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[int]]:
        ordered = self.samples <= ORDERED
        per_epoch = self.samples // self.batch if ordered else 1
        drawn, order = -1, torch.empty(0)
        for step in range(self.first, self.steps):
            epoch, position = divmod(step, per_epoch)
            if epoch != drawn:
                order = self._draw(self.seed + epoch, ordered)
                drawn = epoch
            joined = order[position * self.batch :][: self.batch]
            yield joined[rank() :: processes()].tolist()

    def _draw(self, seed: int, ordered: bool) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if ordered:
            return torch.randperm(self.samples, generator=generator)
        return torch.randint(self.samples, (self.batch,), generator=generator)


@dataclass
class Training:
    """A network and all that its training has come to."""

    net: nn.Module
    settings: dict[str, Any]  # what the result depends on, of plain types
    device: torch.device

    def __post_init__(self) -> None:
        rate, steps = self.settings["rate"], self.settings["steps"]
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=steps
        )
        self.losses: list[float] = []  # of every step so far
        # The number of steps and the loss of every validation so far.
        self.validations: list[tuple[int, float]] = []
        # Measured after training, by those who want it in the checkpoint.
        self.errors: dict[str, Any] = {}

    @property
    def zr(self) -> ZR:
        """By which pixels are rain."""
        return ZR(*self.settings.get("data", {}).get("zr", (HKO7.a, HKO7.b)))

    def save(self, path: Path) -> None:
        """Write a checkpoint; whenever this ends, the path holds the old or the new."""
        state = {
            "settings": self.settings,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "losses": self.losses,
            "validations": self.validations,
            "errors": self.errors,
            "random": torch.get_rng_state(),
        }
        if self.device.type != "cpu":
            of_device: Any = torch.get_device_module(self.device)
            state["random_on_device"] = of_device.get_rng_state(self.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is damaged, or its settings are others.

        """
        state = read_checkpoint(path)
        for name, was, value in _differences(state["settings"], self.settings):
            raise ValueError(f"{path}: trained with {name} = {was}, got {value}")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.losses = state["losses"]
        self.validations = [tuple(one) for one in state.get("validations", [])]
        self.errors = state.get("errors", {})
        torch.set_rng_state(state["random"])
        if self.device.type != "cpu" and "random_on_device" in state:
            of_device: Any = torch.get_device_module(self.device)
            of_device.set_rng_state(state["random_on_device"], self.device)

    def run(
        self,
        windows: Windows,
        checkpoint: Path,
        *,
        validation: Windows | None = None,
        patience: int | None = None,
        validate_every: int = 200,
        compile: bool = False,
        save_every: int = 200,
        workers: int = 0,
        writer: Any = None,
    ) -> None:
        """Train up to the number of steps in the settings.

        Args:
            windows: what to train on.
            checkpoint: file to save to, now and then and at the end. Beside it,
                `best.pt` is that of the least loss in a validation.
            validation: what to validate with.
            patience: validations in a row without a lower loss after which to stop;
                None never does.
            validate_every: steps from one validation to the next.
            compile: whether to compile the network.
            save_every: steps from one checkpoint to the next.
            workers: processes that read frames, besides this one.
            writer: of TensorBoard, or None.

        Raises:
            SystemExit: SIGINT or SIGTERM came; the step was ended and saved first.

        """
        batch, seed = self.settings["batch"], self.settings["seed"]
        first, steps = len(self.losses), self.settings["steps"]
        batches = Batches(len(windows), batch, seed, first, steps)
        # A generator of its own: the loader draws from it, whether it needs to or not.
        generator = torch.Generator().manual_seed(seed)
        loader = DataLoader(
            windows,
            batch_sampler=batches,
            generator=generator,
            num_workers=workers,
            worker_init_fn=_leave_interruptions,
        )
        net = self.net
        if compile:
            net.compile()
        if distributed.is_initialized():
            net = DistributedDataParallel(net)
        bar = tqdm(
            total=steps,
            initial=first,
            desc="training",
            unit="step",
            disable=rank() > 0,
            smoothing=0.1,
        )
        with bar, _interruptions() as signals:
            if self._waited(patience):
                return
            for past, coming, mask in loader:
                loss = self._step(net, past, coming, mask)
                mean, stop = _agreed(loss, bool(signals))
                self.losses.append(mean)
                done = len(self.losses)
                bar.set_postfix(loss=f"{mean:.4g}", refresh=False)
                bar.update()
                if writer is not None:
                    writer.add_scalar("loss", mean, done)
                    writer.add_scalar("rate", self.schedule.get_last_lr()[0], done)
                last = done == steps
                if validation is not None and (last or done % validate_every == 0):
                    self._validated(validation, checkpoint, writer)
                    last = last or self._waited(patience)
                if rank() == 0 and (stop or done % save_every == 0 or last):
                    self.save(checkpoint)
                if stop:
                    if rank() == 0:
                        bar.write(f"interrupted after step {done}: saved {checkpoint}")
                    if distributed.is_initialized():
                        distributed.barrier()  # until it is saved
                    raise SystemExit(128 + (signals or [signal.SIGTERM])[0])
                if last:
                    return

    def _waited(self, patience: int | None) -> bool:
        """Whether as many validations as patience allows have gained nothing."""
        if patience is None or not self.validations:
            return False
        best = min(range(len(self.validations)), key=lambda k: self.validations[k][1])
        return len(self.validations) - 1 - best >= patience

    def _validated(self, windows: Windows, checkpoint: Path, writer: Any) -> None:
        """Measure the loss of what is not trained on; keep the best."""
        loss = self.validation_loss(windows)
        best = min((one for _, one in self.validations), default=math.inf)
        self.validations.append((len(self.losses), loss))
        if writer is not None:
            writer.add_scalar("validation loss", loss, len(self.losses))
        if loss < best and rank() == 0:
            self.save(checkpoint.with_name("best.pt"))

    @torch.no_grad()
    def validation_loss(self, windows: Windows) -> float:
        """The mean loss of windows, of which each process takes its share."""
        every = range(0, len(windows), max(1, len(windows) // VALIDATED))
        share = Subset(windows, every[rank() :: processes()])
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.net.eval()
        for window in DataLoader(share):
            loss = self._loss(self.net, *window).double()
            total += torch.stack([loss, torch.ones_like(loss)])
        self.net.train()
        if distributed.is_initialized():
            distributed.all_reduce(total)
        return (total[0] / total[1]).item()

    def _loss(self, net: nn.Module, *window: Tensor) -> Tensor:
        past, coming, mask = (one.to(self.device).transpose(0, 1) for one in window)
        amp, balance = self.settings["amp"], self.settings["balance"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=amp):
            forecast = net(past).float()
        # The mean over pixels, in which the clipping below does not depend on the size.
        scale = 1 / coming[0, 0].numel()
        return balanced_loss(
            forecast, coming, mask, scale=scale, balance=balance, zr=self.zr
        )

    def _step(self, net: nn.Module, *window: Tensor) -> Tensor:
        loss = self._loss(net, *window)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()


def _agreed(loss: Tensor, stop: bool) -> tuple[float, bool]:
    """The mean loss of all processes, and whether any of them is to stop."""
    both = torch.stack([loss, torch.full_like(loss, stop)])
    if distributed.is_initialized():
        distributed.all_reduce(both)
    mean, stopping = (both / both.new_tensor([processes(), 1])).tolist()
    return mean, stopping > 0


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds.

    Raises:
        ValueError: it is damaged or no checkpoint of training.
        OSError: there is none.

    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        dict(state["settings"], net=state["net"])
    except OSError:
        raise
    except Exception as error:  # a damaged file can make the parsers raise anything
        raise ValueError(f"{path}: cannot be read as a checkpoint") from error
    return state


def _differences(
    was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Name, old and new value of every setting that differs."""
    for name, value in now.items():
        old = was.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            yield from _differences(old, value, f"{prefix}{name}.")
        elif old != value:
            yield prefix + name, old, value


def _leave_interruptions(_: int) -> None:
    """Of a worker: Ctrl-C reaches it too, but it is for its parent to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in a list; a second one ends the process at once."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
