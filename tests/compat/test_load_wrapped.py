"""Checkpoints in nests, behind prefixes, beside other things, of other files."""

import argparse
import collections
import copy
import pickle
import re
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from trajgru_ext.compat import load
from trajgru_ext.nn import ConvGRU, ConvLSTM, moving_mnist_conv_gru


def make(kind=ConvLSTM, seed=0):
    """A model without zeros."""
    torch.manual_seed(seed)
    model = kind(2, 3)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


STATE = make(seed=1).state_dict()
OTHER = make(seed=2).state_dict()
GRU = make(ConvGRU, seed=3).state_dict()


def led(prefix, state=STATE):
    return {f"{prefix}{name}": value for name, value in state.items()}


def assert_loaded(source, wanted=STATE, model=None, **options):
    model = load(source, make() if model is None else model, **options)
    got = model.state_dict()
    assert list(got) == list(wanted)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def failing(source, model=None, kind=ValueError, **options):
    """The message, and the model as it was."""
    model = make() if model is None else model
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(kind) as caught:
        load(source, model, **options)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    return str(caught.value)


NESTS = ["state_dict", "model_state_dict", "model_state", "model", "net", "params"]
NESTS += ["params_ema", "ema", "generator", "netG", "whatever"]


@pytest.mark.parametrize("name", NESTS)
def test_nests_of_any_name(name):
    optimizer = torch.optim.Adam(make().parameters())
    sum(p.sum() for p in optimizer.param_groups[0]["params"]).backward()
    optimizer.step()
    beside = {"optimizer": optimizer.state_dict(), "epoch": 3, "rng": torch.zeros(4)}
    assert_loaded({name: STATE, **beside})
    assert_loaded({**beside, "nested": {name: collections.OrderedDict(STATE)}})


def test_a_network_among_others():
    """What fits is found by what it is."""
    both = {"netD": GRU, "netG": STATE}
    assert_loaded(both)
    assert_loaded(both, GRU, make(ConvGRU))


PREFIXES = ["model.", "net.", "generator.", "module.", "_orig_mod.", "a.b.c."]
PREFIXES += ["module.model.", "model.module._orig_mod.", "model.net.module.module."]
PREFIXES += ["_fsdp_wrapped_module._checkpoint_wrapped_module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(prefix):
    assert_loaded(led(prefix))
    assert_loaded({"state_dict": led(prefix), "epoch": 1})


class Lit(nn.Module):
    def __init__(self, kind=ConvLSTM):
        super().__init__()
        self.model = kind(2, 3)


def test_prefixes_of_the_model():
    for source in (STATE, led("model."), led("module.model."), led("module.")):
        assert_loaded(source, led("model."), Lit())
        assert_loaded(source, led("module.model."), nn.DataParallel(Lit()))
    assert_loaded(led("net."), led("module."), nn.DataParallel(make()))


def test_a_prefix_is_not_made_up():
    """Another layer's parameters are not those of the first."""
    moved = {name.replace("list.0", "list.1"): value for name, value in STATE.items()}
    message = failing(moved)
    assert "missing (2): cell_list.0.conv.weight" in message
    assert "unexpected (2): cell_list.1.conv.weight" in message
    assert "model.cell_list" in failing(led("net."), Lit())
    # What most of the names have in front of them is not before all of them.
    message = failing({**led("model."), "criterion.weight": torch.ones(1)})
    assert "unexpected (3): model.cell_list.0.conv.weight" in message
    assert message.endswith("what fits has key='model'")


def test_faults_behind_a_prefix():
    state = led("model.")
    state["model.more"] = state.pop("model.cell_list.0.conv.bias")
    message = failing({"ema": state})
    assert message.splitlines() == [
        "load: source['ema'] must fit ConvLSTM, got",
        "  missing (1): cell_list.0.conv.bias [12]",
        "  unexpected (1): more [12]",
    ]


def averaged(seed=1):
    model = AveragedModel(make(seed=seed))
    model.update_parameters(make(seed=seed))
    return model


@pytest.mark.parametrize("prefix", ["", "ema.", "module.", "_orig_mod."])
def test_averaged_models(prefix):
    state = averaged().state_dict()
    assert "n_averaged" in state
    assert_loaded(led(prefix, state))
    assert_loaded({"ema": led(prefix, state), "epoch": 3})
    wrapped = AveragedModel(nn.Sequential(make(seed=1))).state_dict()
    assert_loaded(led(prefix, wrapped))
    model = load(led(prefix, state), averaged(2))
    assert model.n_averaged == 1
    assert_loaded(model.state_dict())
    assert "missing (1): n_averaged []" in failing(STATE, averaged(2))


def test_a_counter_of_its_own_is_no_wrapper():
    state = {**led("net."), "n_averaged": torch.tensor(3)}
    assert "n_averaged" in failing(state)


def test_several_that_fit():
    source = {"params": STATE, "params_ema": OTHER, "step": 3}
    assert failing(source) == (
        "load: source must hold one mapping that fits ConvLSTM, got 2: params, "
        "params_ema; choose one, as by key='params_ema'"
    )
    assert_loaded(source, key="params")
    assert_loaded(source, OTHER, key="params_ema")
    deep = {"model": {"params": STATE, "ema": {"shadow": OTHER}}}
    assert "model/params, model/ema/shadow" in failing(deep)
    assert_loaded(deep, OTHER, key="ema")
    assert "got 2" in failing(deep, key="model")
    message = failing(source, key="best")
    assert message.startswith("load: key must be one of params, params_ema, cell_list")


def test_keys_of_names():
    """A Lightning module of two networks, and an average beside its model."""
    source = {"state_dict": {**led("generator."), **led("discriminator.", OTHER)}}
    message = failing(source)
    assert "unexpected (4): generator.cell_list.0.conv.weight" in message
    assert message.endswith("what fits has key='generator' or key='discriminator'")
    assert_loaded(source, key="generator")
    assert_loaded(source, OTHER, key="discriminator")
    both = {**led("net."), **led("ema.", averaged(2).state_dict())}
    assert_loaded(both, OTHER, key="ema")
    assert_loaded({"_orig_mod.net.x": torch.ones(1), **led("a.b.")}, key="a.b")


def test_parts_of_which_each_is_in_a_nest():
    parts = [{"model": {name: value}, "epoch": 3} for name, value in STATE.items()]
    assert_loaded(parts)
    assert "missing (1)" in failing(parts[:1])


def test_a_mapping_in_itself():
    source = {"net": STATE}
    source["self"] = source
    assert_loaded(source)


def test_numbers_beside_tensors():
    beside = {"epoch": np.int64(3), "best": np.float32(0.5), "name": "x", "none": None}
    assert_loaded({**STATE, **beside})
    assert_loaded({"net": STATE, **beside, "losses": np.zeros(3)})
    assert "unexpected (1): losses [3]" in failing({**STATE, "losses": np.zeros(3)})

    def norm():
        return nn.BatchNorm2d(3)

    for count in (5, np.int64(5), np.array(5), torch.tensor(5)):
        state = {**norm().state_dict(), "num_batches_tracked": count}
        assert load(state, norm()).num_batches_tracked == 5


ARRAYS = {
    "scalar": np.float64(0.5),
    "bool": np.bool_(True),
    "int": np.int32(-7),
    "big": np.array([1.5, 2], dtype=">f4")[0],
}


def test_files_with_numbers_and_arrays_of_numpy(tmp_path):
    path = tmp_path / "net.pth"
    arrays = {name: value.numpy() for name, value in STATE.items()}
    turned = np.asfortranarray(arrays["cell_list.0.conv.weight"].astype(">f4"))
    allowed = set(torch.serialization.get_safe_globals())
    for state in (STATE, arrays, {**arrays, "cell_list.0.conv.weight": turned}):
        torch.save({"net": state, **ARRAYS, "losses": np.arange(3)}, path)
        assert_loaded(path)
    assert set(torch.serialization.get_safe_globals()) == allowed
    state = {**nn.BatchNorm2d(3).state_dict(), "num_batches_tracked": np.int64(5)}
    torch.save(state, path)
    assert load(path, nn.BatchNorm2d(3)).num_batches_tracked == 5


def test_constructors_of_numpy_that_somebody_has_allowed(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"net": STATE, "best": np.float64(0.5)}, path)
    kinds = [np.dtype, np.dtypes.Float64DType, np.float64(0).__reduce__()[0]]
    with torch.serialization.safe_globals(kinds):
        assert_loaded(path)


class Forged:
    """A numpy dtype of objects that says that it has none: bytes as pointers."""

    def __reduce__(self):
        kind = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
        return np.dtype, ("V8", False, True), kind


@pytest.mark.parametrize(
    "value",
    [Forged(), np.array([{}], dtype=object), np.zeros(2, "f4,f4"), np.str_("a")],
)
def test_other_arrays_of_numpy_are_refused(value, tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"net": STATE, "value": value}, path)
    assert f"load: {path} must be a file of torch.save" in failing(path)


def test_a_file_that_needs_code_says_how_to_save_it_again(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, path)
    message = failing(path)
    assert "got one that calls argparse.Namespace" in message
    advice = re.search(r"torch\.save\((.*\['state_dict'\]), ", message)[1]
    torch.save(eval(advice), path)
    assert_loaded(path)
    torch.save(make(seed=1), path)
    assert "ConvLSTM" in failing(path)
    path.write_bytes(pickle.dumps(STATE))
    assert f"load: {path} must be a file of torch.save" in failing(path)


def test_archives_of_torchscript(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2)), path)
    message = failing(path, nn.Linear(2, 3))
    advice = re.search(r"torch\.save\((.*\.state_dict\(\)), ", message)[1]
    state = eval(advice)
    assert_loaded(state, state, nn.Linear(2, 3))


def test_safetensors(tmp_path):
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(led("model."), path)
    assert_loaded(path)
    half = {name: value.bfloat16() for name, value in STATE.items()}
    safetensors.torch.save_file(half, path)
    assert_loaded(path, {name: value.float() for name, value in half.items()})
    assert_loaded(str(path), half, make().bfloat16())
    path.write_bytes(b"no such thing")
    assert f"load: {path} must be a file of safetensors" in failing(path)
    failing(tmp_path / "none.safetensors", kind=FileNotFoundError)


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    message = failing(tmp_path / "net.safetensors", kind=ImportError)
    assert message.endswith("pip install 'trajgru_ext[safetensors]'")


def test_checkpoints_of_the_nowcaster(tmp_path):
    from trajgru_ext.nowcasting.training import Training

    net, path = moving_mnist_conv_gru(3), tmp_path / "checkpoint.pt"
    settings = {"rate": 1e-3, "steps": 2, "batch": 1}
    training = Training(net, settings, torch.device("cpu"))
    net(torch.rand(1, 1, 1, 8, 8), 1).sum().backward()
    training.optimizer.step()
    training.save(path)
    assert_loaded(path, net.state_dict(), moving_mnist_conv_gru(3))
