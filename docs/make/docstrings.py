"""Docstrings as Markdown: "::" before a formula, of reStructuredText, becomes ":"."""

import re
from typing import Any

import griffe


class Formulas(griffe.Extension):
    """A formula is then an indented block of Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = re.sub(r"^::\n", "", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r" ?::\n", ":\n", text)
