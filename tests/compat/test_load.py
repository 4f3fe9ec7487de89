"""Checkpoints into models: every published class, wrappers, HKO-7's names, errors."""

import copy
import functools
import os
import re

import numpy as np
import pytest
import torch
from hko7_names import hko7_name, hko7_names
from torch import nn

from trajgru_ext.compat import (
    convgru_pytorch,
    convlstm_pytorch,
    convolutional_lstm_pytorch,
    load,
    openstl,
)
from trajgru_ext.compat import precipitation_nowcasting as port
from trajgru_ext.nn import (
    ConvGRU,
    conv_lstm_forecaster,
    hko7_conv_gru,
    hko7_traj_gru,
    moving_mnist_conv_gru,
    moving_mnist_traj_gru,
)

MODELS = {
    "convlstm_pytorch": lambda: convlstm_pytorch.ConvLSTM(2, [3, 4], (3, 3), 2),
    "convgru_pytorch": lambda: convgru_pytorch.ConvGRU((4, 5), 2, 3, (3, 3), 2, None),
    "convolutional_lstm_pytorch": lambda: convolutional_lstm_pytorch.ConvLSTM(
        2, [3, 4], 3
    ),
    "openstl": lambda: openstl.ConvLSTMCell(2, 3, 4, 5, 3, 1, True),
    "port_traj_gru": lambda: port.TrajGRU(2, 3, (1, 4, 5)),
    "port_conv_lstm": lambda: port.ConvLSTM(2, 3, (1, 4, 5), 3),
    "port_ef": port.hko7_ef,
    "network": functools.partial(conv_lstm_forecaster, (3, 2)),
}
EVERY = pytest.mark.parametrize("name", MODELS)


def make(kind=lambda: ConvGRU(2, 3), seed=0):
    """A model without zeros."""
    torch.manual_seed(seed)
    model = kind()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def assert_same(model, wanted):
    got = model.state_dict()
    assert list(got) == list(wanted)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@EVERY
def test_files(name, tmp_path):
    trained, model = make(MODELS[name], 1), make(MODELS[name])
    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": trained.state_dict(), "epoch": 3}, path)
    assert load(path, model) is model
    assert_same(model, trained.state_dict())
    path = str(tmp_path / "checkpoint.npz")
    np.savez(path, **{k: v.numpy() for k, v in trained.state_dict().items()})
    assert_same(load(path, make(MODELS[name])), trained.state_dict())


WRAPPERS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "optimizer": {"lr": 1}},
    "model": lambda state: {"epoch": 3, "model": state},
    "nests": lambda state: {"model": {"model_state_dict": state}},
    "arrays": lambda state: {k: v.numpy() for k, v in state.items()},
    "parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "both": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    "parts": lambda state: [{k: v} for k, v in state.items()],
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped_checkpoints(name):
    trained, model = make(seed=1), make()
    load(WRAPPERS[name](trained.state_dict()), model)
    assert_same(model, trained.state_dict())


def test_compiled_submodules():
    trained, model = make(MODELS["port_ef"], 1), make(MODELS["port_ef"])
    names = {k: k.replace("rnn1.", "rnn1._orig_mod.") for k in trained.state_dict()}
    load({names[k]: v for k, v in trained.state_dict().items()}, model)
    assert_same(model, trained.state_dict())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_models(wrap):
    trained, model = make(seed=1), make()
    load(trained.state_dict(), wrap(model))
    assert_same(model, trained.state_dict())
    load(wrap(make(seed=2)).state_dict(), wrap(model))
    assert_same(model, make(seed=2).state_dict())


def test_dtype_and_storage_stay_the_models():
    trained, model = make(seed=1), make().double()
    before = {k: v.data_ptr() for k, v in model.state_dict().items()}
    load(trained.state_dict(), model)
    assert {k: v.data_ptr() for k, v in model.state_dict().items()} == before
    assert_same(model, trained.double().state_dict())


def lost_peepholes(state):
    """As the original's checkpoints are."""
    return {k: v for k, v in state.items() if not re.search("Wc[ifo]$", k)}


def port_of_lstm():
    rnns = [port.ConvLSTM(2, 3, (1, 4, 5), 3) for _ in range(2)]
    stages = {"conv1_leaky_1": [1, 2, 3, 1, 1]}, {"conv1": [3, 1, 3, 1, 1]}
    encoder, forecaster = port.Encoder, port.Forecaster
    return port.EF(encoder(stages[:1], rnns[:1]), forecaster(stages[1:], rnns[1:]))


@pytest.mark.parametrize("read", [load, lambda s, m: m.load_state_dict(s)])
def test_lost_peepholes_are_0(read):
    for kind in (MODELS["port_conv_lstm"], port_of_lstm):
        trained, model = make(kind, 1), make(kind)
        state = lost_peepholes(trained.state_dict())
        kept = dict(state)
        read(state, model)
        assert state == kept
        zero = {k: torch.zeros_like(v) for k, v in trained.state_dict().items()}
        assert_same(model, {k: state.get(k, zero[k]) for k in zero})


def test_lost_peepholes_of_a_wrapped_model():
    trained, model = make(port_of_lstm, 1), make(port_of_lstm)
    state = lost_peepholes(nn.DataParallel(trained).state_dict())
    load(state, nn.DataParallel(model))
    assert not model.encoder.rnn1.Wci.any()


def test_one_peephole_is_not_lost():
    model = make(MODELS["port_conv_lstm"])
    state = model.state_dict()
    del state["Wcf"]
    with pytest.raises(ValueError, match=r"missing \(1\): Wcf \[1, 3, 4, 5\]$"):
        load(state, model)
    with pytest.raises(RuntimeError, match=r"Missing key.*Wcf"):
        model.load_state_dict(state)


@pytest.mark.parametrize(
    "kind",
    [
        functools.partial(hko7_traj_gru, coordinates=True),
        functools.partial(hko7_conv_gru, coordinates=True),
        functools.partial(moving_mnist_traj_gru, 5, coordinates=True),
        functools.partial(moving_mnist_conv_gru, 3, 2, coordinates=True),
    ],
    ids=["hko7_traj_gru", "hko7_conv_gru", "mnist_traj_gru", "mnist_conv_gru"],
)
def test_names_of_hko7(kind, tmp_path):
    trained, model = make(kind, 1), make(kind)
    named = {hko7_name(k): v.numpy() for k, v in trained.state_dict().items()}
    assert named["econv1_weight"].shape[1] == 4
    assert set(named) == hko7_names("ebrnn1_0_f_out_weight" in named)
    encoder = {k: v for k, v in named.items() if k.startswith("e")}
    forecaster = {f"arg:{k}": v for k, v in named.items() if k not in encoder}
    paths = [tmp_path / "encoder_net.npz", tmp_path / "forecaster_net.npz"]
    np.savez(paths[0], **encoder)
    np.savez(paths[1], **forecaster)
    assert_same(load(paths, model), trained.state_dict())
    model = load({f"arg:{k}": v for k, v in named.items()}, make(kind))
    assert_same(model, trained.state_dict())


def test_other_names_are_no_hko7():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.out_weight = nn.Parameter(torch.zeros(3))

    model = load({"out_weight": torch.ones(3)}, Other())
    assert model.out_weight.eq(1).all()


def failing(source, model, kind=ValueError):
    """The message, and the model as it was."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(kind) as caught:
        load(source, model)
    assert_same(model, before)
    return str(caught.value)


def test_all_that_is_wrong_in_one_error():
    state = dict(make(seed=1).state_dict())
    state["more"] = torch.zeros(2, 3)
    state["epoch"] = 3
    state["cell_list.0.i2h.bias"] = "nine zeros"
    state["cell_list.0.h2h.bias"] = torch.zeros(4)
    del state["cell_list.0.i2h.weight"]
    parts = [state, {"more": torch.zeros(1)}]
    assert failing(parts, make()).splitlines() == [
        "load: source must fit ConvGRU, got",
        "  no tensors (1): cell_list.0.i2h.bias (str)",
        "  there twice (1): more",
        "  missing (2): cell_list.0.i2h.weight [9, 2, 3, 3], cell_list.0.i2h.bias [9]",
        "  unexpected (1): more [2, 3]",
        "  of other sizes (1): cell_list.0.h2h.bias must be [9], got [4]",
    ]


def test_long_lists_are_cut():
    message = failing(moving_mnist_conv_gru(3).state_dict(), make(MODELS["port_ef"]))
    assert len(message.splitlines()) == 3
    assert "missing (76): encoder.stage1.conv1_leaky_1.weight [8, 1, 7, 7]" in message
    assert "and 68 more" in message


def test_published_names_for_another_model():
    trained = make(functools.partial(moving_mnist_traj_gru, 5, coordinates=True))
    named = {hko7_name(k): v.numpy() for k, v in trained.state_dict().items()}
    message = failing(named, moving_mnist_traj_gru(5))
    wanted = "down.0.0.weight must be [16, 1, 3, 3], got [16, 4, 3, 3]"
    assert message.splitlines()[1:] == [f"  of other sizes (1): {wanted}"]


class Code:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_checkpoint",)


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": make().state_dict(), "code": Code()}, "code.pt")
    message = failing("code.pt", make())
    assert re.match(r"load: code.pt must be a file of torch.save.*\.mkdir", message)
    np.savez("code.npz", code=np.array([Code()], dtype=object))
    message = failing("code.npz", make())
    assert message.startswith("load: code.npz must be a file of numpy.savez")
    assert not os.path.exists("made_by_a_checkpoint")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", ["pt", "npz"])
def test_unreadable_files(suffix, content, tmp_path):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(content)
    assert f"load: {path} must be a file of" in failing(path, make())


def test_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "tensor.pt"
    torch.save(torch.zeros(3), path)
    failing(tmp_path / "none.pt", make(), FileNotFoundError)
    message = failing(path, make(), TypeError)
    assert (
        message == f"load: {path} must hold a mapping of names to tensors, got Tensor"
    )
    message = failing(3, make(), TypeError)
    assert message == (
        "load: source must be a path or a mapping of names to tensors, got int"
    )
    for empty in ({}, []):
        assert failing(empty, make()) == "load: source must hold tensors, got none"
    message = failing({"state_dict": {}}, make())
    assert message.endswith("got none: state_dict (dict)")
    message = failing({"epoch": 3, "optimizer": {}}, make())
    assert message.endswith("got none: epoch (int), optimizer (dict)")
    message = failing({"a": np.array([{}], dtype=object)}, make())
    assert message.endswith("got none: a (ndarray)")
