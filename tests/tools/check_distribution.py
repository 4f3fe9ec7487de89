"""What a wheel and a source distribution hold: all that belongs there, and no more.

`python tests/tools/check_distribution.py WHEEL SDIST`, in the repository they were
made from; ends with status 1 and the names where they hold anything else.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What only those who work on the repository need.
NOT_IN_SDIST = (".ci/", ".gitignore")


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


def check_wheel(path: str) -> list[str]:
    """The package, its compiled module, and what it was built against; the licence."""
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
    info = {name for name in names if ".dist-info/" in name}
    compiled = {name for name in names if name.startswith("trajgru_ext/_C.")}
    compiled = {name for name in compiled if name.endswith(".so")}
    wanted = tracked("trajgru_ext") | {"trajgru_ext/_build.py"} | compiled
    found = differences(names - info, wanted, "the wheel")
    parts = {name.split(".dist-info/")[1] for name in info}
    metadata = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt"}
    found += differences(parts, metadata | {"licenses/LICENSE"}, "the wheel's metadata")
    return found if len(compiled) == 1 else [*found, f"the wheel has {compiled}"]


def check_sdist(path: str) -> list[str]:
    """What is in version control, and what setuptools adds."""
    with tarfile.open(path) as sdist:
        names = {name.split("/", 1)[-1] for name in sdist.getnames() if "/" in name}
        folders = {m.name.split("/", 1)[-1] for m in sdist if m.isdir()}
    made = {n for n in names if "egg-info" in n} | {"PKG-INFO", "setup.cfg"}
    wanted = {n for n in tracked() if not n.startswith(NOT_IN_SDIST)}
    return differences(names - folders - made, wanted, "the source distribution")


def main(wheel: str, sdist: str) -> int:
    found = check_wheel(wheel) + check_sdist(sdist)
    print("\n".join(found) or "the distributions hold what they should")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
