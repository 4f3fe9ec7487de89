"""Links of the site, which also work where the pages are read in the repository.

A page may include a file of the repository (`--8<-- "CHANGELOG.md"`), and links are
relative to where they are written. The site has the pages of docs/ and the notebooks;
of a link to anything else it has the text.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
NOTEBOOKS = ROOT / "examples" / "notebooks"
INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
TARGET = r"(?![a-z]+:)([^)\s#]+)(#[^)\s]*)?"
LINK = re.compile(rf"\[((?:[^\[\]]|\[[^\]]*\])*)\]\({TARGET}\)")
DEFINITION = re.compile(rf"^(\[[^\]]+\]: ){TARGET}$", re.MULTILINE)


def place(file: Path) -> str | None:
    """Where the site has it, if it has."""
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS).as_posix()
    return f"notebooks/{file.name}" if file.suffix == ".ipynb" else None


def moved(text: str, written: Path, page: str) -> str:
    """The text of a file as a page of the site has it."""

    def target(link: re.Match) -> str | None:
        file = (written.parent / link[2]).resolve()
        if not file.exists():
            return link[2]  # no link, or one that is broken: MkDocs says so
        there = place(file)
        return there and os.path.relpath(there, Path(page).parent)

    def inline(link: re.Match) -> str:
        to = target(link)
        return f"[{link[1]}]({to}{link[3] or ''})" if to else link[1]

    def definition(link: re.Match) -> str:
        to = target(link)
        return f"{link[1]}{to}{link[3] or ''}" if to else ""

    return DEFINITION.sub(definition, LINK.sub(inline, text))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        path = str(notebook)
        files.append(File.generated(config, place(notebook), abs_src_path=path))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files):
    name = page.file.src_uri
    text = moved(markdown, DOCS / name, name)
    return INCLUDED.sub(
        lambda found: moved((ROOT / found[1]).read_text(), ROOT / found[1], name), text
    )
