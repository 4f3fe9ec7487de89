"""What a wheel and a source distribution hold: all that belongs there, and no more.

`python tests/tools/check_distribution.py WHEEL SDIST`, in the repository they were
made from; ends with status 1 and the names where they hold anything else.
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What only those who work on the repository need.
NOT_IN_SDIST = (".ci/", ".github/", ".gitignore", ".pre-commit-config.yaml")


def tracked(*patterns: str) -> set[str]:
    done = subprocess.run(
        ["git", "ls-files", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines())


def differences(found: set[str], wanted: set[str], what: str) -> list[str]:
    missing = [f"{what} lacks {name}" for name in sorted(wanted - found)]
    return missing + [f"{what} has {name}" for name in sorted(found - wanted)]


def version() -> str:
    """The package's, read without importing it."""
    text = (ROOT / "trajgru_ext" / "__init__.py").read_text()
    [found] = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found


def check_version(metadata: bytes, what: str) -> list[str]:
    """The package's, with or without the torch that it was built against."""
    found = BytesParser().parsebytes(metadata)["Version"].partition("+")[0]
    wanted = version()
    return [] if found == wanted else [f"{what} is version {found}, not {wanted}"]


def check_wheel(path: str) -> list[str]:
    """The package, its compiled module, and what it was built against; the licence."""
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        [described] = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = wheel.read(described)
    info = {name for name in names if ".dist-info/" in name}
    compiled = {name for name in names if name.startswith("trajgru_ext/_C.")}
    compiled = {name for name in compiled if name.endswith(".so")}
    wanted = tracked("trajgru_ext") | {"trajgru_ext/_build.py"} | compiled
    found = differences(names - info, wanted, "the wheel")
    parts = {name.split(".dist-info/")[1] for name in info}
    wanted = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt"}
    found += differences(parts, wanted | {"licenses/LICENSE"}, "the wheel's metadata")
    found += check_version(metadata, "the wheel")
    return found if len(compiled) == 1 else [*found, f"the wheel has {compiled}"]


def check_sdist(path: str) -> list[str]:
    """What is in version control, and what setuptools adds."""
    with tarfile.open(path) as sdist:
        names = {name.split("/", 1)[-1] for name in sdist.getnames() if "/" in name}
        folders = {m.name.split("/", 1)[-1] for m in sdist if m.isdir()}
        [top] = {name.split("/", 1)[0] for name in sdist.getnames()}
        described = sdist.extractfile(f"{top}/PKG-INFO")
        metadata = described.read() if described else b""
    made = {n for n in names if "egg-info" in n} | {"PKG-INFO", "setup.cfg"}
    wanted = {n for n in tracked() if not n.startswith(NOT_IN_SDIST)}
    what = "the source distribution"
    found = differences(names - folders - made, wanted, what)
    return found + check_version(metadata, what)


def main(wheel: str, sdist: str) -> int:
    found = check_wheel(wheel) + check_sdist(sdist)
    print("\n".join(found) or "the distributions hold what they should")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
