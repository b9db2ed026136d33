"""Text of any origin as Markdown: names come from folders, files and other people, and none may end a table."""

import re
from collections.abc import Sequence
from typing import Any


def as_line(value: Any) -> str:
    """Escapes a text as one line of Markdown in which nothing is markup."""
    text = re.sub(r"([\\`*])", r"\\\1", " ".join(str(value).split()))
    return text.replace("<", "&lt;").replace("](", r"]\(")


def as_sentence(value: Any) -> str:
    """Puts an author's own Markdown on one line. Links stay, comments do not: they delimit parts of the card."""
    return " ".join(str(value).split()).replace("<!--", "&lt;!--")


def as_code(value: Any) -> str:
    """Prepares a text to stand between backticks on one line."""
    return " ".join(str(value).split()).replace("`", "'").replace("<!--", "<!")


def as_cell(value: Any) -> str:
    """Escapes a text as a cell of a table, which a pipe or a line break would end."""
    return as_line(value).replace("|", r"\|")


def as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(as_cell, line))} |" for line in lines)
