"""The search on its way down the tree of SIDs: what each level kept, how probable it is, and what was cut."""

import math
from html import escape
from textwrap import shorten

from cards import TAKEN, TITLE_WIDTH, percentage, token_html


def walk_html(steps: list[dict], taken_next: str | None) -> str:
    """
    A column for each level, from the first token on.

    Args:
        steps (`list[dict]`):
            As [`Recommender.walk`] returns them.
        taken_next (`str`, *optional*):
            Title of what the user took next.
    """
    columns = [_level(depth, step) for depth, step in enumerate(steps, start=1)]
    story = "" if taken_next is None else f'<p class="note">{_fate(steps, taken_next)}</p>'
    return (
        f'{story}<div class="walk">{"".join(columns)}</div>'
        '<p class="note">Every level continues what the one before it kept, the best first. The percentage is the '
        "probability with which the model writes these tokens. The bar compares what decides who is kept: the same, "
        "or, with a prior, the best score that an item below can have. Coloured bars lead to a recommended item.</p>"
    )


def _level(depth: int, step: dict) -> str:
    best = step["kept"][0]["score"]
    rows = "".join(_prefix(prefix, best) for prefix in step["kept"])
    more = step["num_kept"] - len(step["kept"])
    parts = [f"and {more:,} more kept"] if more else []
    if step["num_cut"]:
        cut = step["best_cut"]
        tokens = "".join(token_html(level, token) for level, token in enumerate(cut["tokens"]))
        parts.append(
            f'<span class="cut">✂ {step["num_cut"]:,} cut</span>, {percentage_of(step["cut_prob"])} together; '
            f'the best of them {tokens} {percentage(cut["log_prob"])}, {_titles(cut)}'
        )
    else:
        parts.append("nothing cut")
    if step["num_closed"]:
        parts.append(f"{step['num_closed']:,} closed: nothing but items of the history")
    notes = "".join(f'<p class="note">{part}</p>' for part in parts)
    return f"<section><h4>Token {depth}: {step['num_kept']:,} kept</h4><ol>{rows}</ol>{notes}</section>"


def _prefix(prefix: dict, best: float) -> str:
    tokens = "".join(token_html(level, token) for level, token in enumerate(prefix["tokens"]))
    kinds = " ".join(kind for kind in ("found", "taken") if prefix[kind])
    width = 100 * math.exp(prefix["score"] - best)
    return (
        f'<li class="{kinds}"><div class="head">{tokens}<span class="figure">{percentage(prefix["log_prob"])}</span>'
        f"{TAKEN if prefix['taken'] else ''}</div>"
        f'<span class="bar"><span style="width: {width:.1f}%"></span></span>'
        f"<p>{_titles(prefix)}</p></li>"
    )


def _titles(prefix: dict) -> str:
    titles = " · ".join(escape(shorten(title, TITLE_WIDTH, placeholder=" …")) for title in prefix["titles"])
    more = prefix["num_items"] - len(prefix["titles"])
    return f'<span class="examples">{titles}{f" · {more:,} more" if more > 0 else ""}</span>'


def _fate(steps: list[dict], title: str) -> str:
    """How far the search came on the way to what the user took next."""
    title = f"<strong>{escape(title)}</strong>"
    lost = next((depth for depth, step in enumerate(steps, start=1) if not step["taken"]), None)
    if lost is not None:
        return f"The way to {title}, which the user took next, was cut at token {lost}."
    return f"The way to {title}, which the user took next, was kept, at place {steps[-1]['taken']} in the end."


def percentage_of(probability: float) -> str:
    """As [`percentage`], of a probability that may be 0."""
    return percentage(math.log(probability)) if probability > 0 else "0 %"
