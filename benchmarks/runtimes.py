"""Inference runtimes as sides: OpenVINO and onnxruntime on an exported module."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

Run = Callable[[], tuple[Tensor, ...]]


def installed(*names: str) -> bool:
    """Whether all of these can be imported."""
    return all(importlib.util.find_spec(name) for name in names)


def runtime_sides(module: nn.Module, tensors: tuple[Tensor, ...]) -> dict[str, Run]:
    """Those that are installed (`pip install trajgru_ext[bench]`), on the CPU alone."""
    if torch.get_default_device().type != "cpu":
        return {}
    makers = {"OpenVINO": ("openvino", _openvino)}
    makers["onnxruntime"] = ("onnxruntime", _onnxruntime)
    sides = {}
    arrays = [t.detach().contiguous().numpy() for t in tensors]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "module.onnx"
        for name, (package, make) in makers.items():
            if not installed("onnx", package):
                continue
            if not file.exists():
                _export(module, tensors, file)
            sides[name] = make(file, arrays)
    return sides


def _export(module: nn.Module, tensors: tuple[Tensor, ...], file: Path) -> None:
    names = [f"input{k}" for k in range(len(tensors))]
    options = {"opset_version": 20, "dynamo": False, "input_names": names}
    training = module.training
    module.eval()
    torch.onnx.export(module, tuple(t.detach() for t in tensors), file, **options)
    module.train(training)


def _openvino(file: Path, arrays: list) -> Run:
    import openvino  # noqa: PLC0415 - optional

    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    hint = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(file, "CPU", threads | hint)
    return lambda: tuple(torch.from_numpy(one) for one in model(arrays).values())


def _onnxruntime(file: Path, arrays: list) -> Run:
    import onnxruntime  # noqa: PLC0415 - optional

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options)
    given = {f"input{k}": array for k, array in enumerate(arrays)}
    return lambda: tuple(torch.from_numpy(one) for one in session.run(None, given))
