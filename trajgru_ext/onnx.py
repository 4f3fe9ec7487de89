"""Export to ONNX, in its standard operators."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from trajgru_ext.decompositions import decomposed


def export(
    model: nn.Module,
    args: tuple[Any, ...],
    file: str | Path,
    *,
    dynamic_shapes: Any = None,
    **options: Any,
) -> Any:
    """Write a model that uses this package's layers or operators as an ONNX file.

    Opset 20, standard operators only: warps become GridSample, all else Conv and
    elementwise operators, so any runtime can run it. Sequences are unrolled: the number
    of steps is that of `args`. Values are PyTorch's within the round-off of float32,
    and of positions, which GridSample wants normalised: about 1e-7 times the image's
    size, in pixels. An image of one row or column is padded, as GridSample would ignore
    flows along that axis. Needs `pip install trajgru_ext[onnx]`.

    Args:
        model: in evaluation mode, as zoneout would stay random.
        args: example inputs.
        file: where to write it.
        dynamic_shapes: which sizes may change, as `torch.export.export` takes it;
            batch, height and width may, where they are at least 2 in `args`.
        options: those of `torch.onnx.export` that are left: `input_names` and
            `output_names` (lists of str); `external_data` (weights in a file beside it,
            True by default); `optimize` (True); `verify` (runs the file by onnxruntime
            and compares), `report`, `profile`, `dump_exported_program`, `artifacts_dir`
            and `verbose`; `custom_translation_table`.

    Returns:
        The `torch.onnx.ONNXProgram`.

    Raises:
        ValueError: the model is in training mode.

    Examples:
        >>> import torch
        >>> from trajgru_ext import onnx
        >>> from trajgru_ext.nn import ConvGRUCell
        >>> cell = ConvGRUCell(1, 4).eval()
        >>> inputs = torch.randn(1, 1, 8, 8), torch.zeros(1, 4, 8, 8)
        >>> program = onnx.export(cell, inputs, "cell.onnx")  # doctest: +ELLIPSIS
        [...

    """
    if model.training:
        raise ValueError("onnx.export: model must be in evaluation mode, got training")
    with torch.no_grad(), decomposed():
        program = torch.export.export(model, args, dynamic_shapes=dynamic_shapes)
    return torch.onnx.export(program, f=file, opset_version=20, dynamo=True, **options)
