"""Builds trajgru_ext._C: the CPU kernels always, the CUDA kernels where possible.

CUDA kernels are built with a CUDA build of torch and nvcc (CUDA_HOME);
TRAJGRU_CUDA=0 leaves them out, and TRAJGRU_CUDA=1 makes their absence an error. They
are built for this machine's GPUs, or where it has none for all that the toolkit knows;
TORCH_CUDA_ARCH_LIST chooses others ("8.0;9.0+PTX", or "all").
TRAJGRU_SANITIZER=address,undefined (or thread) is for a build that is tested under
these: slow, and of the baseline kernels.
TRAJGRU_UNITS=0 compiles every source by itself: about twice as long at first, but
after a change in one of them only that one.
"""

import logging
import os
import platform
import re
import shutil
import site
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

from setuptools import Command, setup
from setuptools.command.egg_info import egg_info

HERE = Path(__file__).parent.resolve()

try:
    import torch
except ModuleNotFoundError:
    # An environment that pip isolates hides the packages beside this Python, of which
    # torch is the one that the extension has to fit.
    site.addsitedir(sysconfig.get_path("platlib"))
    try:
        import torch
    except ModuleNotFoundError:
        raise SystemExit(
            "trajgru_ext: there is no torch here to build against; install it, then "
            "`pip install .` in the same environment, or use --no-build-isolation"
        ) from None

oldest = re.search(r'"torch>=([\d.]+)"', (HERE / "pyproject.toml").read_text())[1]
if [*map(int, torch.__version__.split(".")[:2])] < [*map(int, oldest.split("."))]:
    raise SystemExit(
        f"trajgru_ext: needs torch {oldest} or newer, got {torch.__version__}"
    )

if "CUDA_HOME" not in os.environ and shutil.which("nvcc"):
    # The nvcc on PATH may be a script somewhere else: it knows where its toolkit is.
    said = subprocess.run(
        ["nvcc", "--dryrun", "-x", "cu", os.devnull],
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    if found := re.search(r"^#\$ TOP=(.*)$", said, re.MULTILINE):
        os.environ["CUDA_HOME"] = os.path.realpath(found[1])

# A warning that there is no GPU here: `announce` says what is built instead.
logging.getLogger("torch.utils.cpp_extension").addFilter(
    lambda record: "No CUDA runtime" not in str(record.msg)
)
from torch.utils import cpp_extension  # noqa: E402 - CUDA_HOME is read by it

# Compute capabilities that the kernels are written for; the toolkit knows some of them.
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# What nvcc takes for a unit, for one of them and for each one more: docs/gpu.md.
FIRST_SECONDS, NEXT_SECONDS = 65, 30
# What the CPU kernels take one core: docs/install.md.
CPU_MINUTES = "5 to 9"

SANITIZER = os.environ.get("TRAJGRU_SANITIZER", "")
X86 = platform.machine().lower() in ("x86_64", "amd64") and not SANITIZER
# Few processors of x86 run its baseline, of arrays for vectors: this compiles soonest.
INSTRUCTION_SETS = {"DEFAULT": ["-O1"] if X86 else []}
if X86:
    INSTRUCTION_SETS["AVX2"] = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["AVX512"] = [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mfma",
        "-mf16c",
    ]


# Most of a source's time goes into torch's headers, so that some folders at a time are
# compiled as one unit, about as long as the others.
UNITS = {
    "module": ["csrc/*.cpp", "csrc/autograd/*.cpp"],
    "any_device": ["csrc/operators/*/*.cpp", "csrc/sequences/*.cpp"],
    "cpu": ["csrc/cpu/*.cpp"],
    "conv": ["csrc/cpu/conv/*.cpp"],
}
CUDA_UNITS = 4
# Of csrc/cpu/vec, whose two units every instruction set waits for.
HALF_OF_LOOPS = ("branches", "flow_warp", "gru_*")


def nvcc_says(*arguments: str) -> str:
    nvcc = Path(cpp_extension.CUDA_HOME) / "bin" / "nvcc"
    return subprocess.run(
        [nvcc, *arguments], capture_output=True, text=True, check=False
    ).stdout


def other_toolkit() -> str:
    """The toolkit's version, where torch was built with another first number of CUDA.

    torch's build helper refuses such a pair.
    """
    found = re.search(r"release ((\d+)\.\d+)", nvcc_says("--version"))
    same = not found or found[2] == torch.version.cuda.split(".")[0]
    return "" if same else found[1]


def why_no_cuda() -> str:
    """The reason to leave the CUDA kernels out, or nothing."""
    wanted = os.environ.get("TRAJGRU_CUDA", "")
    if wanted == "0":
        return "built with TRAJGRU_CUDA=0"
    if torch.version.cuda is None:
        reason = f"built against torch {torch.__version__}, which has no CUDA"
    elif cpp_extension.CUDA_HOME is None:
        reason = "no CUDA toolkit was found when building (CUDA_HOME, or nvcc on PATH)"
    elif not (Path(cpp_extension.CUDA_HOME) / "bin" / "nvcc").exists():
        reason = f"no nvcc in {cpp_extension.CUDA_HOME}/bin when building"
    elif other := other_toolkit():
        reason = (
            f"built with CUDA toolkit {other}, but torch {torch.__version__} needs "
            f"CUDA {torch.version.cuda}"
        )
    else:
        return ""
    if wanted == "1":
        raise SystemExit(f"trajgru_ext: TRAJGRU_CUDA=1, but it was {reason}")
    return reason


def toolkit_capabilities() -> list[str]:
    """The compute capabilities that this nvcc compiles for, the newest last."""
    said = nvcc_says("--list-gpu-arch")
    found = [divmod(int(n), 10) for n in re.findall(r"compute_(\d+)$", said, re.M)]
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def machine_capabilities() -> list[str]:
    """Those of this machine's GPUs."""
    if not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    found = {torch.cuda.get_device_capability(k) for k in range(count)}
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def choose_architectures(wanted: str, toolkit: list[str], machine: list[str]) -> str:
    """What TORCH_CUDA_ARCH_LIST should be; the newest's PTX is for what comes later."""
    if wanted and wanted.lower() != "all":
        return wanted
    known = [one for one in CAPABILITIES if one in toolkit] or toolkit[-1:]
    # A GPU that the toolkit does not know compiles the newest PTX when it first runs.
    here = [one for one in machine if one in toolkit]
    if machine and not wanted:
        newest = [f"{known[-1]}+PTX"] if len(here) < len(machine) else []
        return ";".join([*here, *newest])
    return ";".join(known) + "+PTX"


NO_CUDA = why_no_cuda()
if not NO_CUDA:
    # torch's own default asks the device, and fails where there is none.
    chosen = choose_architectures(
        os.environ.get("TORCH_CUDA_ARCH_LIST", ""),
        toolkit_capabilities(),
        machine_capabilities(),
    )
    os.environ["TORCH_CUDA_ARCH_LIST"] = chosen


def announce() -> None:
    """Say what is built, and for how long."""
    of_cpu = f"trajgru_ext: the CPU kernels, {CPU_MINUTES} minutes of one core"
    if NO_CUDA:
        print(f"{of_cpu}; no CUDA kernels: {NO_CUDA}", flush=True)
        return
    count = len(re.split(r"[; ]", os.environ["TORCH_CUDA_ARCH_LIST"]))
    minutes = CUDA_UNITS * (FIRST_SECONDS + (count - 1) * NEXT_SECONDS) / 60
    print(
        f"{of_cpu}; CUDA kernels for compute capability "
        f"{os.environ['TORCH_CUDA_ARCH_LIST']}, which take nvcc about "
        f"{minutes:.0f} minutes of one core",
        flush=True,
    )


def sources(*patterns: str) -> list[str]:
    found = sorted(str(p.relative_to(HERE)) for g in patterns for p in HERE.glob(g))
    if not found:
        raise SystemExit(f"trajgru_ext: no sources {' '.join(patterns)} in {HERE}")
    return found


def unit(name: str, files: list[str]) -> list[str]:
    """A source that includes these; or they themselves."""
    if os.environ.get("TRAJGRU_UNITS") == "0":
        return files
    written = HERE / "build" / "units" / f"{name}{Path(files[0]).suffix}"
    written.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f'#include "../../{one}"\n' for one in files)
    if not written.exists() or written.read_text() != text:
        written.write_text(text)
    return [str(written.relative_to(HERE))]


def cuda_units() -> list[str]:
    """Units of every fourth source, which makes them about as long as each other."""
    files = sources("csrc/cuda/*.cu")
    some = (unit(f"cuda_{k}", files[k::CUDA_UNITS]) for k in range(CUDA_UNITS))
    return [one for each in some for one in each]


def share_jobs(given: str, groups: int) -> tuple[int, int]:
    """How many groups are compiled at a time, and by how many compilers each."""
    most = (int(given) if given.isdecimal() else 0) or os.cpu_count() or 1
    workers = min(most, groups)
    return workers, most // workers


class Build(cpp_extension.BuildExtension):
    """Adds the per-instruction-set objects, and a note of what was built against."""

    def finalize_options(self):
        super().finalize_options()
        # One place for every kind of build, so that a wheel takes the objects of an
        # editable install; those built against one torch never fit another.
        kind = SANITIZER and f"-{SANITIZER.replace(',', '-')}"
        name = f"objects-torch-{torch.__version__}{kind}"
        self.build_temp = str(HERE / "build" / name)

    def build_extension(self, ext):
        announce()
        flags = ext.extra_compile_args["cxx"]
        some = sources(*(f"csrc/cpu/vec/{name}.cpp" for name in HALF_OF_LOOPS))
        others = [one for one in sources("csrc/cpu/vec/*.cpp") if one not in some]
        loops = unit("loops", some) + unit("more_loops", others)
        common = [one for name in UNITS for one in unit(name, sources(*UNITS[name]))]
        # In the order that super() has them; without ninja it would compile them again.
        groups = (
            {"": (sorted(common), ext.extra_compile_args)} if self.use_ninja else {}
        )
        for name, options in INSTRUCTION_SETS.items():
            defines = [f"-DCPU_CAPABILITY={name}", f"-DCPU_CAPABILITY_{name}"]
            groups[name] = (loops, {"cxx": [*flags, *options, *defines]})

        def compile_group(name):
            units, arguments = groups[name]
            return self.compiler.compile(
                units,
                output_dir=os.path.join(self.build_temp, name),
                include_dirs=ext.include_dirs,
                debug=self.debug,
                extra_postargs=arguments,
                depends=ext.depends,
            )

        # Side by side, since each group is done when its longest unit is; torch reads
        # how many compilers each may run from the environment alone.
        workers, jobs = share_jobs(os.environ.get("MAX_JOBS", ""), len(groups))
        with (
            patch.dict(os.environ, MAX_JOBS=str(jobs)),
            ThreadPoolExecutor(workers if self.use_ninja else 1) as pool,
        ):
            objects = dict(zip(groups, pool.map(compile_group, groups), strict=True))
        # Linked after the common objects: of a function that both have, such as one
        # of the standard library, the linker keeps the first, which runs anywhere.
        ext.extra_objects = [one for name in INSTRUCTION_SETS for one in objects[name]]
        # Of the common units nothing is left to compile.
        ext.sources = common + ([] if NO_CUDA else cuda_units())
        super().build_extension(ext)
        architectures = "" if NO_CUDA else os.environ["TORCH_CUDA_ARCH_LIST"]
        note = Path(self.build_lib) / "trajgru_ext" / "_build.py"
        note.write_text(
            '"""What this build was made against; written by setup.py."""\n\n'
            f"torch_version = {str(torch.__version__)!r}\n"
            f"cuda_version = {torch.version.cuda!r}\n"
            f"cuda_architectures = {architectures!r}\n"
            f"no_cuda_kernels = {NO_CUDA!r}\n"
        )

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        note = Path(self.build_lib) / "trajgru_ext" / "_build.py"
        self.copy_file(str(note), str(HERE / "trajgru_ext" / "_build.py"))


class Announce(Command):
    """Say it before pip, which shows nothing of a build unless it is told to."""

    user_options: ClassVar[list[tuple[str, str, str]]] = []

    def initialize_options(self):
        pass

    def finalize_options(self):
        pass

    def run(self):
        announce()


class Version(egg_info):
    """Says of a wheel that is to be given away which torch it fits, and asks for that.

    By its version, as 0.1.0+torch2.13.cpu; where torch has CUDA and the wheel has no
    kernels for it, as 0.1.0+torch2.13.cu130.cpu.
    """

    def finalize_options(self):
        if os.environ.get("TRAJGRU_WHEEL"):
            release = ".".join(torch.__version__.split(".")[:2])
            cuda = torch.version.cuda and f"cu{torch.version.cuda.replace('.', '')}"
            kernels = "cpu" if NO_CUDA else ""
            self.tag_build = "+" + ".".join(
                filter(None, (f"torch{release}", cuda, kernels))
            )
            needs = [f"torch=={release}.*"]
            self.distribution.install_requires = needs
            self.distribution.metadata.install_requires = needs
        super().finalize_options()


def extension():
    make = cpp_extension.CppExtension if NO_CUDA else cpp_extension.CUDAExtension
    flags = ["-O3", "-std=c++20", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wextra"]
    # A sum is fused only where it says so: else the compiler fuses each copy of an
    # inlined formula in its own way, and results would depend on the path taken.
    flags.append("-ffp-contract=off")
    # Floating-point flags and errno are of no concern, as in torch itself; without this
    # the compiler makes no vectors of loops that round.
    flags += ["-fno-trapping-math", "-fno-math-errno"]
    # Python's flags ask for debug information, which takes a third of the build's time
    # and nearly all of the module's size; a sanitizer's reports name lines by it.
    flags += [] if SANITIZER else ["-g0"]
    # What torch's own headers cause.
    for warning in (
        "psabi",
        "unused-parameter",
        "unknown-pragmas",
        "maybe-uninitialized",
        "uninitialized",
    ):
        flags.append(f"-Wno-{warning}")
    if X86:
        flags.append("-DTRAJGRU_X86")
    sanitize = [f"-fsanitize={SANITIZER}", "-fno-sanitize-recover"] if SANITIZER else []
    flags += ["-O1", *sanitize] if SANITIZER else []
    cuda = [] if NO_CUDA else sources("csrc/cuda/*.cu")
    return make(
        name="trajgru_ext._C",
        sources=[one for some in UNITS.values() for one in sources(*some)] + cuda,
        include_dirs=[str(HERE / "csrc")],
        depends=sources("csrc/**/*.h", "csrc/**/*.cuh", "csrc/cpu/vec/*.cpp"),
        extra_compile_args={
            "cxx": flags,
            "nvcc": ["-O3", "-std=c++20", "-lineinfo", "--threads=1"],
        },
        extra_link_args=["-fopenmp", *sanitize],
    )


setup(
    ext_modules=[extension()],
    cmdclass={"announce": Announce, "build_ext": Build, "egg_info": Version},
)
