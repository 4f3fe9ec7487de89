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
from pathlib import Path

import torch
from mutations_faults import CALLED, FAULTS, Fault
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "build" / f"objects-torch-{torch.__version__}"
BUILT = ROOT / "build" / "mutations"
CAPABILITY = "AVX2"


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
    compiled = {sources / one for one in (*fault.compiled.split(), *CALLED)}
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
        which = (
            f"cuda-emulated and {Path(fault.compiled.split()[0]).stem} and not traj_gru"
        )
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
    if done.returncode == 0:
        return False, ""
    if done.returncode > 0 and done.returncode not in how:
        raise SystemExit(f"{fault.name}: its tests did not run\n{done.stdout[-2000:]}")
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
