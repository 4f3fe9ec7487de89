"""The package as it is installed: import, version checks, command line."""

import json
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import trajgru_ext
from trajgru_ext import _build, info

ROOT = next(p for p in Path(__file__).parents if (p / "setup.py").exists())


def python(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_info():
    done = python("-m", "trajgru_ext", "info")
    assert done.returncode == 0, done.stderr
    for line in (torch.__version__, "cpu capability", "cuda kernels", "threads"):
        assert line in done.stdout


def test_info_as_json():
    done = python("-m", "trajgru_ext", "info", "--json")
    facts = json.loads(done.stdout)
    assert facts["trajgru_ext"] == trajgru_ext.__version__
    assert facts["torch"] == torch.__version__
    assert facts["cpu capability"] in facts["cpu capabilities built"]
    # What is missing says why.
    if not torch.cuda.is_available():
        assert facts["cuda devices"].startswith("none: ")


def test_info_heeds_the_environment(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    facts = json.loads(python("-m", "trajgru_ext", "info", "--json").stdout)
    assert facts["cpu capability"] == "DEFAULT"


# By the key of their kernels, with tensors that need no GPU.
REFUSED = """
import torch, trajgru_ext
from trajgru_ext.ops import _registry
_registry.refuse("CUDA", "for a reason")
keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
x, flow = torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2)
for name, arguments in {"flow_warp": (x, flow), "sequence_plan": (x,)}.items():
    try:
        getattr(torch.ops.trajgru_ext, name).default.redispatch(keys, *arguments)
    except RuntimeError as error:
        print(error)
has = torch._C._dispatch_has_kernel_for_dispatch_key
for name in torch._C._dispatch_get_all_op_names():
    if name.startswith("trajgru_ext::"):
        assert has(name, "CUDA") or has(name, "CompositeExplicitAutograd"), name
"""


def test_a_build_without_cuda_kernels_says_so_for_a_cuda_tensor():
    """Whichever operator meets it first."""
    if not _build.no_cuda_kernels:
        pytest.skip("this build has CUDA kernels")
    done = python("-c", REFUSED)
    # Where torch has CUDA, the import has given the build's own.
    reason = _build.no_cuda_kernels if _build.cuda_version else "for a reason"
    assert done.stdout.splitlines() == [
        f"{name}: this build of trajgru_ext has no kernels for CUDA: {reason}; build "
        "it again, or compute within trajgru_ext.decompositions.decomposed()"
        for name in ("flow_warp", "sequence_plan")
    ]
    assert not done.stderr


def test_command_line_errors():
    done = python("-m", "trajgru_ext", "nothing")
    assert done.returncode == 2
    assert "invalid choice" in done.stderr


@pytest.mark.parametrize("running", ["2.1.0", "3.0.0+cpu"])
def test_import_with_another_torch_names_both_versions(running):
    done = python(
        "-c", f"import torch; torch.__version__ = {running!r}; import trajgru_ext"
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: trajgru_ext: built against torch ")
    assert torch.__version__ in last
    assert running in last


def test_import_with_a_torch_of_another_cuda_names_both():
    """Some versions of torch do not say for which CUDA they are."""
    done = python("-c", "import torch; torch.version.cuda = '11.0'; import trajgru_ext")
    last = done.stderr.strip().splitlines()[-1]
    wanted = f"running with torch {torch.__version__} (CUDA 11.0); reinstall "
    assert wanted in last


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("_build", "; install the package with `pip install .` where torch is"),
        # So it is where another Python built it: its name has the number of that.
        ("_C", f" for Python {platform.python_version()}; reinstall trajgru_ext with "),
    ],
)
def test_import_without_a_build_says_how_to_make_one(missing, said):
    hide = f"import sys; sys.modules['trajgru_ext.{missing}'] = None"
    done = python("-c", f"{hide}; import trajgru_ext")
    last = done.stderr.strip().splitlines()[-1]
    wanted = f"ImportError: trajgru_ext: the extension is not built{said}"
    assert last.startswith(wanted), last


@pytest.mark.parametrize(
    ("torch_found", "said"),
    [
        ("None", "there is no torch here to build against; install it, then "),
        ("types.SimpleNamespace(__version__='1.13.1+cpu')", "needs torch "),
    ],
)
def test_what_cannot_be_built_says_so_in_a_sentence(torch_found, said):
    setup = ROOT / "setup.py"
    replace = f"import runpy, sys, types; sys.modules['torch'] = {torch_found}; "
    done = python("-c", f"{replace} runpy.run_path({str(setup)!r})")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"trajgru_ext: {said}"), line


def test_a_toolkit_that_torch_cannot_use_says_so_in_a_sentence(tmp_path, monkeypatch):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 13.0, V13.0.48\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("TRAJGRU_CUDA", "1")
    setup = ROOT / "setup.py"
    found = (
        "import runpy, torch; from torch.utils import cpp_extension; "
        f"torch.version.cuda = '12.8'; cpp_extension.CUDA_HOME = {str(tmp_path)!r}; "
    )
    done = python("-c", f"{found} runpy.run_path({str(setup)!r})")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    wanted = f"toolkit 13.0, but torch {torch.__version__} needs CUDA 12.8"
    assert last.startswith("trajgru_ext: TRAJGRU_CUDA=1, but it was built with CUDA ")
    assert wanted in last


def test_layers_are_imported_when_they_are_asked_for():
    """The import takes 0.06 s beyond torch's, and four times that with all of these."""
    script = """
        import sys, trajgru_ext
        late = ("nn", "compat", "nowcasting", "onnx", "check")
        print(*(name for name in late if f"trajgru_ext.{name}" in sys.modules))
        trajgru_ext.nn.ConvLSTM, trajgru_ext.compat.load
        trajgru_ext.accelerate, trajgru_ext.restore
        trajgru_ext.layers
    """
    done = python("-c", textwrap.dedent(script))
    assert done.stdout.strip() == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last == "AttributeError: module 'trajgru_ext' has no attribute 'layers'"


def test_every_schema_has_a_fake_kernel_and_a_reference():
    from trajgru_ext import ops, reference
    from trajgru_ext.ops import _registry

    names = {
        schema.name.split("::")[1]
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("trajgru_ext::")
    }
    # What sequences are made of, never called by a graph.
    internal = ("same_conv", "winograd_", "pixel_sums", "sequence_plan", "conv_sum")
    internal += ("flow_conv_add_grads", "flow_conv_gru_step", "gru_output_into")
    names = {name for name in names if not name.startswith(internal)}
    assert names == set(_registry._fakes)
    forward = {name for name in names if not name.endswith("_backward")}
    # What the sequences call on their own buffers, and blocks between memory formats.
    forward = {name for name in forward if not name.endswith("_step")} - {"copy_image"}
    assert forward == set(ops.__all__)
    for name in forward:
        assert callable(getattr(reference, name))


def test_nothing_is_downloaded_started_or_unpickled(tmp_path):
    """By import, by operators and by a checkpoint that is read."""
    script = """
        import sys, torch
        refused = ("socket.", "urllib.", "subprocess.", "os.system", "pickle.")

        def hook(event, arguments):
            if event.startswith(refused):
                raise SystemExit(f"{event} {arguments}")

        sys.addaudithook(hook)
        import trajgru_ext, trajgru_ext.compat, trajgru_ext.nn
        x = torch.ones(1, 1, 2, 2, requires_grad=True)
        trajgru_ext.flow_warp(x, torch.zeros(1, 2, 2, 2)).sum().backward()
        layer = trajgru_ext.nn.ConvGRU(1, 2)
        layer(torch.ones(2, 1, 1, 3, 3))
        torch.save(layer.state_dict(), sys.argv[1])
        trajgru_ext.compat.load(sys.argv[1], layer)
    """
    done = python("-c", textwrap.dedent(script), str(tmp_path / "weights.pt"))
    assert done.returncode == 0, done.stderr


def test_info_says_what_to_do_about_a_driver_that_is_too_old(monkeypatch):
    """As torch says it, where it has CUDA but cannot begin."""

    def too_old():
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040). Please "
            "update your GPU driver by downloading and installing a new version"
        )

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    said = info.cuda_devices()
    assert said.startswith("none: ")
    assert "driver" in said
    assert "update" in said
    assert "\n" not in said
