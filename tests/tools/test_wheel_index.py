"""The index of wheels, and what may not be in one."""

import subprocess
import sys
import zipfile
from pathlib import Path

import wheel_index

GOOD = "trajgru_ext-0.1.0+torch2.13.cu130-cp311-cp311-manylinux_2_34_x86_64.whl"
NOTE = """
torch_version = '2.13.0+cu130'
cuda_version = '13.0'
cuda_architectures = '9.0+PTX'
no_cuda_kernels = ''
"""


def make(path: Path, *libraries: str, needs: str = "torch==2.13.*") -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("trajgru_ext/_build.py", NOTE)
        version = path.name.split("-")[1]
        described = f"Metadata-Version: 2.1\nName: trajgru_ext\nVersion: {version}\n"
        described += f"Requires-Dist: {needs}\nRequires-Dist: torchvision\n"
        wheel.writestr(f"trajgru_ext-{version}.dist-info/METADATA", described)
        tag = "\n".join(["Wheel-Version: 1.0", "Root-Is-Purelib: false", ""])
        wheel.writestr(f"trajgru_ext-{version}.dist-info/WHEEL", tag)
        for name in ("trajgru_ext/_C.so", *libraries):
            wheel.writestr(name, b"")


def test_index(tmp_path):
    make(tmp_path / GOOD)
    assert wheel_index.main(tmp_path) == 0
    text = (tmp_path / "index.html").read_text()
    cells = "<td>2.13.0</td><td>13.0</td><td>cp311</td>"
    assert cells in text
    assert f'href="{GOOD.replace("+", "%2B")}#sha256=' in text
    # pip finds it there, though not one for another torch.
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-index"),
        *("--dest", str(tmp_path / "found"), "--only-binary=:all:"),
        *("--platform", "manylinux_2_34_x86_64", "--python-version", "3.11"),
        *("--find-links", str(tmp_path / "index.html")),
    ]
    for torch, status in (("2.13.cu130", 0), ("2.14.cu130", 1)):
        wanted = f"trajgru_ext==0.1.0+torch{torch}"
        done = subprocess.run([*command, wanted], capture_output=True, check=False)
        assert done.returncode == status, done.stderr


def test_what_may_not_be_given_away(tmp_path, capsys):
    make(tmp_path / GOOD, "trajgru_ext.libs/libtorch_cpu.so")
    plain = tmp_path / "trajgru_ext-0.1.0-cp311-cp311-linux_x86_64.whl"
    make(plain, needs="torch>=2.9")
    assert wheel_index.main(tmp_path) == 1
    said = capsys.readouterr().out
    assert f"{GOOD} carries trajgru_ext.libs/libtorch_cpu.so" in said
    assert "linux_x86_64.whl asks for ['torch>=2.9'], not for torch==2.13.*" in said
    assert f"{GOOD} asks" not in said
    assert "linux_x86_64.whl has no torch in its version" in said
    assert "linux_x86_64.whl is for this distribution of Linux alone" in said


def test_no_wheel_at_all(tmp_path, capsys):
    assert wheel_index.main(tmp_path) == 1
    assert "there is no wheel" in capsys.readouterr().out
