"""
The page's lists as HTML. Buttons carry what they do in `data-action` and `data-item`; titles and descriptions are
anyone's text and always escaped.
"""

import math
from html import escape
from textwrap import shorten


# Tokens of like level have like colours; deeper levels begin again.
NUM_COLOURS = 4
# Characters of a title that stands as an example.
TITLE_WIDTH = 60
# On narrow screens the history stands below the cards.
JUMP = '<a class="jump" href="#choose">change the history ↓</a>'
# Marks what a real user took next.
TAKEN = '<span class="badge">taken next</span>'


def message_html(text: str, kind: str = "empty") -> str:
    """A line in place of a list: `kind` is `"empty"`, `"busy"`, `"error"` or `"about"`."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="message {kind}" role="{role}">{escape(text)}</p>'


def results_html(found: dict, query: str, history: list[str]) -> str:
    """What the search found: a button per item, greyed where the item is in the history."""
    if not found["items"]:
        return message_html(f"Nothing in the catalogue matches “{query.strip()}”. Try fewer or shorter words.")
    rows = []
    for item in found["items"]:
        taken = item["item_id"] in history
        rows.append(
            f'<li><button class="result" data-action="add" data-item="{escape(item["item_id"])}"'
            f'{" disabled" if taken else ""} title="{escape(item["title"])}">'
            f'<span class="item"><span class="title">{escape(item["title"])}</span>{details_html(item)}</span>'
            f'<span class="sign" aria-hidden="true">{"✓" if taken else "+"}</span></button></li>'
        )
    shown, total = len(found["items"]), found["total"]
    if found["is_close"]:
        note = f"No item has these words; {'this one is' if shown == 1 else f'these {shown} are'} close."
    elif not query.strip():
        note = f"{shown} of {total:,} items. Type to find others."
    elif shown < total:
        note = f"{shown} of {total:,} matches. Type more to narrow them down."
    else:
        note = f"{total:,} match{'' if total == 1 else 'es'}."
    return f'<ul class="results">{"".join(rows)}</ul><p class="note" role="status">{note}</p>'


def story_html(items: list[dict], taken_next: dict | None, place: int | None, num_found: int) -> str:
    """Whose history it is, and where, from 1, what they took next stands among `num_found` recommended items."""
    last = ", ".join(
        f"<em>{escape(shorten(item['title'], TITLE_WIDTH, placeholder=' …'))}</em>" for item in items[-3:]
    )
    after = f"{'… ' if len(items) > 3 else ''}{last}"
    if taken_next is None:
        return f'<p class="story">After {after}: {JUMP}</p>'
    where = f"number {place} of {num_found}" if place else f"not among {num_found}"
    return (
        f'<p class="story">A real user took {after}, and next <strong>{escape(taken_next["title"])}</strong>: '
        f'<span class="badge{"" if place else " missed"}">{where}</span> {JUMP}</p>'
    )


def history_html(items: list[dict], max_history: int) -> str:
    """The items that were clicked, oldest first; pale where the model no longer reads them."""
    if not items:
        return message_html("Empty. Search for titles and click them, in the order in which they were taken.")
    unread = max(0, len(items) - max_history)
    rows = [
        f'<li class="{"unread" if place < unread else ""}"><span class="title">{escape(item["title"])}</span>'
        f'<button data-action="remove" data-item="{escape(item["item_id"])}" '
        f'aria-label="Remove {escape(item["title"])}" title="Remove">×</button></li>'
        for place, item in enumerate(items)
    ]
    note = f'<p class="note">The model reads the last {max_history}.</p>' if unread else ""
    return f'<ol class="history">{"".join(rows)}</ol>{note}'


def details_html(item: dict) -> str:
    """Year, genre and brand, where they are known."""
    return f'<span class="details">{escape(" · ".join(item["details"]))}</span>' if item["details"] else ""


def recommendations_html(
    found: list[dict], history_tokens: set[str], described: bool, taken_next: str | None = None
) -> str:
    """The recommended items, best first, with their scores and the meaning of their tokens; one may be marked."""
    best = max(item["score"] for item in found)
    cards = [
        _card(place, item, best, history_tokens, item["item_id"] == taken_next)
        for place, item in enumerate(found, start=1)
    ]
    meaning = "" if described else " This checkpoint has no descriptions, so tokens are explained by their items."
    return (
        f'<ol class="cards">{"".join(cards)}</ol>'
        '<p class="note">The percentage is the probability with which the model writes these tokens next; the bar '
        f"compares the score with the first. Framed tokens occur in the history as well.{meaning}</p>"
    )


def _card(place: int, item: dict, best: float, history_tokens: set[str], is_taken: bool) -> str:
    title, item_id = escape(item["title"]), escape(item["item_id"])
    tokens = "".join(
        token_html(level, meaning["token"], _hint(meaning), meaning["token"] in history_tokens)
        for level, meaning in enumerate(item["tokens"])
    )
    meanings = "".join(_meaning(level, meaning) for level, meaning in enumerate(item["tokens"]))
    others = f"{item['sharing']} other item{'' if item['sharing'] == 1 else 's'}"
    sharing = f'<p class="note">Shares its tokens, and so its score, with {others}.</p>' if item["sharing"] else ""
    parts = f"log&nbsp;p&nbsp;{item['log_prob']:.2f}"
    if item["log_prior"] is not None:
        parts += f", prior&nbsp;{item['log_prior']:.2f}"
    return f"""
<li class="card{" taken" if is_taken else ""}">
  <div class="head">
    <span class="place">{place}</span>
    <span class="item"><span class="title">{title}</span>{TAKEN if is_taken else ""}{details_html(item)}</span>
    <button data-action="add" data-item="{item_id}" aria-label="Add {title} to the history">+ add</button>
  </div>
  <div class="score" title="score {item['score']:.2f}">
    <span class="bar"><span style="width: {100 * math.exp(item['score'] - best):.1f}%"></span></span>
    <span class="figure">{percentage(item['log_prob'])}</span>
    <span class="log">{parts}</span>
  </div>
  <details{" open" if place == 1 else ""}>
    <summary><span class="tokens">{tokens}</span><span class="more">what it means</span></summary>
    <dl>{meanings}</dl>{sharing}
  </details>
</li>"""


def token_html(level: int, token: str, hint: str = "", is_known: bool = False) -> str:
    """A token in the colour of its level, with a hint for those who point at it; framed where it is known."""
    return (
        f'<code class="token level-{level % NUM_COLOURS}{" known" if is_known else ""}" title="{escape(hint)}">'
        f"{escape(token)}</code>"
    )


def _hint(meaning: dict) -> str:
    return meaning["description"] or ", ".join(meaning["examples"])


def _meaning(level: int, meaning: dict) -> str:
    token = token_html(level, meaning["token"])
    parts = []
    if meaning["description"]:
        parts.append(f"<p>{escape(meaning['description'])}</p>")
    if meaning["keywords"]:
        words = "".join(f"<span>{escape(word)}</span>" for word in meaning["keywords"][:8])
        parts.append(f'<p class="keywords">{words}</p>')
    if meaning["examples"]:
        titles = " · ".join(escape(shorten(title, TITLE_WIDTH, placeholder=" …")) for title in meaning["examples"])
        parts.append(f'<p class="examples">{meaning["num_items"]:,} items, such as {titles}</p>')
    else:
        others = meaning["num_items"] - 1
        text = f"{others:,} more of the same title" if others else "No other item has this token"
        parts.append(f'<p class="examples">{text}.</p>')
    return f"<dt>{token}</dt><dd>{''.join(parts)}</dd>"


def percentage(score: float) -> str:
    """A log-probability as a percentage with two digits that say something."""
    share = 100 * math.exp(score)
    if share < 0.01:
        return "< 0.01 %"
    return f"{share:.0f} %" if share >= 10 else f"{share:.1f} %" if share >= 1 else f"{share:.2f} %"
