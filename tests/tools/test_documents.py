"""What the documents say: their programs run, their links lead somewhere."""

import doctest
import inspect
import re
import runpy
from pathlib import Path

import derivatives_in_python
import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import trajgru_ext
from trajgru_ext import compat, decompositions, nn, nowcasting, onnx
from trajgru_ext.compat import (
    convgru_pytorch,
    convlstm_pytorch,
    convolutional_lstm_pytorch,
    openstl,
    precipitation_nowcasting,
    warps,
)

ROOT = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SYBIL = Sybil(parsers=[PythonCodeBlockParser(doctest_optionflags=FLAGS)])
PUBLIC = [
    *(getattr(trajgru_ext, name) for name in trajgru_ext.__all__),
    *(getattr(nn, name) for name in nn.__all__),
    *(compat.load, decompositions.decomposed, onnx.export),
    *filter(callable, (getattr(nowcasting, name) for name in nowcasting.__all__)),
]
PUBLISHED = [
    *(convlstm_pytorch.ConvLSTM, convlstm_pytorch.ConvLSTMCell),
    *(convgru_pytorch.ConvGRU, convgru_pytorch.ConvGRUCell),
    *(convolutional_lstm_pytorch.ConvLSTM, convolutional_lstm_pytorch.ConvLSTMCell),
    openstl.ConvLSTMCell,
    *(
        getattr(module, name)
        for module in (precipitation_nowcasting, warps)
        for name in module.__all__
    ),
]


def qualified(thing) -> str:
    return f"{thing.__module__}.{thing.__name__}"


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_programs(page, tmp_path, monkeypatch):
    """All blocks of a page in order, as one program."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for example in SYBIL.parse(page).examples():
        example.evaluate()


@pytest.mark.parametrize("thing", [*PUBLIC, *PUBLISHED], ids=qualified)
def test_docstrings(thing, tmp_path, monkeypatch):
    """Every public name shows its use, and the use is true."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    name, text = thing.__qualname__, inspect.getdoc(thing)
    test = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    assert test.examples, f"{name} has no example"
    said: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert not said, "".join(said)


def anchors(page):
    """Of a page's headings, and of what it shows of the code."""
    text = page.read_text()
    for other in re.findall(r'^--8<-- "(.*)"$', text, flags=re.M):
        yield from anchors(ROOT / other)
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for title in re.findall(r"^#+ (.*)$", text, flags=re.M):
        plain = re.sub(r"[^\w\s-]", "", title).strip().lower()
        yield re.sub(r"[-\s]+", "-", plain)
    yield from re.findall(r"^::: (\S+)", text, flags=re.M)


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=named)
def test_links(page):
    """Every link to a file of this repository leads to one, and to a heading of it."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\](?:\(|: )([^)\s]+)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target


def test_those_who_migrate_find_their_page_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for page in sorted((ROOT / "docs" / "migrating").glob("*.md")):
        assert f"]({named(page)})" in text


def test_pictures(tmp_path, monkeypatch):
    """The program that draws them still does."""
    program = ROOT / "docs" / "make" / "pictures.py"
    drawn = runpy.run_path(str(program))
    monkeypatch.setitem(drawn["save"].__globals__, "PICTURES", tmp_path)
    for name, draw in drawn.items():
        if name.startswith("draw_"):
            draw()
    names = {picture.name for picture in tmp_path.iterdir()}
    assert names == {
        "channels.png",
        "corners.png",
        "formats.png",
        "links.png",
        "motion.png",
        "sign.png",
    }
    assert all((ROOT / "docs" / "pictures" / name).exists() for name in names)


@pytest.mark.usefixtures("one_thread")
def test_the_command_of_a_figure_runs(monkeypatch, capsys):
    """That of the page on the stable interface."""
    monkeypatch.setattr(derivatives_in_python, "ROUNDS", 1)
    monkeypatch.setattr(derivatives_in_python, "CALLS", 1)
    for name in derivatives_in_python.OPERATORS:
        kind = derivatives_in_python._compiled[name]
        monkeypatch.setattr(kind, "derivative", kind.derivative)
    derivatives_in_python.main()
    said = capsys.readouterr().out
    assert all(f"{name}: compiled " in said for name in derivatives_in_python.OPERATORS)


def test_every_public_name_is_in_the_reference():
    pages = [
        *(ROOT / "docs" / "reference").glob("*.md"),
        ROOT / "docs" / "ecosystem.md",
    ]
    text = "".join(page.read_text() for page in pages)
    shown = set(re.findall(r"^::: trajgru_ext\.\S*?(\w+)$", text, re.M))
    assert {thing.__name__ for thing in PUBLIC} <= shown


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
