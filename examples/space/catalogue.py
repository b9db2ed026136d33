"""The items as the page shows and finds them: title, year, genre and brand. Knows nothing of models."""

import re
import unicodedata
from collections import defaultdict
from functools import cached_property

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import JaroWinkler
from titles import written_title

from tsrec_hf import SIDIndex


# From this likeness on a word counts as misspelled: "godfahter", but not "father", is like "godfather".
LIKENESS = 0.88
# Words that a misspelled one may stand for.
MOST_WORDS = 50


class Catalogue:
    """
    Titles and fields of the items, and a search over both.

    Args:
        index ([`SIDIndex`]):
            The items, with their titles. Items without a title go by their id.
        fields (`dict[str, dict[str, str]]`):
            For items that have them, `year`, `genre` and `brand`, as in [`Showcase`].
    """

    def __init__(self, index: SIDIndex, fields: dict[str, dict[str, str]]):
        self.index = index
        self.titles, self.details = [], []
        for item_id, given in zip(index.item_ids, index.titles or index.item_ids):
            title, year = written_title(given)
            own = {"year": year, **fields.get(item_id, {})}
            self.titles.append(title or item_id)
            self.details.append([own[name] for name in ("year", "genre", "brand") if own.get(name)])
        self._folded = [f" {fold(title)}" for title in self.titles]
        self._searched = [f"{title} {fold(' '.join(details))}" for title, details in zip(self._folded, self.details)]

    def item(self, row: int) -> dict:
        """What is shown of an item: `item_id`, `title` and `details`."""
        return {"item_id": self.index.item_ids[row], "title": self.titles[row], "details": self.details[row]}

    def search(self, query: str, limit: int) -> dict:
        """
        Items with words, in what is shown of them, that begin with those of `query`, in whatever case, with or without
        accents; the item of this id first, then titles that begin with the query, then the shorter ones. Where there
        are none, items with words like those of the query.

        Args:
            query (`str`):
                Beginnings of words, or an item id. Nothing finds some of the whole catalogue.
            limit (`int`):
                Most items to return.

        Returns:
            `dict`: `items`, `total`, how many were found, and `is_close`, whether they are only like the query.
        """
        words = fold(query).split()
        if not words:
            some = np.linspace(0, len(self.index) - 1, min(limit, len(self.index))).astype(int).tolist()
            return {"items": [self.item(row) for row in some], "total": len(self.index), "is_close": False}
        found = self._beginning_with(words)
        if query.strip() in self.index:
            row = self.index.position_of(query.strip())
            found = [row, *(other for other in found if other != row)]
        is_close = not found
        found = found or self._like(words)
        return {
            "items": [self.item(row) for row in found[:limit]],
            "total": len(found),
            "is_close": is_close and bool(found),
        }

    def _beginning_with(self, words: list[str]) -> list[int]:
        beginnings, start = [f" {word}" for word in words], f" {' '.join(words)}"
        found = [row for row, text in enumerate(self._searched) if all(word in text for word in beginnings)]
        found.sort(key=lambda row: (not self._folded[row].startswith(start), len(self._folded[row]), row))
        return found

    def _like(self, words: list[str]) -> list[int]:
        """Items that have, for every word, one like it; the most alike first."""
        scores: list[dict[int, float]] = []
        for word in words:
            own: dict[int, float] = {}
            alike = process.extract(
                word, self._vocabulary, scorer=JaroWinkler.similarity, score_cutoff=LIKENESS, limit=MOST_WORDS
            )
            for _, likeness, place in reversed(alike):
                own |= dict.fromkeys(self._rows_of[self._vocabulary[place]], likeness)
            scores.append(own)
        rows = set.intersection(*map(set, scores))
        return sorted(rows, key=lambda row: (-sum(own[row] for own in scores), len(self._folded[row]), row))

    @cached_property
    def _rows_of(self) -> dict[str, list[int]]:
        """Items by the words that are shown of them."""
        rows = defaultdict(list)
        for row, text in enumerate(self._searched):
            for word in set(text.split()):
                rows[word].append(row)
        return dict(rows)

    @cached_property
    def _vocabulary(self) -> list[str]:
        return list(self._rows_of)


def fold(text: str) -> str:
    """Lower case, without accents, punctuation as spaces."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.findall(r"\w+", "".join(letter for letter in letters if not unicodedata.combining(letter))))
