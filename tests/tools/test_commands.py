"""The commands of the documents: their targets, programs and options are there."""

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from trajgru_ext.nowcasting.cli import COMMANDS

ROOT = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
NAMES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = (ROOT, ROOT / "csrc", ROOT / "trajgru_ext")
MAKEFILE, PYPROJECT = (ROOT / name for name in ("Makefile", "pyproject.toml"))


def commands(page: Path) -> list[str]:
    """Indented lines, and code within a line, with what continues them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    text = re.sub(r"\\\n +", "", text)
    blocks = re.findall(r"^ {4}(?! )(.*)$", text, re.M)
    return [*blocks, *(" ".join(one.split()) for one in re.findall(r"`([^`]+)`", text))]


def test_the_documents_have_commands():
    found = [one for page in PAGES for one in commands(page)]
    for begin in ("make ", "trajgru-ext nowcast ", "pip install ", "python bench"):
        assert any(one.startswith(begin) for one in found), begin


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_programs_and_extras(page):
    targets = {
        name
        for line in re.findall(r"^([a-z][\w. -]*):", MAKEFILE.read_text(), re.M)
        for name in line.split()
    }
    extras = set(re.findall(r"^(\w+) = \[", PYPROJECT.read_text(), re.M))
    for command in commands(page):
        for target in re.findall(r"(?:^|; )make ([a-z][\w.-]*)", command):
            known = target in targets or re.match(r"test-3\.\d+-\d+\.\d+\.\d+$", target)
            assert known, command
        for program in re.findall(r"[\w/]+/\w+\.(?:py|ipynb|cpp|h|cuh?)\b", command):
            assert any((folder / program).exists() for folder in FOLDERS), command
        for names in re.findall(r"trajgru_ext\[([\w,]+)\]", command):
            assert set(names.split(",")) <= extras, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_of_the_nowcaster(page):
    """Whole commands alone: a sentence may name one without what it requires."""
    for command in commands(page):
        words = (
            shlex.split(command, comments=True)
            if command.startswith("trajgru-ext nowcast ")
            else []
        )
        if len(words) < 4:
            continue
        assert words[2] in COMMANDS, command
        parser = argparse.ArgumentParser(exit_on_error=False)
        import_module(f"trajgru_ext.nowcasting.{words[2]}").add_options(parser)
        parser.parse_args(words[3:])
