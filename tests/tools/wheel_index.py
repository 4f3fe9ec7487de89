"""Checks wheels that are to be given away, and makes the index page that pip reads.

`python tests/tools/wheel_index.py FOLDER` writes FOLDER/index.html, for
`pip install --find-links`: every wheel with the torch, CUDA and Python that it is for.
Ends with status 1 and the reasons where a wheel carries a library of torch's or
of the compiler's, takes another torch than its own, or runs on one distribution of
Linux alone.
"""

import hashlib
import html
import re
import sys
import zipfile
from pathlib import Path

COLUMNS = "torch", "CUDA", "Python", "platform", "MB"


def built_against(archive: zipfile.ZipFile) -> dict[str, str]:
    """What the build wrote down; "" is for what it has not."""
    note = archive.read("trajgru_ext/_build.py").decode()
    return dict(re.findall(r"^(\w+) = (?:'(.*)'|None)$", note, re.MULTILINE))


def facts(wheel: Path) -> tuple[str, ...]:
    """A row of the table, from what the build wrote down and the wheel's name."""
    with zipfile.ZipFile(wheel) as archive:
        built = built_against(archive)
    cuda = built["cuda_version"] if not built["no_cuda_kernels"] else "no kernels"
    _, _, python, _, platform = wheel.stem.split("-")
    size = f"{wheel.stat().st_size / 1e6:.0f}"
    return built["torch_version"].split("+")[0], cuda, python, platform, size


def faults(wheel: Path) -> list[str]:
    """Why a wheel should not be given away."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        libraries = [name for name in names if ".so" in Path(name).name]
        [described] = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = archive.read(described).decode()
        release = built_against(archive)["torch_version"].split(".")[:2]
    asked = re.findall(r"^Requires-Dist: (torch\b[^;\n]*)$", text, re.MULTILINE)
    found = [f"carries {name}" for name in libraries if "/_C." not in name]
    if "+torch" not in wheel.name:
        found.append("has no torch in its version")
    wanted = f"torch=={'.'.join(release)}.*"
    if asked != [wanted]:
        found.append(f"asks for {asked}, not for {wanted}")
    if "manylinux" not in wheel.name:
        found.append("is for this distribution of Linux alone")
    return [f"{wheel.name} {fault}" for fault in found]


def page(wheels: list[Path]) -> str:
    """The index, links with the hashes that pip compares."""
    heads = "".join(f"<th>{name}</th>" for name in ("wheel", *COLUMNS))
    rows = ""
    for wheel in wheels:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        name = html.escape(wheel.name)
        link = f'<a href="{name.replace("+", "%2B")}#sha256={digest}">{name}</a>'
        cells = "".join(f"<td>{html.escape(fact)}</td>" for fact in facts(wheel))
        rows += f"<tr><td>{link}</td>{cells}</tr>\n"
    head = "<!DOCTYPE html>\n<title>Wheels of trajgru_ext</title>\n"
    return f"{head}<table>\n<tr>{heads}</tr>\n{rows}</table>\n"


def main(folder: Path) -> int:
    wheels = sorted(folder.glob("*.whl"))
    found = [fault for wheel in wheels for fault in faults(wheel)]
    found += [] if wheels else [f"there is no wheel in {folder}"]
    (folder / "index.html").write_text(page(wheels))
    print("\n".join(found) or (folder / "index.html").read_text())
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
