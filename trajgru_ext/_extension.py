"""Loads the compiled module `_C`, or says in one sentence why it cannot be."""

import importlib
import platform

import torch


def _release(version: str) -> list[str]:
    """The part of a version within which torch keeps its binary interface."""
    return version.split("+")[0].split(".")[:2]


def _named(version: str, cuda: str | None) -> str:
    """A torch, of which some versions do not say for which CUDA they are."""
    return f"torch {version} ({f'CUDA {cuda}' if cuda else 'no CUDA'})"


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
            "`pip install .` where torch is installed, or leave the folder of the "
            "sources if it is"
        ) from None
    then = built.torch_version, built.cuda_version
    now = str(torch.__version__), torch.version.cuda
    if (_release(then[0]), then[1]) != (_release(now[0]), now[1]):
        raise ImportError(
            f"trajgru_ext: built against {_named(*then)} but running with "
            f"{_named(*now)}; reinstall trajgru_ext with `pip install .` in this "
            "environment"
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
