"""How a search went: the prefixes that each level of the trie kept, their probabilities, and what was cut."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .recommending_tsrec import Recommendation, recommend_items
from .search_tsrec import SIDSearch
from .session_tsrec import SearchSession


if TYPE_CHECKING:
    from .modeling_tsrec import TSRecForCausalLM
    from .tokenization_tsrec import TSRecTokenizer


class Prefix(NamedTuple):
    """
    The beginning of a SID on the way of a search.

    Attributes:
        tokens (`tuple[str, ...]`): Its tokens.
        log_prob (`float`): Their summed log-probability, given the history.
        score (`float`): What decides whether it survives: the log-probability, or, with a prior, the two combined for
            the item below it that the prior likes best.
        num_items (`int`): Items of the catalogue below it.
    """

    tokens: tuple[str, ...]
    log_prob: float
    score: float
    num_items: int


@dataclass(frozen=True)
class SearchStep:
    """
    One level of a search: children of the prefixes that the level above kept.

    Attributes:
        kept (`list[Prefix]`): Those that go on, best first.
        num_cut (`int`): How many did not, since others were better.
        best_cut ([`Prefix`], *optional*): The best of those.
        cut_prob (`float`): Probability that the model gives to all of those together.
        num_closed (`int`): Prefixes that lead only to items that may not be recommended.
    """

    kept: list[Prefix]
    num_cut: int
    best_cut: Prefix | None
    cut_prob: float
    num_closed: int


@dataclass(frozen=True)
class SearchTrace:
    """
    Result of [`trace_search`].

    Attributes:
        steps (`list[SearchStep]`): The levels, from the first token on; none for a history that nothing is left of.
        items (`list[Recommendation]`): What the search found: those that `recommend` returns.
    """

    steps: list[SearchStep]
    items: list[Recommendation]


class TracedSearch(SIDSearch):
    """A beam search for one user that remembers what each level kept and cut."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.levels: list[dict[str, torch.Tensor]] = []

    def _pays_to_prune(self, input_ids: torch.Tensor, num_beams: int, top_k: int) -> bool:
        # A pruned search leaves out prefixes that cannot matter; here they are what is asked for.
        return False

    def _note(self, nodes, children, candidates, keys, chosen) -> None:
        noted = {"nodes": nodes, "children": children, "log_probs": candidates, "scores": keys, "chosen": chosen}
        self.levels.append({name: part[0] for name, part in noted.items()})


def trace_search(
    model: "TSRecForCausalLM",
    tokenizer: "TSRecTokenizer",
    history: Sequence[str],
    top_k: int = 10,
    num_beams: int | None = None,
    allowed_items: Iterable[str] | None = None,
    exclude_items: Iterable[str] | None = None,
    exclude_history: bool = False,
    scoring: str = "catalogue",
    prior: Any = "fitted",
    prior_form: str | None = None,
    prior_weight: float | None = None,
    unknown_items: str = "error",
) -> SearchTrace:
    r"""
    Recommends items to one user, by beam search, and tells how the search went down the tree of SIDs.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender.
        tokenizer ([`TSRecTokenizer`]):
            Its tokenizer.
        history (`Sequence[str]`):
            Item ids of the user, oldest first.
        top_k, num_beams, allowed_items, exclude_items, exclude_history, scoring, prior, prior_form, prior_weight,
        unknown_items (*optional*):
            As [`TSRecForCausalLM.recommend`]'s.

    Returns:
        [`SearchTrace`]: A [`SearchStep`] for each level, and the items.

    Raises:
        `KeyError`, `TypeError`, `ValueError`: as `recommend`.

    Example:

    ```python
    >>> from tsrec_hf import trace_search

    >>> trace = trace_search(model, tokenizer, ["hammer"], top_k=2, num_beams=2)
    >>> [(len(step.kept), step.num_cut) for step in trace.steps]
    [(2, 0), (2, 3), (2, 1)]
    >>> trace.items == model.recommend(tokenizer, [["hammer"]], top_k=2, num_beams=2)[0]
    True
    ```
    """
    session = SearchSession(model, tokenizer, scoring, share_prefix=False, search_class=TracedSearch)
    [items] = recommend_items(
        session,
        [history],
        top_k=top_k,
        num_beams=model.config.recommend_num_beams if num_beams is None else num_beams,
        batch_size=1,
        progress=False,
        allowed_items=allowed_items,
        exclude_items=exclude_items,
        exclude_history=exclude_history,
        search="beam",
        max_batch_tokens=1,  # one user is a batch, whatever its length
        prior=prior,
        prior_form=prior_form,
        prior_weight=prior_weight,
        unknown_items=unknown_items,
    )
    assert isinstance(session.search, TracedSearch)
    return SearchTrace([_step(session, level, depth) for depth, level in enumerate(session.search.levels, 1)], items)


def _step(session: SearchSession, level: dict[str, torch.Tensor], depth: int) -> SearchStep:
    trie, nodes = session.trie, level["nodes"]
    # A beam that found nothing legal stands at some node of its level, and none of its children is open.
    parents = nodes[(level["scores"] > -torch.inf).any(-1)]
    num_children = int((trie.first_child[parents + 1] - trie.first_child[parents]).sum())
    children, log_probs, scores = (level[name].flatten() for name in ("children", "log_probs", "scores"))

    def prefix(place: int) -> Prefix:
        node = int(children[place])
        codes = session.index.codes[int(trie.first_items[node]), :depth].tolist()
        tokens = tuple(session.index.tokens[at][code] for at, code in enumerate(codes))
        return Prefix(tokens, log_probs[place].item(), scores[place].item(), int(trie.num_items_below[node]))

    is_open = scores > -torch.inf
    kept = [place for place in level["chosen"].tolist() if is_open[place]]
    is_cut = is_open.clone()
    is_cut[kept] = False
    return SearchStep(
        kept=[prefix(place) for place in kept],
        num_cut=int(is_cut.sum()),
        best_cut=prefix(int(scores.masked_fill(~is_cut, -torch.inf).argmax())) if is_cut.any() else None,
        cut_prob=log_probs[is_cut].exp().sum().item(),
        num_closed=num_children - int(is_open.sum()),
    )
