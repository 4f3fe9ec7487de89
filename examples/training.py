"""The training loop: batches, processes, checkpoints and interruptions."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from trajgru_ext.nowcasting.losses import balanced_loss
from trajgru_ext.nowcasting.windows import Windows

CLIP = 1.0  # norm of the gradients; from then on they are shortened to it


def rank() -> int:
    """Number of this process among those that torchrun started."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    """How many processes torchrun started."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


class Batches(Sampler[list[int]]):
    """Of the batch of every step, from a first one on, the share of this process.

    All samples are gone through in an order drawn anew each time. What a step gets
    depends on the seed and its number alone: the shares of all processes together are
    the batch of one process, and training that is resumed goes on where it was.
    """

    def __init__(self, samples: int, batch: int, seed: int, first: int, steps: int):
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
        per_epoch = self.samples // self.batch
        drawn = None
        for step in range(self.first, self.steps):
            epoch, position = divmod(step, per_epoch)
            if epoch != drawn:
                generator = torch.Generator().manual_seed(self.seed + epoch)
                order = torch.randperm(self.samples, generator=generator)
                drawn = epoch
            joined = order[position * self.batch :][: self.batch]
            yield joined[rank() :: processes()].tolist()


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

    def save(self, path: Path) -> None:
        """Write a checkpoint; whenever this ends, the path holds the old or the new."""
        state = {
            "settings": self.settings,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "losses": self.losses,
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
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
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            settings = state["settings"]
        except OSError:
            raise
        except Exception as error:  # a damaged file can make the parsers raise anything
            raise ValueError(f"{path}: cannot be read as a checkpoint") from error
        for name, value in self.settings.items():
            if settings.get(name) != value:
                was = settings.get(name)
                raise ValueError(f"{path}: trained with {name} = {was}, got {value}")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.losses = state["losses"]
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)

    def run(
        self,
        windows: Windows,
        checkpoint: Path,
        *,
        compile: bool = False,
        save_every: int = 200,
        writer: Any = None,
    ) -> None:
        """Train up to the number of steps in the settings.

        Args:
            windows: what to train on.
            checkpoint: file to save to, now and then and at the end.
            compile: whether to compile the network.
            save_every: steps from one checkpoint to the next.
            writer: of TensorBoard, or None.

        Raises:
            SystemExit: SIGINT or SIGTERM came; the step was ended and saved first.

        """
        batch, seed = self.settings["batch"], self.settings["seed"]
        first, steps = len(self.losses), self.settings["steps"]
        batches = Batches(len(windows), batch, seed, first, steps)
        # A generator of its own: the loader draws from it, whether it needs to or not.
        generator = torch.Generator().manual_seed(seed)
        loader = DataLoader(windows, batch_sampler=batches, generator=generator)
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
                if rank() == 0 and (stop or done % save_every == 0 or done == steps):
                    self.save(checkpoint)
                if stop:
                    if rank() == 0:
                        bar.write(f"interrupted after step {done}: saved {checkpoint}")
                    if distributed.is_initialized():
                        distributed.barrier()  # until it is saved
                    raise SystemExit(128 + (signals or [signal.SIGTERM])[0])

    def _step(self, net: nn.Module, *window: Tensor) -> Tensor:
        past, coming, mask = (one.to(self.device).transpose(0, 1) for one in window)
        amp, balance = self.settings["amp"], self.settings["balance"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=amp):
            forecast = net(past).float()
        # The mean over pixels, in which the clipping below does not depend on the size.
        scale = 1 / coming[0, 0].numel()
        loss = balanced_loss(forecast, coming, mask, scale=scale, balance=balance)
        self.optimizer.zero_grad()
        loss.backward()
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
