"""Networks as ONNX files of standard operators, run by onnxruntime."""

from collections import Counter

import pytest
import torch
from small_networks import SMALL, make_small, sample_frames

from trajgru_ext.nn import TrajGRU

onnx = pytest.importorskip("onnx", reason="needs trajgru_ext[onnx]")
pytest.importorskip("onnxscript", reason="needs trajgru_ext[onnx]")
onnxruntime = pytest.importorskip("onnxruntime")

from trajgru_ext.onnx import export  # noqa: E402 - of what may be missing

ROUND_OFF = 2e-6  # of values of the order of 1 in float32, and of positions


def run(file, *inputs):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    arrays = [one.numpy() for one in inputs]
    return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])


@SMALL
def test_equal_to_pytorch(kind, tmp_path):
    """Also for another batch, height and width than those it was exported for."""
    net, file = make_small(kind, levels=1).float().eval(), tmp_path / "network.onnx"
    sizes = {k: torch.export.Dim.DYNAMIC for k in (1, 3, 4)}
    frames = sample_frames(2, 3, 2, 6, 8).float()
    export(net, (frames,), file, dynamic_shapes=(sizes,), verbose=False)
    model = onnx.load(file)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]
    used = Counter(node.op_type for node in model.graph.node)
    assert used["GridSample"] == (5 if kind == "traj_gru" else 0)  # layers and steps
    with torch.no_grad():
        for one in (frames, sample_frames(2, 2, 2, 10, 4).float()):
            got = run(file, one)
            torch.testing.assert_close(got, net(one), rtol=0, atol=ROUND_OFF)


@pytest.mark.parametrize("size", [(1, 6), (5, 1)])
def test_flows_along_an_axis_of_one_pixel(size, tmp_path):
    """There GridSample alone would ignore them."""
    torch.manual_seed(0)
    layer = TrajGRU(2, 3, 2, zero_flows=False).eval()
    inputs = sample_frames(3, 2, 2, *size).float()
    export(layer, (inputs,), tmp_path / "layer.onnx", verbose=False)
    with torch.no_grad():
        wanted = layer(inputs)[0]
        still = layer.requires_grad_(False)
        still.flows_conv.weight.zero_()
        still.flows_conv.bias.zero_()
        assert (still(inputs)[0] - wanted).abs().max() > 1e-3  # the flows matter
    got = run(tmp_path / "layer.onnx", inputs)
    torch.testing.assert_close(got, wanted, rtol=0, atol=ROUND_OFF)


def test_training_mode_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"onnx.export: model must be in evaluation"):
        export(make_small("conv_gru"), (), tmp_path / "network.onnx")
