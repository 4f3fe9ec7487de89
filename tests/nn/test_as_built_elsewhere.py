"""Altered layers compiled, exported, replicated and prepared for quantisation."""

import pytest
import torch
from alterations import (
    ALTERATIONS,
    IN_DOUBLE,
    assert_same,
    outputs_and_gradients,
    parameter_subclass,
)
from as_built_layers import (
    BATCH,
    CHANNELS,
    CONVOLUTIONS,
    LAYERS,
    PLACES,
    SIZE,
    STEPS,
    altered,
    made,
    normal,
)
from torch import nn
from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

from trajgru_ext.nn import ConvGRUCell, ConvLSTMCell, TrajGRUCell, hko7_conv_gru

# Backward hooks of modules are what torch.compile does not trace in one graph.
COMPILED = [name for name in IN_DOUBLE if not name.startswith("backward")]


def torch_compiles(alter):
    """Whether torch compiles its own convolution as it is when it is altered so."""
    plain = nn.Sequential(nn.Conv2d(1, 1, 1))
    alter(plain, "0")
    compiled = torch.compile(plain, fullgraph=True, backend="eager")
    image = torch.ones(1, 1, 2, 2)
    return torch.equal(compiled(image), plain(image))


@pytest.mark.parametrize(
    ("layer", "alter"),
    [
        *(("lstm", name) for name in COMPILED),
        *((layer, name) for layer in LAYERS for name in ("adapter", "pruned")),
    ],
)
def test_compiles_as_it_is(layer, alter):
    """Also what is altered, if it is before it is compiled."""
    alter = ALTERATIONS[alter]
    torch.compiler.reset()
    if alter is parameter_subclass and not torch_compiles(alter):
        pytest.skip("this torch leaves out functions of a parameter's own class")
    place = CONVOLUTIONS[layer][0]
    module = altered(layer, place, alter).eval()
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    wanted = LAYERS[layer][1](module, inputs)
    got = LAYERS[layer][1](compiled, inputs)
    assert_same([got], [wanted], 1e-10)


@pytest.mark.parametrize("layer", LAYERS)
def test_exports_as_it_is(layer):
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE)
    operator = {"lstm": "conv_lstm", "gru": "conv_gru", "traj": "traj_gru"}
    name = f"trajgru_ext.{operator[layer.split('_')[0]]}.default"
    if layer == "traj_gru":
        name = "trajgru_ext.traj_gru.default"
    for alter in (None, ALTERATIONS["adapter"], ALTERATIONS["forward_hook"]):
        place = CONVOLUTIONS[layer][0]
        module = made(layer) if alter is None else altered(layer, place, alter)
        exported = torch.export.export(module.eval(), (inputs,))
        called = {str(node.target) for node in exported.graph.nodes}
        whole = len(getattr(module, "cell_list", [1])) > 1 or alter is None
        assert (name in called) == whole
        assert_same([exported.module()(inputs)], [module(inputs)], 1e-10)


def test_a_network_shows_what_is_altered():
    net = hko7_conv_gru()
    assert "by modules" not in repr(net)
    nn.utils.weight_norm(net.encoder[1].cell_list[0].h2h)
    assert repr(net).count("by modules") == 2  # of the layer and of its cell


@PLACES
def test_replicas_of_data_parallel_are_as_built(layer, place):
    """Their parameters are attributes."""
    module, inputs = made(layer), normal(STEPS, BATCH, CHANNELS, *SIZE)
    wanted = LAYERS[layer][1](module, inputs)
    owner, _, name = place.rpartition(".")
    conv = module.get_submodule(place)
    replica = conv._replicate_for_data_parallel()
    for key, parameter in conv.named_parameters():
        setattr(replica, key, parameter * 1)
    if conv.bias is None:
        replica._parameters["bias"] = None
    setattr(module.get_submodule(owner), name, replica)
    assert module.computes() == "by weights"
    assert_same([LAYERS[layer][1](module, inputs)], [wanted], 1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_prepared_for_quantisation(layer):
    """The whole of a layer, as torch does it."""
    results = []
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE, dtype=torch.float32)
    for run in LAYERS[layer][1:]:
        module = made(layer, torch.float32)
        for conv in module.modules():
            if isinstance(conv, nn.Conv2d):
                conv.qconfig = get_default_qat_qconfig("fbgemm")
        prepare_qat(module.train(), inplace=True)
        assert module.computes().startswith("by modules")
        results.append(
            outputs_and_gradients(module, lambda one, run=run: run(one, inputs))
        )
    assert len(results[0][2]) > 0
    assert_same(*results, 1e-3)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_tracer_is_told_why_not(layer):
    module = altered(layer, CONVOLUTIONS[layer][0], ALTERATIONS["forward_hook"])
    with pytest.raises(TypeError, match=r"use torch\.export, or trace it as built"):
        torch.fx.symbolic_trace(module)


@pytest.mark.parametrize("layer", LAYERS)
def test_an_own_way_to_convolve_counts(layer):
    """As people patch convolutions to make seamless images."""
    module = made(layer)
    name = CONVOLUTIONS[layer][0]
    conv = module.get_submodule(name)
    conv._conv_forward = lambda x, weight, bias: 2 * nn.Conv2d._conv_forward(
        conv, x, weight, bias
    )
    assert "_conv_forward of its own" in module.computes()


@pytest.mark.parametrize("kind", [ConvLSTMCell, ConvGRUCell, TrajGRUCell])
def test_cells_on_the_meta_device(kind):
    cell = kind(3, 4, device="meta")
    found = cell(torch.empty(2, 3, 6, 7, device="meta"))
    h = found[0] if isinstance(found, tuple) else found
    assert (h.shape, h.device.type) == ((2, 4, 6, 7), "meta")
