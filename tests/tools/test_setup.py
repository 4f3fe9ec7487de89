"""setup.py: for which GPUs it builds, and what it says of it."""

import os
import runpy
import subprocess
import sys
import types
from email.parser import Parser
from pathlib import Path

import pytest
import setuptools
import torch

ROOT = next(p for p in Path(__file__).parents if (p / "setup.py").exists())


@pytest.fixture
def setup(monkeypatch):
    """What the file defines, with nothing built."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(os, "environ", {**os.environ, "TRAJGRU_CUDA": "0"})
    return types.SimpleNamespace(**runpy.run_path(str(ROOT / "setup.py")))


TOOLKIT = ["7.5", "8.0", "9.0", "9.1", "12.0"]


@pytest.mark.parametrize(
    ("wanted", "toolkit", "machine", "chosen"),
    [
        ("", TOOLKIT, ["9.0"], "9.0"),
        ("", TOOLKIT, ["8.0", "9.1"], "8.0;9.1"),
        ("", TOOLKIT, [], "7.5;8.0;9.0;12.0+PTX"),
        ("all", TOOLKIT, ["9.0"], "7.5;8.0;9.0;12.0+PTX"),
        ("8.6+PTX", TOOLKIT, ["9.0"], "8.6+PTX"),
        # A toolkit that is older than the GPU, and one that is newer than all we know.
        ("", ["7.5", "8.0"], ["8.0", "9.0"], "8.0;8.0+PTX"),
        ("", ["13.0", "14.0"], [], "14.0+PTX"),
    ],
)
def test_what_is_built(setup, wanted, toolkit, machine, chosen):
    assert setup.choose_architectures(wanted, toolkit, machine) == chosen


@pytest.mark.parametrize(
    ("given", "shared"),
    [("1", (1, 1)), ("2", (2, 1)), ("9", (4, 2)), ("", (4, 2)), ("0", (4, 2))]
    + [(wrong, (4, 2)) for wrong in ("x", "-1", "²")],
)
def test_compilers_are_shared_out(setup, monkeypatch, given, shared):
    """Never more than were asked for, else as many as there are processors."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert setup.share_jobs(given, 4) == shared


def test_what_is_said(setup, monkeypatch, capsys):
    setup.announce()
    said = capsys.readouterr().out
    assert f" {setup.CPU_MINUTES} minutes of one core; " in said
    assert said.endswith("no CUDA kernels: built with TRAJGRU_CUDA=0\n")
    monkeypatch.setitem(setup.announce.__globals__, "NO_CUDA", "")
    monkeypatch.setitem(os.environ, "TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    setup.announce()
    said = capsys.readouterr().out
    assert "compute capability 8.0;9.0+PTX, " in said
    minutes = setup.CUDA_UNITS * (setup.FIRST_SECONDS + setup.NEXT_SECONDS) / 60
    assert f", which take nvcc about {minutes:.0f} minutes of" in said


def test_every_source_is_compiled_once(setup, tmp_path, monkeypatch):
    """By itself, or in a unit."""
    found = [one for some in setup.UNITS.values() for one in setup.sources(*some)]
    found += setup.sources("csrc/cpu/vec/*.cpp")
    assert sorted(found) == setup.sources("csrc/**/*.cpp")
    monkeypatch.setenv("TRAJGRU_UNITS", "0")
    assert setup.unit("all", found) == found
    monkeypatch.delenv("TRAJGRU_UNITS")
    monkeypatch.setitem(setup.unit.__globals__, "HERE", tmp_path)
    (written,) = setup.unit("all", found)
    lines = (tmp_path / written).read_text().splitlines()
    assert lines == [f'#include "../../{one}"' for one in found]


def test_every_cuda_source_is_compiled_once(setup, monkeypatch):
    found = setup.sources("csrc/cuda/*.cu")
    units = setup.cuda_units()
    assert len(units) == setup.CUDA_UNITS
    lines = [line for one in units for line in (ROOT / one).read_text().splitlines()]
    assert sorted(lines) == [f'#include "../../{one}"' for one in found]
    monkeypatch.setenv("TRAJGRU_UNITS", "0")
    assert sorted(setup.cuda_units()) == found


def test_what_the_toolkit_knows(setup, monkeypatch):
    said = "compute_75\ncompute_90\ncompute_100\ncompute_90a\n"
    monkeypatch.setitem(
        setup.toolkit_capabilities.__globals__, "nvcc_says", lambda *_: said
    )
    assert setup.toolkit_capabilities() == ["7.5", "9.0", "10.0"]


@pytest.mark.parametrize(
    ("version", "other"), [("13.1", ""), ("12.8", "12.8"), ("", "")]
)
def test_a_toolkit_of_another_cuda(setup, monkeypatch, version, other):
    """The first number of both versions must be the same."""
    names = setup.other_toolkit.__globals__
    release = f"Cuda compilation tools, release {version}, V{version}.85"
    monkeypatch.setitem(names, "nvcc_says", lambda *_: release)
    monkeypatch.setattr(names["torch"].version, "cuda", "13.0")
    assert setup.other_toolkit() == other


@pytest.mark.parametrize("given_away", [True, False])
def test_a_wheel_asks_for_the_torch_that_it_was_built_against(
    given_away, tmp_path, monkeypatch
):
    """In its metadata, where it is to be given away; a build in place takes any."""
    monkeypatch.setenv("TRAJGRU_CUDA", "0")
    monkeypatch.setenv("TRAJGRU_WHEEL", "1" if given_away else "")
    command = [sys.executable, "setup.py", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    text = (tmp_path / "trajgru_ext.egg-info" / "PKG-INFO").read_text()
    found = Parser().parsestr(text)
    needs = [one for one in found.get_all("Requires-Dist") if ";" not in one]
    _, _, built_for = found["Version"].partition("+")
    if not given_away:
        project = (ROOT / "pyproject.toml").read_text()
        assert f'dependencies = ["{needs[0]}"]' in project
        assert (len(needs), built_for) == (1, "")
        return
    release = ".".join(torch.__version__.split(".")[:2])
    assert needs == [f"torch=={release}.*"]
    cuda = torch.version.cuda and f"cu{torch.version.cuda.replace('.', '')}"
    assert built_for == ".".join(filter(None, (f"torch{release}", cuda, "cpu")))


@pytest.mark.parametrize(
    ("cuda", "no_kernels", "built_for"),
    [
        (None, "torch has none", "torch2.13.cpu"),
        ("13.0", "", "torch2.13.cu130"),
        ("13.0", "no nvcc", "torch2.13.cu130.cpu"),
    ],
)
def test_the_version_of_a_wheel(setup, monkeypatch, cuda, no_kernels, built_for):
    """It fits a torch of that CUDA alone, whether or not it has kernels for it."""
    names = setup.Version.finalize_options.__globals__
    fake = types.SimpleNamespace(
        __version__="2.13.0", version=types.SimpleNamespace(cuda=cuda)
    )
    monkeypatch.setitem(names, "torch", fake)
    monkeypatch.setitem(names, "NO_CUDA", no_kernels)
    monkeypatch.setitem(os.environ, "TRAJGRU_WHEEL", "1")
    command = setup.Version(setuptools.Distribution({"name": "x", "version": "0"}))
    command.finalize_options()
    assert command.egg_version == f"0+{built_for}"
