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
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import nowcast  # noqa: E402 - from the folder above
from digits import moving_digits  # noqa: E402
from network import learned_flows, network  # noqa: E402
from training import Batches, Training  # noqa: E402

from trajgru_ext.nowcasting import THRESHOLDS, Windows  # noqa: E402

SETTINGS = {
    "steps": 6,
    "batch": 2,
    "rate": 1e-3,
    "balance": 1.0,
    "seed": 0,
    "amp": False,
}
TINY = ["--movies", "6", "--batch", "4", "--steps", "3", "--ahead", "2", "--past", "2"]


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


def whole_run(folder, *options, processes=None):
    """Run the command line, in this process or with torchrun; losses and scores."""
    options = [*TINY, "--output", str(folder), *options]
    if processes is None:
        assert nowcast.main(options) == 0
    else:
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        torchrun.append(f"--nproc-per-node={processes}")
        command = [sys.executable, *torchrun, str(EXAMPLES / "nowcast.py"), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return checkpoint["losses"], json.loads((folder / "scores.json").read_text())


def test_two_processes_train_and_score_as_one(tmp_path):
    # Three test movies, so that the processes have different numbers of them.
    tests = "--test-movies", "3"
    losses, scores = whole_run(tmp_path / "one", *tests)
    losses2, scores2 = whole_run(tmp_path / "two", *tests, processes=2)
    assert len(losses) == 3
    assert losses2 == pytest.approx(losses, rel=1e-4)
    assert scores2["persistence"] == scores["persistence"]
    for score in ("b_mse", "b_mae"):
        wanted = scores["traj_gru"][score]
        assert scores2["traj_gru"][score] == pytest.approx(wanted, rel=1e-3)


def test_from_radar_frames_to_pictures_and_scores(tmp_path):
    """Frames of no particular size, with missing pixels; resumed when all is done."""
    values = 80 + 80 * moving_digits(1, 9, seed=0)[0, :, :40, :45].numpy() / 255
    values[3:, :3] = np.nan
    np.save(tmp_path / "movie.npy", values)
    options = ["--frames", str(tmp_path / "movie.npy"), "--held-out", "2"]
    options += ["--crop", "16", "--model", "conv_gru", "--batch", "2"]
    losses, scores = whole_run(tmp_path / "out", *options)
    for name, kind in (("forecast.png", "PNG"), ("forecast.gif", "GIF")):
        assert Image.open(tmp_path / "out" / name).format == kind
    assert scores.pop("thresholds_mm_h") == list(THRESHOLDS)
    assert list(scores) == ["conv_gru", "extrapolation", "persistence"]
    for one in scores.values():
        assert len(one["csi"]) == len(one["b_mse"]) == 2
    again = whole_run(tmp_path / "out", *options, "--resume")
    assert again[0] == losses
    assert again[1]["conv_gru"] == scores["conv_gru"]


def test_tensorboard_gets_the_loss(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = tmp_path / "logs"
    options = "--test-movies", "1", "--amp", "--logs", str(logs)
    losses, _ = whole_run(tmp_path / "out", *options)
    events = EventAccumulator(str(logs)).Reload().Scalars("loss")
    assert [event.step for event in events] == [1, 2, 3]
    assert [event.value for event in events] == pytest.approx(losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--past", "1"], "--past: wanted a whole number of 2 or more, got 1"),
        (["--rate", "nan"], "--rate: wanted a finite number of 1e-09 or more, got nan"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--frames", "nothing.npz"], "nothing.npz: no such file"),
        (["--batch", "7"], "at most the 6 windows to train on, got 7"),
        (["--resume"], "checkpoint.pt"),
    ],
    ids=["past", "rate", "device", "frames", "batch", "resume"],
)
def test_impossible_options_are_one_clear_line(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as exit:
        nowcast.main([*TINY, "--output", str(tmp_path), *options])
    assert exit.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "30"], "--crop: wanted a multiple of 8"),
        (["--held-out", "1"], "--held-out: wanted at least the 2 frames of --ahead"),
        (["--held-out", "18"], "split_in_time: held_out and past"),
        (["--held-out", "16"], r"Windows: frames must be at least past + ahead"),
    ],
    ids=["crop", "held out too few", "held out all", "too few to train"],
)
def test_impossible_cuts_are_one_clear_line(tmp_path, capsys, options, message):
    np.save(tmp_path / "movie.npy", np.ones((20, 32, 32)))
    frames = ["--frames", str(tmp_path / "movie.npy"), "--crop", "16"]
    with pytest.raises(SystemExit) as exit:
        nowcast.main([*TINY, "--output", str(tmp_path / "out"), *frames, *options])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
