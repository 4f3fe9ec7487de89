"""The demonstration: digits, the training loop, its checkpoints, and whole runs."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from emulation import device as emulated
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import nowcast as demonstration  # noqa: E402 - from the folder above
from digits import moving_digits  # noqa: E402

from trajgru_ext import cli  # noqa: E402
from trajgru_ext.nowcasting import THRESHOLDS, Windows, train  # noqa: E402
from trajgru_ext.nowcasting import training as loop  # noqa: E402
from trajgru_ext.nowcasting.baselines import BASELINES  # noqa: E402
from trajgru_ext.nowcasting.network import learned_flows, network  # noqa: E402
from trajgru_ext.nowcasting.nowcaster import Nowcaster  # noqa: E402
from trajgru_ext.nowcasting.training import Batches, Training  # noqa: E402

SETTINGS = {
    "steps": 6,
    "batch": 2,
    "rate": 1e-3,
    "balance": 1.0,
    "seed": 0,
    "amp": False,
}
TINY = ["--batch", "4", "--steps", "3", "--ahead", "2", "--past", "2"]


def test_digits_are_reproducible_by_seed():
    movies = moving_digits(2, 6, seed=3)
    assert movies.dtype == torch.uint8
    assert torch.equal(movies, moving_digits(2, 6, seed=3))
    assert not torch.equal(movies, moving_digits(2, 6, seed=4))
    assert not torch.equal(movies, moving_digits(2, 6, seed=3, test=True))
    assert not torch.equal(movies[0], movies[1])
    assert all((a != b).any() for a, b in itertools.pairwise(movies[0]))


def test_digits_get_brighter_without_overflowing():
    """A bright stroke stays bright: no pixel jumps from near white to black."""
    for frame in moving_digits(4, 16, seed=0).flatten(0, 1).numpy().astype(int):
        near = np.pad(frame, 1)
        around = np.min(
            [near[:-2, 1:-1], near[2:, 1:-1], near[1:-1, :-2], near[1:-1, 2:]], axis=0
        )
        assert not ((around > 200) & (frame < 100)).any()


def test_batches_go_through_all_samples_in_any_cut():
    def steps(first):
        return list(Batches(samples=10, batch=3, seed=1, first=first, steps=7))

    assert len(steps(0)) == 7
    for epoch in (steps(0)[:3], steps(0)[3:6]):
        assert len(set(itertools.chain(*epoch))) == 9
    assert steps(0)[:3] != steps(0)[3:6]
    assert all(steps(0)[first:] == steps(first) for first in range(8))


def training(seed=0, **settings):
    torch.manual_seed(seed)
    net = network("traj_gru", steps=2)
    return Training(net, {**SETTINGS, **settings}, torch.device("cpu"))


@pytest.fixture
def windows():
    generator = torch.Generator().manual_seed(0)
    return Windows(torch.rand(5, 4, 8, 8, generator=generator), past=2, ahead=2)


class Interruption:
    """A writer that sends this process a signal after some step."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    def add_scalar(self, name, value, step):
        if (name, step) == ("loss", self.step):
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupted_and_resumed_training_is_the_same_bit_for_bit(
    tmp_path, windows, name
):
    number = signal.Signals[name]
    handler = signal.getsignal(number)
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    straight = training()
    straight.run(windows, whole)
    with pytest.raises(SystemExit) as exit:
        training().run(windows, cut, writer=Interruption(number, 2))
    assert exit.value.code == 128 + number
    assert signal.getsignal(number) is handler
    # Another seed: whatever is the same afterwards comes from the checkpoint.
    resumed = training(seed=1)
    resumed.load(cut)
    assert 2 <= len(resumed.losses) < 6
    assert resumed.losses == straight.losses[: len(resumed.losses)]
    resumed.run(windows, cut)
    assert resumed.losses == straight.losses
    saved = [torch.load(path, weights_only=True) for path in (whole, cut)]
    for part in ("net", "optimizer"):
        torch.testing.assert_close(*[one[part] for one in saved], rtol=0, atol=0)
    assert saved[0]["schedule"] == saved[1]["schedule"]
    assert not list(tmp_path.glob("*.part"))


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    training().save(path)
    before = path.read_bytes()

    def full(state, file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        training(seed=1).save(path)
    assert path.read_bytes() == before


def test_other_settings_and_damage_are_named(tmp_path, windows):
    path = tmp_path / "checkpoint.pt"
    training().save(path)
    with pytest.raises(ValueError, match=r"trained with rate = 0\.001, got 0\.1"):
        training(rate=0.1).load(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read"):
        training().load(path)
    with pytest.raises(ValueError, match="at most the 5 windows to train on, got 6"):
        training(batch=6).run(windows, path)


@pytest.mark.parametrize("model", ["traj_gru", "conv_gru", "conv_lstm"])
def test_networks_learn_by_every_parameter(model):
    torch.manual_seed(0)
    net = network(model, steps=2, recompute="gates")
    forecast = net(torch.rand(3, 2, 1, 16, 8))
    assert forecast.shape == (2, 2, 1, 16, 8)
    forecast.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    flows = learned_flows(net, torch.rand(3, 2, 1, 16, 8))
    assert flows is None or flows.shape == (2, 2, 5, 2, 4, 2)
    assert (flows is not None) == (model == "traj_gru")


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def digits_in(folder, movies=9):
    path = folder / "digits.npy"
    np.save(path, moving_digits(movies, 4, seed=0).numpy())
    data = ["--frames", str(path), "--layout", "NTHW", "--quantity", "brightness"]
    return [*data, "--begin", "2000-01-01", "--step", "5"]


def command(*options, processes=None):
    """Run the command line, in this process or with torchrun."""
    if processes is None:
        assert cli.main(["nowcast", *options]) == 0
        return
    torchrun = ["-m", "torch.distributed.run", "--standalone"]
    torchrun += [f"--nproc-per-node={processes}", "-m", "trajgru_ext", "nowcast"]
    line = [sys.executable, *torchrun, *options]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def whole_run(folder, data, *options, processes=None):
    """Train; losses and validation losses."""
    output = "--output", str(folder)
    command("train", *data, *TINY, *output, *options, processes=processes)
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return checkpoint["losses"], checkpoint["validations"]


def test_on_the_emulated_device(tmp_path):
    """It trains there, reads its checkpoint, and so does the CPU."""
    emulated.load()
    data, on = [*digits_in(tmp_path), "--validation", "event:7-9"], "--device"
    there = whole_run(tmp_path / "there", data, on, "emulated")
    assert whole_run(tmp_path / "there", data, on, "emulated", "--resume") == there
    losses, validations = whole_run(tmp_path / "here", data)
    assert there[0] == pytest.approx(losses, rel=1e-4)
    assert there[1][0][1] == pytest.approx(validations[0][1], rel=1e-3)
    best, past = tmp_path / "there" / "best.pt", torch.rand(2, 64, 64)
    one, other = (
        Nowcaster.load(best, device).forecast_pixels(past)
        for device in ("emulated", "cpu")
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_two_processes_train_and_validate_as_one(tmp_path):
    # Three movies to validate with, so that the processes have different numbers.
    data = [*digits_in(tmp_path), "--validation", "event:7-9"]
    losses, validations = whole_run(tmp_path / "one", data)
    losses2, validations2 = whole_run(tmp_path / "two", data, processes=2)
    assert len(losses) == 3
    assert losses2 == pytest.approx(losses, rel=1e-4)
    assert [step for step, _ in validations] == [3]
    assert validations2[0][1] == pytest.approx(validations[0][1], rel=1e-3)


def test_workers_train_as_one(tmp_path):
    data = [*digits_in(tmp_path), "--validation", "none"]
    losses, _ = whole_run(tmp_path / "one", data)
    assert whole_run(tmp_path / "two", data, "--workers", "1")[0] == losses


def test_the_demonstration_draws_and_scores(tmp_path):
    run = ["--steps", "2", "--model", "conv_gru"]
    demonstration.run(run, tmp_path / "out", movies=4, tests=2)
    for name, kind in (("forecast.png", "PNG"), ("forecast.gif", "GIF")):
        assert Image.open(tmp_path / "out" / name).format == kind
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["thresholds_mm_h"] == list(THRESHOLDS)
    assert scores["events"] == 2
    for name in ("conv_gru", *BASELINES):
        assert len(scores[name]["csi"]) == len(scores[name]["b_mse"]) == 10


def test_training_goes_on_only_with_the_same_data(tmp_path, capsys):
    data = digits_in(tmp_path)
    output = tmp_path / "out"
    losses, validations = whole_run(output, data)
    assert whole_run(output, data, "--resume") == (losses, validations)
    path = tmp_path / "digits.npy"
    movies = np.load(path)
    # Other values at the same times; less of them; others to validate with.
    for values, options, difference in (
        (255 - movies, [], "data.values_digest"),
        (movies[:8], [], "data.frames"),
        (movies, ["--validation", "event:9"], ""),
        (movies, ["--validation", "none", "--train", "event:1-8"], "data.validation"),
    ):
        np.save(path, values)
        if not difference:  # the same in other words
            assert whole_run(output, data, "--resume", *options)[0] == losses
            continue
        with pytest.raises(SystemExit):
            whole_run(output, data, "--resume", *options)
        assert f"trained with {difference}" in capsys.readouterr().err


def test_the_best_of_another_training_is_not_left(tmp_path):
    data = digits_in(tmp_path)
    whole_run(tmp_path / "out", data)
    assert (tmp_path / "out" / "best.pt").exists()
    whole_run(tmp_path / "out", data, "--validation", "none")
    assert not (tmp_path / "out" / "best.pt").exists()


def test_an_interruption_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trajgru_ext.nowcasting.score.run", interrupted)
    data = ["--frames", str(tmp_path), "--forecasts", "f.nc"]
    assert cli.main(["nowcast", "score", *data]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_it_stops_when_validation_gains_nothing_more(tmp_path, windows, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.5, 0.5])
    monkeypatch.setattr(Training, "validation_loss", lambda self, _: next(losses))
    one = training(steps=20)
    path = tmp_path / "checkpoint.pt"
    options = {"validation": windows, "validate_every": 2, "patience": 2}
    one.run(windows, path, **options)
    assert one.validations == [(2, 3.0), (4, 1.0), (6, 2.0), (8, 2.5)]
    assert len(one.losses) == 8
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert len(best["losses"]) == 4
    again = training(steps=20)
    again.load(path)
    again.run(windows, path, **options)  # has waited long enough
    assert len(again.losses) == 8


def test_windows_beyond_counting_are_drawn_step_by_step(monkeypatch):
    monkeypatch.setattr(loop, "ORDERED", 100)
    batches = Batches(samples=10**12, batch=4, seed=1, first=0, steps=3)
    steps = list(batches)
    assert [len(step) for step in steps] == [4, 4, 4]
    assert len(set(itertools.chain(*steps))) == 12
    later = Batches(samples=10**12, batch=4, seed=1, first=2, steps=3)
    assert list(later) == steps[2:]


def test_tensorboard_gets_the_loss(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = tmp_path / "logs"
    data = [*digits_in(tmp_path), "--amp", "--tensorboard", str(logs)]
    losses, validations = whole_run(tmp_path / "out", data)
    events = EventAccumulator(str(logs)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(losses)
    [validated] = events.Scalars("validation loss")
    assert validated.value == pytest.approx(validations[0][1])


def failing(capsys, *options):
    with pytest.raises(SystemExit) as exit:
        cli.main(["nowcast", *options])
    assert exit.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    return error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--past", "1"], "--past: wanted a whole number of 2 or more, got 1"),
        (["--rate", "nan"], "--rate: wanted a finite number of 1e-09 or more, got nan"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--frames", "nothing.npz"], "nothing.npz: no such file"),
        (["--batch", "10"], "at most the 8 windows to train on, got 10"),
        (["--resume"], "checkpoint.pt"),
        (["--zr", "0,1"], "--zr: wanted a,b of Z = a R^b such as 223,1.53, got 0,1"),
        (["--layout", "HHW"], "--layout: wanted T, H, W and perhaps N in some order"),
        (["--begin", "noon"], "--begin: wanted a time such as 2016-09-28T14:45"),
        (["--train", "event:99"], "'event:99' chooses none of the frames of"),
        (["--validation", "2001"], "'2001' chooses none of the frames of"),
        (["--crop", "30"], "--crop: wanted a multiple of 8"),
        (["--past", "9"], "--train: no stretch of 11 frames without a gap"),
    ],
)
def test_impossible_options_are_one_clear_line(tmp_path, capsys, options, message):
    data = [*digits_in(tmp_path), *TINY, "--output", str(tmp_path / "out")]
    assert message in failing(capsys, "train", *data, *options)


def test_what_a_gpu_fails_at_is_one_clear_line(tmp_path, capsys, monkeypatch):
    data = ["train", *digits_in(tmp_path), *TINY, "--output", str(tmp_path / "out")]
    if not torch.cuda.is_available():
        assert "no CUDA device is available (none: " in failing(
            capsys, *data, "--device", "cuda"
        )

    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(train, "network", fails)
    assert "which nvidia-smi lists" in failing(capsys, *data)
