"""What a release says of itself: one version, and a changelog in its form."""

import re
from importlib import metadata
from pathlib import Path

import pytest

import trajgru_ext

ROOT = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_installed_version():
    try:
        installed = metadata.version("trajgru_ext")
    except metadata.PackageNotFoundError:
        pytest.skip("the package runs from its folder, without being installed")
    assert installed == trajgru_ext.__version__


def test_the_cited_version():
    cited = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited == [trajgru_ext.__version__]


def test_changelog():
    """Every entry is one sentence with a link, in a section of Keep a Changelog's."""
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    for line in versions[1:]:
        assert re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line), line
    sections = {line[4:] for line in lines if line.startswith("### ")}
    assert sections <= SECTIONS
    entries = [line for line in lines if line.startswith("- ")]
    assert entries
    for line in entries:
        assert re.search(r"\.$", line) and not re.search(r"\. [A-Z]", line), line
        assert re.search(r"\[[^]]+\]\([^)\s]+\)", line), f"no link: {line}"
    for line in versions:
        name = re.findall(r"\[.*\]", line)[0]
        assert any(one.startswith(f"{name}: ") for one in lines), f"no {name}: link"


def test_the_tested_versions():
    """The tables name the pairs of `make test-versions`, the oldest as pip has it."""
    makefile = (ROOT / "Makefile").read_text()
    [text] = re.findall(r"^TESTED := (.*)$", makefile, re.M)
    pythons, torches = zip(*(pair.split("-") for pair in text.split()), strict=True)
    table = (ROOT / "docs" / "versions.md").read_text()
    for name, found in (("torch", torches), ("Python", pythons)):
        by_number = sorted(
            set(found), key=lambda one: [int(part) for part in one.split(".")]
        )
        wanted = f"| {name} | {', '.join(by_number)} |"
        assert wanted in table, wanted
    for python, torch in zip(pythons, torches, strict=True):
        assert re.search(rf"^\| {torch} \| [^|]+ \| {python} \|", table, re.M), torch
    [oldest] = re.findall(r'"torch>=(.*)"', (ROOT / "pyproject.toml").read_text())
    assert torches[0].startswith(f"{oldest}."), torches
    for page in ("install", "versions"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert f"torch {oldest} or newer" in text, page


def test_the_versions_of_continuous_integration():
    """Its Pythons are the oldest, the newest and, as python3, that of its torch."""
    makefile = (ROOT / "Makefile").read_text()
    [text] = re.findall(r"^TESTED := (.*)$", makefile, re.M)
    tested = text.split()
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    [block] = re.findall(r"python-version: \|\n((?: +3\.\d+\n)+)", workflow)
    pythons = block.split()
    [torch] = re.findall(r"torch==(\S+)", workflow)
    assert f"{pythons[-1]}-{torch}" in tested
    assert {tested[k].split("-")[0] for k in (0, -1)} <= set(pythons)
    assert f"USUAL_TORCH := torch=={torch}\n" in makefile
