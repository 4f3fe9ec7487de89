"""Loads the compiled module `_C`, or says in one sentence why it cannot be."""

import importlib
import platform

import torch


def _release(version: str) -> list[str]:
    """The part of a version within which torch keeps its binary interface."""
    return version.split("+")[0].split(".")[:2]


def load() -> None:
    """Register the operators by importing `trajgru_ext._C`.

    Raises:
        ImportError: the extension was not built, or was built for another Python, or
            against a torch whose binary interface differs from the one that is running.

    """
    try:
        built = importlib.import_module("trajgru_ext._build")
    except ModuleNotFoundError:
        raise ImportError(
            "trajgru_ext: the extension is not built; install the package with "
            "`pip install .` where torch is installed"
        ) from None
    if (_release(built.torch_version), built.cuda_version) != (
        _release(torch.__version__),
        torch.version.cuda,
    ):
        raise ImportError(
            f"trajgru_ext: built against torch {built.torch_version} but running with "
            f"torch {torch.__version__}; reinstall trajgru_ext with "
            "`pip install .` in this environment"
        )
    try:
        importlib.import_module("trajgru_ext._C")
    except ModuleNotFoundError as error:
        if error.name != "trajgru_ext._C":
            raise
        raise ImportError(
            "trajgru_ext: the extension is not built for Python "
            f"{platform.python_version()}; reinstall trajgru_ext with `pip install .` "
            "in this environment"
        ) from None


def option_names() -> dict[str, list[str]]:
    """The fields of each struct of options that the compiled operators take."""
    names: dict[str, list[str]] = importlib.import_module(
        "trajgru_ext._C"
    ).option_names()
    return names
