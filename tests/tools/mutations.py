"""Plants faults in the kernels, one at a time, and shows that the tests catch each.

`python tests/tools/mutations.py [name ...]`, after a build in place, works on a copy of
the tree. A fault in a CPU source is compiled into one instruction set's objects and
linked with the others, which are built source by source for it; one in a CUDA source,
or a formula, into an emulation of the operator alone. Ends with status 1 where a fault
survives, or is not where it should be.
"""

import argparse
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "build" / f"objects-torch-{torch.__version__}"
BUILT = ROOT / "build" / "mutations"
CAPABILITY = "AVX2"


@dataclass
class Fault:
    """`right` in the file becomes `wrong`; `tests`, by `compiled`, should notice."""

    name: str
    file: str
    right: str
    wrong: str
    compiled: str
    tests: str
    sanitizer: str = ""


BORDERS = "return row >= 0 && row < height && col >= 0 && col < width;"
IN_ORDER = ("cuda/flow_warp.cu", "fixed_order")
ON_DEVICES = ("cuda/flow_conv.cu", "devices")
FUSED = ("cuda/flow_conv.cu", "flow_conv_fused")
# What operators are compiled with, whichever it is.
CALLED = ("cuda/ordered_sums.cu", "cuda/flow_conv_fused.cu")
FAULTS = [
    Fault(
        *("the top border off by one", "math/bilinear.h", BORDERS),
        *(BORDERS.replace("row >= 0", "row >= 1"), "cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("the right border off by one", "math/bilinear.h", BORDERS),
        *(BORDERS.replace("col <", "col <="), "cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("the bottom border off by one", "math/bilinear.h", "cell.row < height &&"),
        *("cell.row < height - 1 &&", "cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("the left border off by one", "math/bilinear.h", "cell.col >= -1"),
        *("cell.col >= 0", "cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("a missing atomic", "cuda/warp_pixel.cuh"),
        "atomicAdd(to, weight * static_cast<coord_t>(g.value[0]))",
        "*to += weight * static_cast<coord_t>(g.value[0])",
        *("cuda/flow_warp.cu", "flow_warp", "thread"),
    ),
    Fault(
        *("offsets of 32 bits", "cuda/images.h", "if (last >= kLimit) return false;"),
        *("", "cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("NaN converted to an integer", "math/bilinear.h"),
        "!(std::fabs(u) < limit && std::fabs(v) < limit)",
        "std::fabs(u) >= limit || std::fabs(v) >= limit",
        *("cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("a gradient overwritten before it is read", "cuda/warp_pixel.cuh"),
        *("__syncwarp()", "(void)0", *ON_DEVICES),
    ),
    Fault(
        *("a slice multiplied before it is gathered", "cuda/flow_conv_fused.cuh"),
        "      __syncthreads();\n    }\n",
        *("    }\n", *FUSED),
    ),
    Fault(
        *("the same, seen as a race", "cuda/flow_conv_fused.cuh"),
        "      __syncthreads();\n    }\n",
        *("    }\n", *FUSED, "thread"),
    ),
    Fault(
        *("a tile off by one", "cuda/flow_conv_fused.cuh"),
        *("sample = line / down;", "sample = (line + 1) / down;", *FUSED),
    ),
    Fault(
        *("a fragment of the columns beside its own", "cuda/flow_conv_fused.cuh"),
        *("column() + j * kSide), kStride", "column() + (2 - j) * kSide), kStride"),
        *FUSED,
    ),
    Fault(
        *("operands that are not rounded", "cuda/flow_conv_fused.cuh"),
        *("return wmma::__float_to_tf32(value)", "return value", *FUSED),
    ),
    Fault(
        *("sums in any order", "cuda/flow_warp.cu"),
        *("to.input_grad.defined() && in_fixed_order()", "false", *IN_ORDER),
    ),
    Fault(
        *("an unstable order", "cuda/ordered_sums.cu"),
        "const auto [sorted, order] = "
        "at::sort(cell, /*stable=*/true, 0, /*descending=*/false);",
        "const Tensor any = fraction.select(1, 0).clone().uniform_().argsort();\n"
        "const auto [sorted, places] = "
        "at::sort(cell.index_select(0, any), true, 0, false);\n"
        "const Tensor order = any.index_select(0, places);",
        *IN_ORDER,
    ),
    Fault(
        *("a pixel without its cells' last warps", "cuda/ordered_sums.cuh"),
        *("args.begin[left + 2]", "args.begin[left + 2] - 1", *IN_ORDER),
    ),
    Fault(
        *("cells beside each other taken for one", "cuda/ordered_sums.cuh"),
        *("2 * below + (k < middle)", "2 * below + (k <= middle)", *IN_ORDER),
    ),
    Fault(
        *("a piece of the second sample in the first", "cuda/ordered_sums.cu"),
        *("narrow(0, extent.first_sample,", "narrow(0, 0,", *IN_ORDER),
    ),
    Fault(
        *("a warp's sum without its last lanes", "cuda/branch_kernels.cuh"),
        *("distance = kWarpThreads / 2", "distance = kWarpThreads / 4"),
        *("cuda/channel_mean.cu", "block_operators"),
    ),
    Fault(
        *("the softmax overflows", "math/branches.h", " - largest)", ")"),
        *("cuda/sk_select.cu", "block_operators fuzz"),
    ),
    Fault(
        *("the first bin off by one", "math/spatial_pyramid_pool.h"),
        *("(kernel * bins - size + 1) / 2", "(kernel * bins - size) / 2"),
        *("cuda/spatial_pyramid_pool.cu", "fuzz"),
    ),
    Fault(
        *("x and y swapped", "cpu/vec/flow_warp.cpp", "args.flow_scale * du"),
        *("args.flow_scale * dv", "cpu/vec/flow_warp.cpp", "flow_warp"),
    ),
    Fault(
        *("an uninitialised tail", "cpu/vec/tile.h"),
        "for (; c < channels; ++c) {\n    coord_t sum = 0;",
        "for (; c + 1 < channels; ++c) {\n    coord_t sum = 0;",
        *("cpu/vec/flow_warp.cpp", "flow_warp"),
    ),
    Fault(
        *("the wrong stride", "cpu/vec/tile.h", "first = at.cell.row * input.row +"),
        "first = at.cell.row * size.width * input.col +",
        *("cpu/vec/flow_warp.cpp", "flow_warp"),
    ),
    Fault(
        *("a dropped bias", "cpu/flow_conv.cpp", "bias->to(sums).contiguous()"),
        *("at::zeros(bias->sizes(), bias->options().dtype(sums))", "cpu/flow_conv.cpp"),
        "flow_conv",
    ),
    Fault(
        *("gates in the wrong order", "math/lstm_gates.h"),
        "args.h_gates, order.f) + V(args.forget_bias)",
        "args.h_gates, order.g) + V(args.forget_bias)",
        *("cpu/vec/lstm_gates.cpp", "lstm_gates"),
    ),
    Fault(
        *("the mask the other way round", "cpu/vec/gate_loop.h", "from[k] ? 1 : 0"),
        *("from[k] ? 0 : 1", "cpu/vec/gru_gates.cpp", "gru_gates"),
    ),
    Fault(
        *("a branch skipped too many", "math/hff_concat.h", "if (i >= args.skipped)"),
        *("if (i > args.skipped)", "cpu/vec/hff_concat.cpp", "block_operators"),
    ),
    Fault(
        *("a wrong coefficient", "math/winograd.h", "square(i) - square(j)"),
        *("square(i) + square(j)", "cpu/vec/winograd.cpp", "winograd"),
    ),
    Fault(
        *("a tile without the image's last row", "cpu/vec/winograd.h"),
        *("holds(i, j) ? load", "holds(i + 1, j) ? load", "cpu/vec/winograd.cpp"),
        "winograd",
    ),
    Fault(
        *("two registers the wrong way round", "cpu/vec/transpose.h"),
        *("rows[r], rows[r + kSize / 2]", "rows[r + kSize / 2], rows[r]"),
        *("cpu/vec/copy_image.cpp", "cpu_layout"),
    ),
    Fault(
        *("gates in the wrong order in a tile", "cpu/vec/winograd.cpp"),
        "gate * weights.features + feature",
        "(weights.gates - 1 - gate) * weights.features + feature",
        *("cpu/vec/winograd.cpp", "winograd"),
    ),
    # Of host code, which the emulated device catches.
    Fault(
        *("a missing device guard", "cuda/flow_conv.cu"),
        *("const DeviceGuard guard(input.device());", "", *ON_DEVICES),
    ),
    Fault(
        *("a temporary on the first device", "cuda/flow_conv.cu"),
        "input.options().memory_format(at::MemoryFormat::Contiguous)",
        "input.options().memory_format(at::MemoryFormat::Contiguous)"
        ".device(c10::Device(input.device().type(), 0))",
        *ON_DEVICES,
    ),
    Fault(
        *("the default stream", "cuda/flow_conv.cu", "current_stream()", "Stream()"),
        *ON_DEVICES,
    ),
    Fault(
        *("a kernel given memory of the host", "cuda/flow_conv.cu"),
        "flows(flows.to(opmath_dtype(input)))",
        "flows(flows.to(opmath_dtype(input)).cpu())",
        *ON_DEVICES,
    ),
    Fault(
        *("a kernel given a dead temporary", "cuda/flow_conv.cu"),
        "image_view<const coord_t, index_t>(operands.flows)",
        "image_view<const coord_t, index_t>(operands.flows.clone())",
        *ON_DEVICES,
    ),
    Fault(
        *("the host reads memory of the device", "cuda/flow_conv.cu"),
        "if (count * operands.columns == 0) return;",
        "if (*static_cast<const char*>(operands.input.const_data_ptr()) == 77) return;",
        *ON_DEVICES,
    ),
    Fault(
        *("the host waits for a number", "cuda/flow_conv.cu"),
        "if (output.numel() == 0) return output;",
        "if (input.sum().item().toDouble() == 77) return output;",
        *ON_DEVICES,
    ),
    Fault(
        *("a stream that nobody waits for", "cuda/flow_conv.cu"),
        "if (output.numel() == 0) return output;",
        "const c10::impl::VirtualGuardImpl streams(input.device().type());\n"
        "const c10::Stream now = streams.getStream(input.device());\n"
        "void* event = nullptr;\n"
        "streams.record(&event, now, input.device().index(),\n"
        "               c10::EventFlag::PYTORCH_DEFAULT);\n"
        "streams.block(event, streams.getNewStream(input.device()));",
        *ON_DEVICES,
    ),
]


def plant(fault: Fault, tree: Path) -> None:
    """Write the fault into the copy of the tree."""
    path = tree / "csrc" / fault.file
    text = path.read_text()
    if fault.right not in text:
        raise SystemExit(f"{fault.name}: {fault.file} does not have {fault.right!r}")
    path.write_text(text.replace(fault.right, fault.wrong))


def compile_operator(fault: Fault, tree: Path) -> dict[str, str]:
    """Leave the emulation of one operator, and what it may call, to the tests.

    Returns what they run under.
    """
    sources = tree / "csrc"
    compiled = {sources / one for one in (fault.compiled, *CALLED)}
    for source in (*sources.rglob("*.cpp"), *sources.rglob("*.cu")):
        if source not in compiled:
            source.unlink()
    if not fault.sanitizer:
        return {}
    flag = ["c++", f"-print-file-name=lib{fault.sanitizer[0]}san.so"]
    runtime = subprocess.run(flag, capture_output=True, text=True, check=True).stdout
    return {
        "TRAJGRU_SANITIZER": fault.sanitizer,
        "TRAJGRU_EMULATION": "threads",
        "TSAN_OPTIONS": "halt_on_error=1 ignore_noninstrumented_modules=1",
        "LD_PRELOAD": runtime.strip(),
    }


@functools.cache
def build_objects() -> None:
    """Compile every CPU source by itself, beside the units of the build in place."""
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build", "--build-lib", BUILT],
        cwd=ROOT,
        env={**os.environ, "TRAJGRU_UNITS": "0", "TRAJGRU_CUDA": "0"},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def compile_object(fault: Fault, tree: Path) -> dict[str, str]:
    """Compile a CPU source of the copy, and link it with the objects of the others."""
    build_objects()
    vector = fault.compiled.startswith("cpu/vec/")
    folder = OBJECTS / CAPABILITY if vector else OBJECTS
    commands = subprocess.run(
        ["ninja", "-C", folder, "-t", "compdb"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    source = str(ROOT / "csrc" / fault.compiled)
    built = next(one for one in json.loads(commands) if one["file"] == source)
    mutated = tree / "mutated.o"
    command = built["command"].replace(built["output"], str(mutated))
    command = command.replace(str(ROOT / "csrc"), str(tree / "csrc"))
    subprocess.run(command, shell=True, check=True, capture_output=True)
    objects = sorted(OBJECTS.glob("csrc/**/*.o"))
    objects += sorted(OBJECTS.glob("[A-Z]*/csrc/**/*.o"))
    objects = [mutated if str(one) == built["output"] else one for one in objects]
    library = next((tree / "trajgru_ext").glob("_C.*.so"))
    library.unlink()
    link = ["c++", "-shared", "-fopenmp", *map(str, objects), "-o", str(library)]
    link += [f"-L{path}" for path in cpp_extension.library_paths()]
    link += ["-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    subprocess.run(link, check=True, capture_output=True)
    return {"ATEN_CPU_CAPABILITY": CAPABILITY.lower()}


def copy_tree(tree: Path) -> None:
    """What the tests need, the extension as a link."""
    for folder in ("csrc", "tests", "trajgru_ext", "ports", "benchmarks", "examples"):
        ignored = shutil.ignore_patterns("build", "__pycache__", "*.so")
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tree)
    (tree / "tests" / "emulation" / "build").mkdir()
    for library in (ROOT / "trajgru_ext").glob("_C.*.so"):
        (tree / "trajgru_ext" / library.name).symlink_to(library)


def run_tests(
    fault: Fault, tree: Path, environment: dict[str, str]
) -> tuple[bool, str]:
    """Whether the tests notice, and the first that does."""
    which = "cpu"
    if fault.compiled.endswith(".cu"):  # of which there is one operator alone
        which = f"cuda-emulated and {Path(fault.compiled).stem}"
    if fault.sanitizer:
        which += " and naive_formula and float32"
    files = [f"tests/ops/test_{one}.py" for one in fault.tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-v", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-k", which, *files],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    # "tests/ops/test_x.py::test_y[...] FAILED [ 1%]"; names may have spaces.
    tests = re.findall(r"^(tests/\S+?::.*?) *(?:FAILED|$)", done.stdout, re.MULTILINE)
    # A crash leaves the name of its test; ThreadSanitizer ends what it finds with 66.
    how = {1: "", 66: "ThreadSanitizer in "}
    if done.returncode >= 0 and done.returncode not in how:
        return False, done.stdout[-300:] if done.returncode else ""
    return True, how.get(done.returncode, "a crash of ") + tests[-1]


def noticed(fault: Fault, planted: bool) -> tuple[bool, str]:
    """Whether the fault's tests fail, and by which, with the fault or without."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        if planted:
            plant(fault, tree)
        emulated = fault.compiled.endswith(".cu")
        prepare = compile_operator if emulated else compile_object
        return run_tests(fault, tree, prepare(fault, tree))


def main(names: Sequence[str]) -> int:
    survived = 0
    right: set[tuple[str, ...]] = set()  # tests that pass without a fault
    for fault in [one for one in FAULTS if not names or one.name in names]:
        begun = time.monotonic()
        tests = (fault.compiled, fault.tests, fault.sanitizer)
        if tests not in right:
            wrong, by = noticed(fault, planted=False)
            if wrong:
                raise SystemExit(f"{fault.name}: without the fault, too, fails {by}")
            right.add(tests)
        caught, by = noticed(fault, planted=True)
        survived += not caught
        seconds = time.monotonic() - begun
        verdict = "caught by" if caught else "SURVIVED"
        print(f"{fault.name:<38} {seconds:5.0f} s  {verdict} {by}", flush=True)
    print(f"{survived} not caught")
    return 1 if survived else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of faults; all where none are given")
    sys.exit(main(parser.parse_args().names))
