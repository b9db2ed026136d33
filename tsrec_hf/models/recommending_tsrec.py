"""
Turns histories of item ids into ranked items.

A history is checked, encoded, padded, searched and turned into items, each once and in this order. The options are
those of [`TSRecForCausalLM.recommend`], whose signature is the one list of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from .filtering_tsrec import ItemFilter
from .given_priors_tsrec import as_prior
from .indexing_tsrec import SIDIndex
from .item_prior_tsrec import ItemPrior
from .prior_search_tsrec import Fusion, NodePrior, SearchPrior
from .prompting_tsrec import PromptBuilder
from .ranking_tsrec import best_of
from .search_tsrec import TreeBeams
from .session_tsrec import SearchSession


logger = logging.get_logger(__name__)

# One set of items for all users, or a set for each; also as a mask from `SIDIndex.mask_of`.
ItemSet = Iterable[str] | Sequence[Iterable[str]]


class Recommendation(NamedTuple):
    """
    One recommended item: its id, its SID as a string, its score, and its title where the index has titles.

    Without a prior the score is the SID's log-probability given the history. With one it is the two combined, and
    both stand beside it: `log_prob` of the model, of which items that share a SID have an even share, and `log_prior`,
    the term that the prior adds: `weight * log prior` in the log-linear form, `log(weight * prior)` in a mixture.

    Example:

    ```python
    >>> from tsrec_hf import Recommendation

    >>> Recommendation(item_id="nail", sid="<a_0><b_1><c_0>", score=-1.5).item_id
    'nail'
    ```
    """

    item_id: str
    sid: str
    score: float
    title: str | None = None
    log_prob: float | None = None
    log_prior: float | None = None


def recommend_items(
    session: SearchSession,
    histories: Sequence[Sequence[str]],
    top_k: int,
    num_beams: int,
    batch_size: int,
    progress: bool,
    allowed_items: ItemSet | None,
    exclude_items: ItemSet | None,
    exclude_history: bool,
    search: str,
    max_batch_tokens: int,
    prior: Any,
    prior_form: str | None,
    prior_weight: float | None,
    unknown_items: str,
) -> list[list[Recommendation]]:
    """Implements [`TSRecForCausalLM.recommend`], which documents the arguments, with a session of its scoring."""
    index, prompts = session.index, session.prompts
    counts = {"top_k": top_k, "num_beams": num_beams, "batch_size": batch_size, "max_batch_tokens": max_batch_tokens}
    _check_options(counts, {"progress": progress, "exclude_history": exclude_history}, search, unknown_items)
    _check_beams(top_k, num_beams, search, index)
    if hasattr(histories, "iloc"):
        histories = list(histories)  # a pandas column, whose `[...]` goes by label
    _check_histories(histories)
    if unknown_items == "drop":
        histories = _known_items(prompts, histories)
    # Every history is checked before the first one is searched, but prompts are encoded a batch at a time. Those that
    # nothing is left of get no list.
    served = [user for user, history in enumerate(histories) if unknown_items == "error" or history]
    lengths = [len(index.positions_of(prompts.kept_history(histories[user]))) * index.num_levels for user in served]
    item_filter = None
    if allowed_items is not None or exclude_items is not None or exclude_history:
        past = histories if exclude_history else None
        item_filter = ItemFilter(index, session.trie, len(histories), allowed_items, exclude_items, past)
    search_prior = _search_prior(session, prior, prior_form, prior_weight, item_filter)
    results: list[list[Recommendation]] = [[] for _ in range(len(histories))]
    num_expanded = 0
    with torch.inference_mode(), tqdm(total=len(lengths), desc="Recommending", disable=not progress) as bar:
        tree_tokens = num_beams * (index.num_levels - 1)
        for batch in batches_of(lengths, 1 if search == "exact" else batch_size, max_batch_tokens, tree_tokens):
            users = [served[place] for place in batch]
            inputs = session.pad([prompts.history_ids(histories[user]) for user in users])
            rules = None if item_filter is None else item_filter.batch(users)
            own_prior = None
            if search_prior is not None:
                item_prior, compiler = search_prior
                own_prior = compiler.batch(item_prior.weights_of(histories, users), users)
            if search == "exact":
                num_leaves = min(top_k, session.trie.num_leaves)
                beams = session.search.exact(*inputs, num_leaves, num_beams, rules, own_prior)
            else:
                beams = session.search.beam(*inputs, num_beams, rules, top_k=top_k, prior=own_prior)
            _check_scores(beams.scores, session.dtype)
            for row, user in enumerate(users):
                results[user] = _items_of_beams(session, beams, row, top_k, user, item_filter, own_prior)
            bar.update(len(users))
            if search == "exact":
                num_expanded += int(beams.num_expanded)
                bar.set_postfix(expanded_per_user=f"{num_expanded / bar.n:.0f}" if progress else None)
    if search == "exact" and lengths:
        logger.info(
            f"Exact search: {num_expanded / len(lengths):.1f} prefixes expanded per user, of "
            f"{session.trie.num_nodes - session.trie.num_leaves} that the catalogue has."
        )
    return results


def batches_of(lengths: list[int], batch_size: int, max_tokens: int, tree_tokens: int) -> Iterator[list[int]]:
    """
    Users in batches of like length, the longest first, so that little of a batch is padding.

    Args:
        lengths (`list[int]`):
            Tokens of each user's prompt.
        batch_size (`int`):
            Most users of a batch.
        max_tokens (`int`):
            Most tokens of a batch, prompts and trees; a user who is above that alone is a batch of one.
        tree_tokens (`int`):
            Tokens of a user's search tree behind the prompt.
    """
    order = sorted(range(len(lengths)), key=lambda user: lengths[user], reverse=True)
    start = 0
    while start < len(order):
        fitting = max_tokens // (lengths[order[start]] + tree_tokens)
        stop = start + max(1, min(batch_size, fitting))
        yield order[start:stop]
        start = stop


def _check_options(counts: dict[str, Any], flags: dict[str, Any], search: Any, unknown_items: Any) -> None:
    """Options as callers, JSON requests and command lines give them; a string would pass for a number or a flag."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            kind = ValueError if isinstance(value, Integral) and not isinstance(value, bool) else TypeError
            raise kind(f"Expected `{name}` as a whole number of at least 1, but found {value!r}.")
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"Expected `{name}` to be True or False, but found {value!r}.")
    for name, value, known in (
        ("search", search, ("beam", "exact")),
        ("unknown_items", unknown_items, ("error", "drop")),
    ):
        if value not in known:
            raise ValueError(f"Expected `{name}` to be {known[0]!r} or {known[1]!r}, but found {value!r}.")


def _check_beams(top_k: int, num_beams: int, search: str, index: SIDIndex) -> None:
    if search == "beam" and num_beams < min(top_k, index.trie.num_leaves):
        raise ValueError(
            f"Expected at least as many beams as items, but found num_beams={num_beams} and top_k={top_k}. "
            f"Pass `num_beams={top_k}` or more."
        )


def _known_items(prompts: PromptBuilder, histories: Sequence[Sequence[str]]) -> list[list[str]]:
    """Histories without the items that the catalogue does not hold, of which a warning tells."""
    for history in histories:
        prompts.kept_history(history)  # raises for what is no history
    known = [[item for item in history if item in prompts.sid_index] for history in histories]
    dropped = sum(len(own) < len(history) for own, history in zip(known, histories))
    if dropped:
        emptied = sum(not own for own in known)
        logger.warning(
            f"{dropped} of {len(known)} histories name items that the catalogue does not hold, which were dropped; "
            f"{emptied} have none left and get an empty list."
        )
    return known


def _check_histories(histories: Any) -> None:
    if hasattr(histories, "column_names") or isinstance(histories, Mapping) or not hasattr(histories, "__len__"):
        raise TypeError(
            "Expected `histories` as a list of lists of item ids, or a column of a data set, but found "
            f"`{type(histories).__name__}`. Pass `rows['history']` of a data set, `list(...)` of a generator, or "
            'stream through `pipeline("recommendation")`.'
        )
    if isinstance(histories, str) or (len(histories) and isinstance(histories[0], str)):
        raise TypeError(
            "Expected `histories` as a list of lists of item ids, one list per user, but found a single list of "
            "ids. Pass `[history]` for one user."
        )


def _check_scores(scores: torch.Tensor, dtype: torch.dtype) -> None:
    if scores.isnan().any():
        raise ValueError(
            f"Expected scores that are numbers, but the model's are NaN (its weights are {dtype}). Its weights may "
            "have diverged, or overflow in float16: load it with `dtype=torch.bfloat16`."
        )


def _search_prior(
    session: SearchSession,
    prior: Any,
    form: str | None,
    weight: float | None,
    item_filter: ItemFilter | None,
) -> tuple[ItemPrior, SearchPrior] | None:
    """The prior of a call, and what bounds it over the trie."""
    fitted = None
    if isinstance(prior, str):
        if prior != "fitted":
            raise ValueError(f"Expected `prior` to be 'fitted', None or an item prior, but found {prior!r}.")
        prior, fitted = session.fitted_prior or (None, None)
    if prior is None:
        return None
    fitted = fitted or Fusion()
    fusion = Fusion(fitted.form if form is None else form, fitted.weight if weight is None else weight)
    return as_prior(prior, session.index), SearchPrior(session.trie, fusion, item_filter)


def _items_of_beams(
    session: SearchSession,
    beams: TreeBeams,
    row: int,
    top_k: int,
    user: int,
    item_filter: ItemFilter | None,
    prior: NodePrior | None,
) -> list[Recommendation]:
    """The items of a user's SIDs, best first; those that share a SID by prior, then by training count."""
    index = session.index
    found: list[Recommendation] = []
    columns = (beams.leaves[row].tolist(), beams.scores[row].tolist(), beams.log_probs[row].tolist())
    for leaf, score, log_prob in zip(*columns):
        if score == -torch.inf or (prior is None and len(found) >= top_k):
            break
        rows = session.items_of(leaf)
        sid = index.spell(index.codes[rows[0]])
        if item_filter is not None:
            rows = item_filter.allows(user, rows)
        for item in rows:
            title = None if index.titles is None else index.titles[item]
            found.append(Recommendation(index.item_ids[item], sid, score, title))
            if prior is not None:
                items = torch.tensor([item], device=session.device)
                term = prior.item_terms(items, torch.tensor([row], device=session.device))
                own = prior.item_log_probs(session.trie.depth_starts[-2] + leaf, term.new_tensor([log_prob]))
                combined = prior.fusion.combine(own, term)
                found[-1] = found[-1]._replace(score=combined.item(), log_prob=own.item(), log_prior=term.item())
    if prior is not None:
        found = [item for item in found if item.score > -torch.inf]
        scores = torch.tensor([item.score for item in found])
        numbers = torch.tensor(index.positions_of([item.item_id for item in found]), dtype=torch.long)
        found = [found[place] for place in best_of(scores, numbers, min(top_k, len(found))).tolist()] if found else []
    return found[:top_k]
