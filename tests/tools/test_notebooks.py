"""The notebooks run from beginning to end; what they claim they assert."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, resources=where).execute()


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {"accelerate", "flows", "motion"}
