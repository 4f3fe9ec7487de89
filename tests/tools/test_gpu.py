"""`make gpu`: every step is taken, whatever fails, and all is in one file."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = next(p for p in Path(__file__).parents if (p / "Makefile").exists())
STEPS = ["build", "info", "check", "tests/ops", "benchmarks/run.py"]
# In place of Python: it says what it is asked for, and fails at some of it.
PYTHON = """\
#!/bin/sh
echo "asked for $*"
case "$*" in
  *pip*) echo 'trajgru_ext: the CPU kernels, and CUDA kernels for 9.0' ;;
  *check*) echo '1 comparisons on cuda, 0.1 s: all is right' ;;
esac
case "$*" in *"BROKEN"*) echo 'what went wrong'; exit 3 ;; esac
"""
BROKEN = {
    "nothing": "nobody",
    "build": "pip",
    "check": "trajgru_ext check",
    "tests": "pytest",
}


@pytest.fixture
def folder(tmp_path):
    """A tree that make takes for this one, whose environment is made."""
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "csrc").mkdir()
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "ready-any").touch()
    return tmp_path


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("broken", BROKEN)
def test_every_step_is_taken(folder, broken):
    python = folder / "venv" / "bin" / "python"
    python.write_text(PYTHON.replace("BROKEN", BROKEN[broken]))
    python.chmod(0o755)
    # Where make runs these tests, its flags and variables are in the environment.
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["make", "gpu", "VENV=venv", "BENCH=--quick"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (broken == "nothing"), done.stderr
    written = (folder / "out" / "gpu.txt").read_text()
    marks = [line for line in written.splitlines() if line.startswith("== ")]
    assert marks == [
        line for line in done.stdout.splitlines() if line.startswith("== ")
    ]
    assert all(step in said for step, said in zip(STEPS, marks[::2], strict=True))
    failed = [said for said in marks[1::2] if said.startswith("== FAILED, after")]
    assert len(failed) == (broken != "nothing")
    assert ("what went wrong" in written) == (broken != "nothing")
    assert "benchmarks/run.py --gpu --quick" in written
    # What is built, and the verdict, are seen as well; the rest is in the file alone.
    for said in ("CUDA kernels for 9.0", "all is right"):
        assert said in written
        assert said in done.stdout
    assert "asked for -m trajgru_ext check" in written
    assert "asked for" not in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    "command", [("-m", "pytest", "--gpu", "tests/ops"), ("benchmarks/run.py", "--gpu")]
)
def test_what_needs_a_gpu_says_so(command):
    """And neither skips all tests nor measures the CPU."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    [said] = re.findall("no GPU to .*: none: (.*)", done.stderr)
    # `make gpu` shows it, too.
    [shown] = re.findall(r"^SHOWN := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert re.search(shown, f"no GPU to measure: {said}")
