"""
The recommender behind the page: it recommends, compares lists, tells how a search went and what the tokens of a SID
mean. Knows nothing of pages.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from catalogue import Catalogue
from source import check_source
from transformers.utils import cached_file

from tsrec_hf import Showcase, TokenSemantics, TSRecForCausalLM, TSRecTokenizer, trace_search
from tsrec_hf.models import Prefix


SEMANTICS_FILE, SHOWCASE_FILE = "description_keywords.json", "showcase.json"
# Titles shown of a token's cluster, and prefixes of a level of the search.
NUM_EXAMPLES, NUM_PREFIXES = 4, 8
# Characters of a query, and items.
MOST = {"query": 200, "limit": 100, "history": 1000, "top_k": 100}


class Recommender:
    """
    A checkpoint, what its tokens mean, and what a page shows of its catalogue.

    Args:
        checkpoint (`str`):
            Folder or Hub id of a trained model. The meanings are read from `description_keywords.json` in it, or, for
            a folder, from the one above it; real histories and fields of the items from `showcase.json`, in the same
            way. Without the first, tokens are explained by the titles of their cluster; without the second, examples
            are made up and titles stand alone.
        revision (`str`, *optional*):
            Commit, branch or tag of a Hub id.

    Raises:
        `FileNotFoundError`: neither a folder with a recommender nor a Hub id.
    """

    def __init__(self, checkpoint: str, revision: str | None = None):
        check_source(checkpoint, revision)
        hub = {} if revision is None else {"revision": revision}
        self.model = TSRecForCausalLM.from_pretrained(checkpoint, **hub)
        self.tokenizer = TSRecTokenizer.from_pretrained(checkpoint, **hub)
        self.index = self.tokenizer.sid_index
        path = find_file(SEMANTICS_FILE, checkpoint, revision)
        self.semantics = None if path is None else TokenSemantics.from_json(path)
        path = find_file(SHOWCASE_FILE, checkpoint, revision)
        showcase = Showcase({}, []) if path is None else Showcase.load(path)
        self.catalogue = Catalogue(self.index, showcase.fields)
        # The catalogue may have changed since the histories were drawn.
        users = [user for user in showcase.users if all(one in self.index for one in (*user.history, user.target))]
        self.users = {tuple(user.history): user.target for user in users}

    def about(self) -> dict:
        """What the page says of the catalogue."""
        return {
            "num_items": len(self.index),
            "level_sizes": self.index.level_sizes,
            "max_history": self.tokenizer.max_history,
            "described": self.semantics is not None,
            "has_prior": self.tokenizer.prior is not None,
            "max_items": MOST["history"],
        }

    def items(self, item_ids: list[str]) -> list[dict]:
        """What is shown of some items, as [`Catalogue.item`]; raises `KeyError` for one that is not there."""
        return [self.catalogue.item(row) for row in self.index.positions_of(item_ids)]

    def tokens_in(self, history: list[str]) -> set[str]:
        """The tokens of the SIDs of some items."""
        return {token for item in history for token in self._tokens(item)}

    def search(self, query: str, limit: int = 12) -> dict:
        """As [`Catalogue.search`], in bounds."""
        _check_sizes(query=len(query), limit=limit)
        return self.catalogue.search(query, limit)

    def known(self, item_ids: list[str]) -> list[str]:
        """Those of some items that the catalogue holds, at most as many as a history has."""
        return [item for item in item_ids if item in self.index][-MOST["history"] :]

    def example(self, other_than: Sequence[str] = (), generator: np.random.Generator | None = None) -> list[str]:
        """
        The last items of a real user, drawn among popular histories. Where the checkpoint carries none: three items,
        or fewer, that share the first token of their SIDs, the popular ones more often.
        """
        generator = np.random.default_rng() if generator is None else generator
        others = [history for history in self.users if history != tuple(other_than)]
        if others:
            return list(others[generator.integers(len(others))])
        first = self.index.codes[:, 0]
        weights = np.ones(len(self.index)) if self.index.counts is None else self.index.counts + 1.0
        alike = np.flatnonzero(first == generator.choice(first, p=weights / weights.sum()))
        shares = weights[alike] / weights[alike].sum()
        rows = generator.choice(alike, size=min(3, len(alike)), replace=False, p=shares)
        return [self.index.item_ids[row] for row in rows]

    def taken_next(self, history: list[str]) -> dict | None:
        """What the real user of this history took next; `None` for a history that was clicked together."""
        target = self.users.get(tuple(history))
        return None if target is None else self.items([target])[0]

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
            `list[dict]`: Best first: `item_id`, `title`, `details`, `sid`, `score`, its two parts `log_prob` (the
            summed log-probability of its tokens) and `log_prior` (what the prior adds, or `None` without one),
            `sharing` (how many other items have this SID) and `tokens`, as [`Recommender.explain`] returns them.

        Raises:
            `KeyError`: an item that is not in the catalogue. `ValueError`: an empty history, or nothing left.
        """
        _check_sizes(history=len(history), top_k=top_k)
        options = {**self._options(top_k, use_prior), "unknown_items": unknown_items}
        [found] = self.model.recommend(self.tokenizer, [history], **options)
        return [
            {
                **shown,
                "sid": item.sid,
                "score": item.score,
                "log_prob": item.score if item.log_prob is None else item.log_prob,
                "log_prior": item.log_prior,
                "sharing": len(self.index.items_of(item.sid)) - 1,
                "tokens": self.explain(item.item_id),
            }
            for item, shown in zip(found, self.items([item.item_id for item in found]))
        ]

    def compare(self, history: list[str], top_k: int = 10) -> dict[str, list[dict] | None]:
        """
        Lists beside each other for one history, each without the items in it.

        Returns:
            `dict`: Items, best first, of `model`, the model alone; `popularity`, by training counts, or `None` where
            the index has none; and `fused`, the model and its prior, or `None` where nothing was fitted.
        """
        _check_sizes(history=len(history), top_k=top_k)
        lists: dict[str, list[dict] | None] = {"model": None, "popularity": None, "fused": None}
        for name, use_prior in (("model", False), ("fused", True)):
            if name == "model" or self.tokenizer.prior is not None:
                [found] = self.model.recommend(self.tokenizer, [history], **self._options(top_k, use_prior))
                lists[name] = self.items([item.item_id for item in found])
        if self.index.counts is not None:
            rows = np.argsort(-self.index.counts, kind="stable")[: top_k + len(history)].tolist()
            items = [self.index.item_ids[row] for row in rows]
            lists["popularity"] = self.items([item for item in items if item not in history][:top_k])
        return lists

    def walk(self, history: list[str], top_k: int = 10, use_prior: bool = True) -> list[dict]:
        """
        How the search of these recommendations went down the tree of SIDs.

        Returns:
            `list[dict]`: For each level: `kept`, the best prefixes that went on, as dictionaries of `tokens`,
            `log_prob`, `score`, `num_items`, `titles` (items below it, the popular first), `found` (whether a
            recommended item is below it) and `taken` (whether what the user took next is); `num_kept`, how many there
            are of them; `num_cut`, `best_cut` (such a dictionary, or `None`) and `cut_prob`, the probability of all
            that were cut; `num_closed`, prefixes that lead only to items of the history; and `taken`, the place, from
            1, of the prefix of what the user took next among all that were kept, 0 where it was not kept, or `None`.
        """
        _check_sizes(history=len(history), top_k=top_k)
        trace = trace_search(self.model, self.tokenizer, history, **self._options(top_k, use_prior))
        target = self.users.get(tuple(history))
        wanted = () if target is None else self._tokens(target)
        sids = [self._tokens(item.item_id) for item in trace.items]
        steps = []
        for depth, step in enumerate(trace.steps, start=1):
            found = {sid[:depth] for sid in sids}
            kept = [prefix.tokens for prefix in step.kept]
            place = kept.index(wanted[:depth]) + 1 if wanted[:depth] in kept else 0
            shown = step.kept[:NUM_PREFIXES]
            if place > NUM_PREFIXES:
                shown = [*shown, step.kept[place - 1]]
            steps.append(
                {
                    "kept": [self._prefix(prefix, found, wanted) for prefix in shown],
                    "num_kept": len(kept),
                    "num_cut": step.num_cut,
                    "best_cut": None if step.best_cut is None else self._prefix(step.best_cut, found, wanted),
                    "cut_prob": step.cut_prob,
                    "num_closed": step.num_closed,
                    "taken": None if target is None else place,
                }
            )
        return steps

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
            titles = self.catalogue.titles
            others = dict.fromkeys(titles[other] for other in cluster if titles[other] != titles[row])
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

    def _tokens(self, item_id: str) -> tuple[str, ...]:
        codes = self.index.codes[self.index.position_of(item_id)].tolist()
        return tuple(level[code] for level, code in zip(self.index.tokens, codes))

    def _options(self, top_k: int, use_prior: bool) -> dict:
        """Options of all searches of the page."""
        return {
            "top_k": top_k,
            "num_beams": max(top_k, self.model.config.recommend_num_beams),
            "exclude_history": True,
            "prior": "fitted" if use_prior else None,
        }

    def _prefix(self, prefix: Prefix, found: set[tuple[str, ...]], wanted: tuple[str, ...]) -> dict:
        depth = len(prefix.tokens)
        codes = [level.index(token) for level, token in zip(self.index.tokens, prefix.tokens)]
        rows = np.flatnonzero((self.index.codes[:, :depth] == codes).all(axis=1))
        if self.index.counts is not None:
            rows = rows[np.argsort(-self.index.counts[rows], kind="stable")]
        return {
            **prefix._asdict(),
            "titles": [self.catalogue.titles[row] for row in rows[:NUM_EXAMPLES]],
            "found": prefix.tokens in found,
            "taken": prefix.tokens == wanted[:depth],
        }


def _check_sizes(**found: int) -> None:
    """Raises `ValueError` for more than a page, or a client of its API, has use for."""
    for name, size in found.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MOST[name]:
            raise ValueError(f"Expected `{name}` of at most {MOST[name]}, but found {size!r}. Ask for less.")


def find_file(name: str, checkpoint: str, revision: str | None = None) -> Path | None:
    """A file of the checkpoint, or of the folder above it; `None` where there is none."""
    found = cached_file(checkpoint, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    beside = Path(checkpoint).absolute().parent / name
    if found is None and Path(checkpoint).is_dir() and beside.is_file():
        found = beside
    return None if found is None else Path(found)
