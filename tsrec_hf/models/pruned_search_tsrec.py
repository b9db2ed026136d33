"""
The best SIDs of a beam search without expanding all of its beams.

A prefix's log-probability bounds those of the SIDs below it, so a beam whose score is below the worst SID wanted need
not be expanded. `prune_beams` first descends with a few prefixes of every user, which gives SIDs to compare with, and
then sweeps over the levels and expands only the prefixes that could still lead to a better SID. The result equals that
of the whole beam search: a prefix counts while it is among the best `num_beams` of its level, and the search ends when
every prefix that could displace it, or beat a SID found, has been expanded. Users need different numbers of prefixes,
which is why they go through the backbone as one [`PackedPasses`] row. That pays on a CPU, where a forward pass costs
by the token; it synchronises with the device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .filtering_tsrec import NodeFilter
from .prior_search_tsrec import NodePrior
from .ranking_tsrec import TOLERANCE, best_of
from .tree_passes_tsrec import PackedPasses
from .trie_tsrec import SIDTrie


# Children of prefixes with their tokens, which are legal, and their log-probabilities; see `SIDSearch`.
ScoreChildren = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]


@dataclass
class _Level:
    """Prefixes of one length, a row of slots for each user; slots of score `-inf` are empty."""

    scores: torch.Tensor  # bounds of what is below, by which prefixes are ranked
    log_probs: torch.Tensor
    nodes: torch.Tensor
    tokens: torch.Tensor
    parents: torch.Tensor  # slots of the level above
    places: torch.Tensor  # numbers among the nodes of the passes, -1 until expanded
    first_items: torch.Tensor  # of the trie's nodes, by which equal scores are ranked

    @classmethod
    def empty(cls, num_users: int, trie: SIDTrie) -> "_Level":
        none = torch.empty(num_users, 0, dtype=torch.long, device=trie.device)
        return cls(none.float(), none.float(), none, none, none, none, trie.first_items)

    def append(self, *columns: torch.Tensor) -> None:
        names = ("scores", "log_probs", "nodes", "tokens", "parents")
        for name, column in zip(names, columns):
            setattr(self, name, torch.cat([getattr(self, name), column], dim=1))
        self.places = torch.nn.functional.pad(self.places, (0, columns[0].shape[1]), value=-1)

    def best(self, width: int, alive_above: torch.Tensor | None) -> torch.Tensor:
        """Mask of the best `width` slots among those with a parent that is kept too; NaN counts as best."""
        scores = self.scores
        if alive_above is not None:
            scores = scores.masked_fill(~alive_above.gather(1, self.parents), -torch.inf)
        slots = best_of(scores, self.first_items[self.nodes], min(width, scores.shape[1]))
        return torch.zeros_like(scores, dtype=torch.bool).scatter(1, slots, scores.gather(1, slots) != -torch.inf)


def prune_beams(
    passes: PackedPasses,
    trie: SIDTrie,
    score_children: ScoreChildren,
    num_beams: int,
    top_k: int,
    node_filter: NodeFilter | None = None,
    first_user: int = 0,
    temperature: float = 1.0,
    prior: NodePrior | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The best `top_k` SIDs of a beam search with `num_beams` beams.

    Args:
        passes ([`PackedPasses`]):
            The users' prompts, not prefilled yet.
        trie ([`SIDTrie`]):
            The legal SIDs.
        score_children (`Callable`):
            Takes nodes `(1, n)`, logits `(1, n, vocabulary)`, their depth and the temperature; gives four tensors
            `(1, n, width)`.
        num_beams (`int`):
            Prefixes that survive each level.
        top_k (`int`):
            SIDs wanted, at most `num_beams`.
        node_filter ([`NodeFilter`], *optional*):
            Rules of the batch's users.
        first_user (`int`, *optional*, defaults to `0`):
            The batch's row that the first user of the passes has in these rules.
        temperature (`float`, *optional*, defaults to `1.0`):
            Divides the logits.
        prior ([`NodePrior`], *optional*):
            Prior of the batch's users.

    Returns:
        `tuple` of four `torch.Tensor`: nodes of the leaves `(users, top_k)`, their scores `(users, top_k)`, `-inf`
        where the search found fewer, their log-probabilities, and how many prefixes were expanded `(users,)`, the
        empty one included.
    """
    logits = passes.prompt_logits()  # (users, vocabulary)
    num_users, device = len(logits), logits.device
    # levels[0] are the prefixes of one code, levels[-1] the whole SIDs.
    levels = [_Level.empty(num_users, trie) for _ in range(trie.num_levels)]

    def add_children(level: int, users: torch.Tensor, slots: torch.Tensor, nodes, scores_above, logits) -> None:
        """Puts the children of some prefixes into their level."""
        children, tokens, legal, log_probs = (
            part[0] for part in score_children(nodes.unsqueeze(0), logits.unsqueeze(0), level, temperature)
        )
        if node_filter is not None:
            legal = node_filter(children, legal, first_user + users)
        log_probs = (scores_above.unsqueeze(-1) + log_probs).masked_fill(~legal, -torch.inf)
        scores = log_probs if prior is None else prior(children, log_probs, first_user + users)
        # A block of slots for every prefix of a user, as many for all users; `users` is in order.
        counts = torch.bincount(users, minlength=num_users)
        blocks = torch.arange(len(users), device=device) - (counts.cumsum(0) - counts)[users]
        shape = (num_users, int(counts.max()), children.shape[1])
        columns = []
        for values, empty in (
            (scores, -torch.inf),
            (log_probs, -torch.inf),
            (children, 0),
            (tokens, 0),
            (slots.unsqueeze(-1), 0),
        ):
            column = values.new_full(shape, empty)
            column[users, blocks] = values.expand(-1, shape[2])
            columns.append(column.flatten(1))
        levels[level].append(*columns)

    every = torch.arange(num_users, device=device)
    root = torch.zeros_like(every)
    add_children(0, every, root, root, root.float(), logits)
    num_expanded = torch.ones_like(every)
    worst = torch.full((num_users, 1), -torch.inf, device=device)  # of the SIDs wanted
    first = True
    while True:
        found_more = first
        alive = None
        for depth, level in enumerate(levels[:-1]):
            alive = level.best(num_beams, alive)
            # Equals may stand before the worst in the index. The negation keeps NaN, which the caller must hear of.
            wanted = alive & (level.places < 0) & ~(level.scores < worst - TOLERANCE)
            if first:
                # Twice as many as are wanted: a pass for one more costs as much as these.
                wanted &= level.best(2 * top_k, None)
            users, slots = wanted.nonzero(as_tuple=True)
            if len(users) == 0:
                continue
            found_more = True
            picked = users, slots
            parents = users if depth == 0 else levels[depth - 1].places.gather(1, level.parents)[picked]
            start = passes.num_nodes
            logits = passes.extend(parents, level.tokens[picked])
            level.places[picked] = torch.arange(start, passes.num_nodes, device=device)
            num_expanded += torch.bincount(users, minlength=num_users)
            add_children(depth + 1, users, slots, level.nodes[picked], level.log_probs[picked], logits)
        if not found_more:
            break
        scores = levels[-1].scores
        if alive is not None:
            scores = scores.masked_fill(~alive.gather(1, levels[-1].parents), -torch.inf)
        scores = torch.nn.functional.pad(scores, (0, max(top_k - scores.shape[1], 0)), value=-torch.inf)
        nodes = torch.nn.functional.pad(levels[-1].nodes, (0, max(top_k - levels[-1].nodes.shape[1], 0)))
        chosen = best_of(scores, trie.first_items[nodes], top_k)
        best = scores.gather(1, chosen)
        worst, first = best[:, -1:], False
    leaves = torch.where(best == -torch.inf, trie.depth_starts[-2], nodes.gather(1, chosen))
    missing = max(top_k - levels[-1].log_probs.shape[1], 0)
    found_log_probs = torch.nn.functional.pad(levels[-1].log_probs, (0, missing))
    return leaves, best, found_log_probs.gather(1, chosen), num_expanded
