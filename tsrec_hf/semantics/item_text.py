"""Convert the row of an item to text, for all teachers."""

from collections.abc import Mapping
from typing import Any


def title_of(item: Mapping[str, Any]) -> str:
    """Returns an item's title, or an empty string."""
    return _words_of(item.get("title")).strip()


def text_of(item: Mapping[str, Any]) -> str:
    """Returns title and description, or the other text columns if both are empty."""
    text = f"{title_of(item)}\n{_words_of(item.get('description'))}".strip()
    return text or "\n".join(_words_of(value) for name, value in item.items() if name != "item_id").strip()


def _words_of(value: Any) -> str:
    """Returns the text of a string or a list of strings, such as genres; empty for other types."""
    if isinstance(value, str):
        return value
    return "\n".join(part for part in value if isinstance(part, str)) if isinstance(value, list) else ""
