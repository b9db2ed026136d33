"""How an item's row is read as text, the same way by every teacher."""

from collections.abc import Mapping
from typing import Any


def title_of(item: Mapping[str, Any]) -> str:
    """An item's title, empty if it has none."""
    return _words_of(item.get("title")).strip()


def text_of(item: Mapping[str, Any]) -> str:
    """Title and description; the other text columns if both are empty."""
    text = f"{title_of(item)}\n{_words_of(item.get('description'))}".strip()
    return text or "\n".join(_words_of(value) for name, value in item.items() if name != "item_id").strip()


def _words_of(value: Any) -> str:
    """A column's words: strings and lists of strings, such as genres; anything else has none."""
    if isinstance(value, str):
        return value
    return "\n".join(part for part in value if isinstance(part, str)) if isinstance(value, list) else ""
