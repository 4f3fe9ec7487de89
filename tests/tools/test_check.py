"""`trajgru-ext check`: it finds nothing wrong here, and finds what is."""

import json
import re
from pathlib import Path

import pytest
import torch
from emulation import device as emulated

import trajgru_ext
from trajgru_ext import check, cli, ops
from trajgru_ext.info import FAILURES
from trajgru_ext.ops import _catalog
from trajgru_ext.ops._catalog import OPERATORS

ROOT = next(p for p in Path(__file__).parents if (p / "csrc").exists())


def only(monkeypatch, *names):
    few = {name: OPERATORS[name] for name in names}
    monkeypatch.setattr(_catalog, "OPERATORS", few)


def test_all_is_right(capsys):
    assert cli.main(["check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert report["device"] == "cpu"
    assert report["machine"]["torch"] == torch.__version__
    # As it was compared, whatever is set outside.
    assert report["machine"]["float32 on a GPU"] == "convolutions ieee, products ieee"
    found = {
        (f["operator"], f["against"], f["dtype"], f["format"])
        for f in report["findings"]
    }
    kinds = [2 + case.operator.any_threads for case in _catalog.cases()]
    wanted = sum(kind * len(check.DTYPES) * len(check.FORMATS) + 1 for kind in kinds)
    assert len(found) == len(report["findings"]) == wanted
    # Zero would be a comparison with itself.
    compared = [f for f in report["findings"] if f["against"] == check.PYTORCH]
    assert sum(f["error"] > 0 for f in compared) > 0.9 * len(compared)


def test_every_operator_is_checked():
    assert {case.operator.name for case in _catalog.cases()} == set(ops.__all__)


@pytest.mark.parametrize("cuda", [False, True], ids=["cpu", "cuda"])
def test_table(monkeypatch, capsys, cuda):
    if cuda and check.why_not("cuda"):
        pytest.skip(check.why_not("cuda"))
    only(monkeypatch, "flow_warp", "se_scale")
    assert cli.main(["check", "--device", "cuda" if cuda else "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"torch {torch.__version__}, ")
    assert not lines[1]
    assert lines[2].split()[:2] == ["operator", "dtype"]
    assert [line.split()[:2] for line in lines[3:5]] == [
        ["flow_warp", "float32"],
        ["flow_warp", "float64"],
    ]
    assert lines[-1].endswith("all is right")


def noisy(x):
    return x * (1 + 1e-8 * torch.randn((), dtype=torch.float64).to(x.dtype))


def without_gradient(x, logits):
    return ops.se_scale(x, logits.detach()) + 0 * logits.sum()


WRONG = {
    "value": (lambda x, logits: 1.001 * ops.se_scale(x, logits), check.NAIVE),
    "gradient": (without_gradient, check.GRADCHECK),
    "NaN": (lambda x, logits: ops.se_scale(x, logits).log().exp(), check.PYTORCH),
    "noise": (lambda x, logits: noisy(ops.se_scale(x, logits)), check.AGAIN),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_found(monkeypatch, capsys, fault):
    function, against = WRONG[fault]
    only(monkeypatch, "se_scale")
    wrong = lambda input, logits: function(input, logits)  # noqa: E731 - their names
    monkeypatch.setattr(trajgru_ext, "se_scale", wrong)
    assert cli.main(["check", "--json"]) == 1
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    wrong = {f["against"] for f in report["findings"] if not f["passed"]}
    assert against in wrong
    assert not report["passed"]


HALF_TOO = "flow_conv", "traj_gru", "lstm_gates"
# Where the kernels take long on the host. An emulated block has 64 threads.
SLOW = "flow_conv", "traj_gru", "spatial_pyramid_pool", "hff_concat"


@pytest.mark.parametrize("name", OPERATORS)
def test_on_the_emulated_device(name, monkeypatch, capsys):
    emulated.load()
    only(monkeypatch, name)
    half = (torch.bfloat16,) if name in HALF_TOO else ()
    monkeypatch.setattr(check, "DTYPES", (torch.float32, *half))
    # Its chunks are small, and it has two multiprocessors.
    monkeypatch.setattr(check, "CHUNKS", check.PACKS)
    monkeypatch.setattr(check, "TILES", check.TILES | {"B": 1, "H": 9, "W": 17})
    if name in SLOW:
        monkeypatch.setattr(check, "MANY", check.MANY | {"T": 2, "H": 13, "W": 15})
        monkeypatch.setattr(check, "PACKS", check.PACKS | {"H": 5, "W": 7})
    assert cli.main(["check", "--device", "emulated"]) == 0
    said = capsys.readouterr().out
    assert "comparisons on emulated" in said
    assert f"{name} " in said or f"{name}, " in said


@pytest.mark.parametrize(
    "said, what",
    [
        ("the kernels were not built for this GPU: ...", "TORCH_CUDA_ARCH"),
        ("CUDA error: no kernel image is available for execution", "this torch has"),
        ("The NVIDIA driver on your system is too old (found 11040)", "too old"),
        ("CUDA driver version is insufficient for CUDA runtime version", "too old"),
        ("the provided PTX was compiled with an unsupported toolchain.", "too old"),
        ("system has unsupported display driver / cuda driver combination", "start"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "nvidia-smi"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cub", "nvidia-smi"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "nvidia-smi"),
        ("something else\nwith lines", "something else"),
    ],
)
def test_errors_of_the_emulated_device_say_what_to_do(monkeypatch, capsys, said, what):
    emulated.load()

    def fails(*_):
        raise RuntimeError(said)

    monkeypatch.setattr(trajgru_ext, "flow_warp", fails)
    assert cli.main(["check", "--device", "emulated"]) == 2
    error = capsys.readouterr().err
    assert what in error
    assert len(error.splitlines()) == 1


def test_a_launch_says_the_same_of_a_missing_image():
    """Of a kernel of ours; CUDA's own words are of torch's kernels."""
    source = (ROOT / "csrc" / "cuda" / "runtime.h").read_text()
    said = "".join(
        re.findall(r'"(.*?)"', source.partition("kNotBuiltForThis =")[2])[:2]
    )
    assert said == FAILURES["kernels were not built for this gpu"]


def test_memory_that_ends_on_the_way_is_a_sentence(monkeypatch, capsys):
    only(monkeypatch, "se_scale", "channel_mean")

    def fails(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trajgru_ext, "channel_mean", fails)
    assert cli.main(["check"]) == 2
    said = capsys.readouterr()
    assert "nvidia-smi" in said.err
    assert len(said.err.splitlines()) == 1
    assert "se_scale" in said.out


def test_what_is_no_failure_of_a_gpu_is_not_hidden(monkeypatch):
    only(monkeypatch, "se_scale")

    def fails(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(trajgru_ext, "se_scale", fails)
    with pytest.raises(RuntimeError, match="something else"):
        cli.main(["check"])


def test_a_gpu_is_named(monkeypatch):
    facts = {"torch": "2.14.1", "cuda of torch": "13.0", "cudnn": 91900}
    facts["cuda devices"] = ["A", "NVIDIA H200, compute capability 9.0"]
    monkeypatch.setattr(check, "collect", lambda: facts)
    assert check.machine("cuda:1") == (
        "torch 2.14.1, CUDA 13.0, cuDNN 91900, NVIDIA H200, compute capability 9.0, "
        "float32 as IEEE has it, not TF32"
    )


def test_float32_is_not_rounded_to_tf32(monkeypatch):
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    enabled = cudnn.enabled
    with check.ieee_float32():
        assert not cudnn.allow_tf32
        assert not products.allow_tf32
        assert cudnn.enabled == enabled
    assert cudnn.allow_tf32


def test_without_such_a_device(capsys):
    assert cli.main(["check", "--device", "abacus"]) == 2
    assert "no device 'abacus'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device(capsys):
    assert cli.main(["check", "--device", "cuda"]) == 2
    assert "no cuda here: none: " in capsys.readouterr().err
