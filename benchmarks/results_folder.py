"""Where figures are kept."""

import re
from pathlib import Path

import torch

HERE = Path(__file__).parent


def results_folder(on_gpu: bool) -> Path:
    """That of the figures that are committed, or on a GPU one named after it."""
    if not on_gpu:
        return HERE / "results"
    name = re.sub(r"\W+", "-", torch.cuda.get_device_name().lower())
    return HERE / f"results-{name}"
