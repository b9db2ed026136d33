"""
The recommender behind the page: it finds titles, recommends, and says what the tokens of a SID mean. Knows nothing of
pages.
"""

import re
import unicodedata
from pathlib import Path

import numpy as np
from transformers.utils import cached_file

from tsrec_hf import TokenSemantics, TSRecForCausalLM, TSRecTokenizer


SEMANTICS_FILE = "description_keywords.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Titles shown of a token's cluster.
NUM_EXAMPLES = 4
# Characters of a query, and items.
MOST = {"query": 200, "limit": 100, "history": 1000, "top_k": 100}


class Recommender:
    """
    A checkpoint, and what its tokens mean.

    Args:
        checkpoint (`str`):
            Folder or Hub id of a trained model. The meanings are read from `description_keywords.json` in it, or, for
            a folder, from the one above it. Where there is none, tokens are explained by the titles of their cluster.
        revision (`str`, *optional*):
            Commit, branch or tag of a Hub id.

    Raises:
        `FileNotFoundError`: neither a folder nor a Hub id.
    """

    def __init__(self, checkpoint: str, revision: str | None = None):
        if not Path(checkpoint).is_dir() and not HUB_ID.fullmatch(checkpoint):
            raise FileNotFoundError(
                f"Expected the folder of a trained recommender, or a Hub id such as 'me/tsrec-industrial', but there "
                f"is no folder {checkpoint!r}. Make one with `make demo`, or name another."
            )
        hub = {} if revision is None else {"revision": revision}
        self.model = TSRecForCausalLM.from_pretrained(checkpoint, **hub)
        self.tokenizer = TSRecTokenizer.from_pretrained(checkpoint, **hub)
        self.index = self.tokenizer.sid_index
        self.semantics = find_semantics(checkpoint, revision)
        titles = self.index.titles or self.index.item_ids
        # Items without a title go by their id.
        self.titles = [title.strip() or item_id for title, item_id in zip(titles, self.index.item_ids)]
        self._searched = [f" {fold(title)}" for title in self.titles]

    def about(self) -> dict:
        """What the page says of the catalogue."""
        return {
            "num_items": len(self.index),
            "level_sizes": self.index.level_sizes,
            "max_history": self.tokenizer.max_history,
            "described": self.semantics is not None,
            "has_prior": self.tokenizer.prior is not None,
        }

    def title_of(self, item_id: str) -> str:
        return self.titles[self.index.position_of(item_id)]

    def search(self, query: str, limit: int = 12) -> dict:
        """
        Items with words that begin with those of `query`, in whatever case, with or without accents; the item of
        this id first, then titles that begin with the query, then the shorter ones.

        Args:
            query (`str`):
                Beginnings of words of the title, or an item id. Nothing finds some of the whole catalogue.
            limit (`int`, *optional*, defaults to `12`):
                Most items to return.

        Returns:
            `dict`: `items`, as `{"item_id", "title"}`, and `total`, how many were found.
        """
        _check_sizes(query=len(query), limit=limit)
        words = fold(query).split()
        if words:
            beginnings = [f" {word}" for word in words]
            found = [row for row, text in enumerate(self._searched) if all(word in text for word in beginnings)]
            start = f" {' '.join(words)}"
            found.sort(key=lambda row: (not self._searched[row].startswith(start), len(self._searched[row]), row))
            if query.strip() in self.index:
                row = self.index.position_of(query.strip())
                found = [row, *(other for other in found if other != row)]
        else:
            found = np.linspace(0, len(self.index) - 1, min(limit, len(self.index))).astype(int).tolist()
        total = len(found) if words else len(self.index)
        return {"items": [self._item(row) for row in found[:limit]], "total": total}

    def example(self, generator: np.random.Generator | None = None) -> list[str]:
        """Three items, or fewer, that share the first token of their SIDs: a history that hangs together."""
        generator = np.random.default_rng() if generator is None else generator
        first = self.index.codes[:, 0]
        alike = np.flatnonzero(first == generator.choice(first))
        return [self.index.item_ids[row] for row in generator.permutation(alike)[:3]]

    def recommend(
        self, history: list[str], top_k: int = 10, use_prior: bool = True, unknown_items: str = "error"
    ) -> list[dict]:
        """
        The items that the model, or the model and its prior together, give this history, without those in it.

        Args:
            history (`list[str]`):
                Item ids, oldest first.
            top_k (`int`, *optional*, defaults to `10`):
                How many.
            use_prior (`bool`, *optional*, defaults to `True`):
                Whether the checkpoint's fitted prior takes part, if it has one.
            unknown_items (`str`, *optional*, defaults to `"error"`):
                `"drop"` goes on without items of the history that the catalogue does not hold.

        Returns:
            `list[dict]`: Best first: `item_id`, `title`, `sid`, `score`, its two parts `log_prob` (the summed
            log-probability of its tokens) and `log_prior` (what the prior adds, or `None` without one), `sharing`
            (how many other items have this SID) and `tokens`, as [`Recommender.explain`] returns them.

        Raises:
            `KeyError`: an item that is not in the catalogue. `ValueError`: an empty history, or nothing left.
        """
        _check_sizes(history=len(history), top_k=top_k)
        num_beams = max(top_k, self.model.config.recommend_num_beams)
        [found] = self.model.recommend(
            self.tokenizer,
            [history],
            top_k=top_k,
            num_beams=num_beams,
            exclude_history=True,
            prior="fitted" if use_prior else None,
            unknown_items=unknown_items,
        )
        return [
            {
                "item_id": item.item_id,
                "title": self.title_of(item.item_id),
                "sid": item.sid,
                "score": item.score,
                "log_prob": item.score if item.log_prob is None else item.log_prob,
                "log_prior": item.log_prior,
                "sharing": len(self.index.items_of(item.sid)) - 1,
                "tokens": self.explain(item.item_id),
            }
            for item in found
        ]

    def explain(self, item_id: str) -> list[dict]:
        """
        What the tokens of an item's SID mean.

        Returns:
            `list[dict]`: For each level: `token`; `description` and `keywords`, `None` and empty where nobody
            described the token; `examples`, other titles that carry it; and `num_items`, how many carry it.
        """
        row = self.index.position_of(item_id)
        meanings = []
        for level, code in enumerate(self.index.codes[row].tolist()):
            token = self.index.tokens[level][code]
            known = self.semantics[token] if self.semantics is not None and token in self.semantics else None
            cluster = np.flatnonzero(self.index.codes[:, level] == code)
            # Catalogues list the same product more than once.
            others = dict.fromkeys(self.titles[other] for other in cluster if self.titles[other] != self.titles[row])
            meanings.append(
                {
                    "token": token,
                    "description": known.description if known else None,
                    "keywords": list(known.keywords) if known else [],
                    "examples": list(others)[:NUM_EXAMPLES],
                    "num_items": len(cluster),
                }
            )
        return meanings

    def _item(self, row: int) -> dict:
        return {"item_id": self.index.item_ids[row], "title": self.titles[row]}


def _check_sizes(**found: int) -> None:
    """Raises `ValueError` for more than a page, or a client of its API, has use for."""
    for name, size in found.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MOST[name]:
            raise ValueError(f"Expected `{name}` of at most {MOST[name]}, but found {size!r}. Ask for less.")


def fold(text: str) -> str:
    """Lower case, without accents, punctuation as spaces."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.findall(r"\w+", "".join(letter for letter in letters if not unicodedata.combining(letter))))


def find_semantics(checkpoint: str, revision: str | None = None) -> TokenSemantics | None:
    """The meanings in the checkpoint, or in the folder above it; `None` where there are none."""
    path = cached_file(checkpoint, SEMANTICS_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
    beside = Path(checkpoint).absolute().parent / SEMANTICS_FILE
    if path is None and Path(checkpoint).is_dir() and beside.is_file():
        path = beside
    return None if path is None else TokenSemantics.from_json(path)
