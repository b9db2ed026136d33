"""Lists beside each other: the model, popularity, and the model fused with its prior."""

from html import escape

from cards import TAKEN, details_html


NAMES = {"fused": "Model and prior", "model": "Model alone", "popularity": "Popularity"}
MISSING = {
    "fused": "No prior was fitted for this checkpoint: `fit_prior` does it.",
    "popularity": "The index of this checkpoint has no training counts.",
}


def lists_html(lists: dict[str, list[dict] | None], taken_next: str | None) -> str:
    """
    A column for each list. Items that only one list has stand out, and so does what the user took next.

    Args:
        lists (`dict`):
            As [`Recommender.compare`] returns them.
        taken_next (`str`, *optional*):
            Item id of what the user took next.
    """
    columns = []
    for name, heading in NAMES.items():
        others = {item["item_id"] for other, items in lists.items() if other != name for item in items or ()}
        columns.append(f"<section><h4>{heading}</h4>{_column(name, lists[name], others, taken_next)}</section>")
    return (
        f'<div class="lists">{"".join(columns)}</div>'
        '<p class="note">Dots mark items that no other list has. Items of the history are in none.</p>'
    )


def _column(name: str, items: list[dict] | None, others: set[str], taken_next: str | None) -> str:
    if items is None:
        return f'<p class="note">{escape(MISSING[name])}</p>'
    rows = []
    for item in items:
        is_taken, is_own = item["item_id"] == taken_next, item["item_id"] not in others
        kinds = " ".join(kind for kind, holds in (("taken", is_taken), ("own", is_own)) if holds)
        rows.append(
            f'<li class="{kinds}"><button data-action="add" data-item="{escape(item["item_id"])}" '
            f'title="Add to the history"><span class="title">{escape(item["title"])}</span>'
            f'{TAKEN if is_taken else ""}{details_html(item)}</button></li>'
        )
    return f'<ol>{"".join(rows)}</ol>'
