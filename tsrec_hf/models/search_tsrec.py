"""
Search for semantic IDs (SIDs) that exist, most probable first.

`SIDSearch` descends the trie of the catalogue's SIDs level by level and scores the children of many prefixes in one
forward pass. Its beams are those of `generate(num_beams=K, length_penalty=0, prefix_allowed_tokens_fn=...)`, at a
fraction of the cost; it also finds the true best SIDs of the whole catalogue, and draws SIDs without replacement. No
`generation_config` has any effect here.
"""

from dataclasses import dataclass

import torch
from transformers import Cache, PreTrainedModel

from .evaluation_view_tsrec import cut_head, evaluation_view
from .filtering_tsrec import NodeFilter
from .positions_tsrec import check_positions, learned_positions
from .prior_search_tsrec import NodePrior
from .probing_tsrec import KINDS, Probe, fastest_kind
from .pruned_search_tsrec import prune_beams
from .ranking_tsrec import TOLERANCE, best_of
from .tree_passes_tsrec import PackedPasses, SharedPrefix, cache_argument, input_device, run_forward
from .trie_tsrec import SIDTrie


SCORINGS = ("vocabulary", "catalogue")
# On a CPU a forward pass of fewer rows is bound by reading the weights. A pruned search makes more passes, of fewer
# rows: 3.9 of 69 tokens together where a whole one makes 3 of 117 (one user, 50 beams, top 10).
MIN_ROWS_TO_PRUNE = 8
# Users whose prompts and trees a pruned search packs into one row: attention costs by the square of its length.
USERS_OF_A_PACK = 8


@dataclass
class TreeBeams:
    """
    Result of a [`SIDSearch`], best first.

    Attributes:
        leaves (`torch.Tensor` of shape `(batch, beams)`): Leaf of the trie each beam ends in.
        scores (`torch.Tensor` of shape `(batch, beams)`): Summed log-probability in float32, or, with a prior, the
            score of the leaf's best item; `-inf` for beams that found no legal SID, because the rules leave fewer;
            their leaf means nothing.
        log_probs (`torch.Tensor` of shape `(batch, beams)`): Summed log-probability: `scores`, without a prior.
        num_expanded (`torch.Tensor` of shape `(batch,)`): Prefixes whose children were scored, the empty one included.
    """

    leaves: torch.Tensor
    scores: torch.Tensor
    log_probs: torch.Tensor
    num_expanded: torch.Tensor


def catalogue_log_probs(logits: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
    """
    Log-probabilities renormalised over the tokens that continue a SID that exists.

    Args:
        logits (`torch.Tensor` of shape `(..., width)`):
            Logits of the children of a prefix, float32.
        legal (`torch.Tensor` of shape `(..., width)`):
            Which of them are children, and which padding.

    Returns:
        `torch.Tensor` of shape `(..., width)`: `-inf` for padding.
    """
    # A finite filling: rows without a child would give NaN, in the gradient too.
    filled = logits.masked_fill(~legal, torch.finfo(logits.dtype).min)
    return filled.log_softmax(-1).masked_fill(~legal, -torch.inf)


class SIDSearch:
    """
    Ranks the SIDs of a catalogue with a language model, by beam search, exact search or sampling.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            Causal language model, in any mode: the search uses a view of it in evaluation mode, and changes nothing of
            it.
        trie ([`SIDTrie`]):
            The legal SIDs; moved to the model's device.
        sid_token_ids (`list[list[int]]`):
            For each level, the token id of every code.
        scoring (`str`, *optional*, defaults to `"vocabulary"`):
            `"vocabulary"` scores by log-probabilities over the whole vocabulary, as `generate` does; `"catalogue"`
            renormalises them over the tokens that continue a SID that exists, and computes no other logits.
        prefix_ids (`torch.Tensor` of shape `(prefix,)`, *optional*):
            Tokens that every prompt begins with. They go through the model once; the prompts are then passed without
            them.

    Raises:
        `ValueError`: another scoring.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        trie: SIDTrie,
        sid_token_ids: list[list[int]],
        scoring: str = "vocabulary",
        prefix_ids: torch.Tensor | None = None,
    ):
        if scoring not in SCORINGS:
            raise ValueError(f"Expected `scoring` to be one of {SCORINGS}, but found {scoring!r}.")
        self._read_catalogue(trie, sid_token_ids, input_device(backbone))
        self.backbone = evaluation_view(backbone)
        # With all of its head, unlike the view that is searched with.
        self._probed = evaluation_view(backbone)
        self._probes: dict[int, Probe] = {}
        self.scoring = scoring
        self._cache_argument = cache_argument(self.backbone)
        self._has_cut_head = scoring == "catalogue" and cut_head(self.backbone, self.token_ids)
        self._prefix = None
        if prefix_ids is not None and len(prefix_ids):
            self._prefix = SharedPrefix(self.backbone, prefix_ids.to(self.token_ids.device))

    def _read_catalogue(self, trie: SIDTrie, sid_token_ids: list[list[int]], device: torch.device) -> None:
        """What a search knows of the catalogue, whoever computes its logits."""
        self.trie = trie.to(device)
        self.token_ids = torch.tensor([token_id for level in sid_token_ids for token_id in level], device=device)
        # Code `c` of level `l` is token `token_ids[level_starts[l] + c]`.
        sizes = torch.tensor([0, *map(len, sid_token_ids)])
        self.level_starts = sizes.cumsum(0)[:-1].to(device)
        # Leaves are children of the last level; the root, depth 0, is nobody's child.
        self._child_starts = torch.tensor(self.trie.depth_starts[2:-1], device=device)

    def tokens_of(self, leaves: torch.Tensor) -> torch.Tensor:
        """Token ids of the SIDs of leaves `(...)`: `(..., levels)`. Makes no device synchronisation."""
        nodes = self.trie.paths_of(self.trie.leaf_items[self.trie.leaf_offsets[leaves]])
        return self.token_ids[self.level_starts + self.trie.node_codes[nodes]]

    def _forward(self, cache: Cache | None = None, return_cache: bool = False, **inputs):
        return run_forward(self.backbone, self._cache_argument, cache, return_cache, **inputs)

    def _passes(self, input_ids: torch.Tensor, attention_mask: torch.Tensor):
        kind = KINDS[fastest_kind(self._probe(input_ids))]
        return kind(self.backbone, self._forward, input_ids, attention_mask, self._prefix)

    def _probe(self, input_ids: torch.Tensor) -> Probe:
        """
        The probe for sequences as long as those that a search from prompts, without the prefix, reads; raises
        `ValueError` for longer ones than the backbone has positions for.
        """
        length = (0 if self._prefix is None else len(self._prefix)) + input_ids.shape[1] + self.trie.num_levels
        if length not in self._probes:
            check_positions(learned_positions(self.backbone), length)
            self._probes[length] = Probe(self._probed, length)
        return self._probes[length]

    def _children(
        self, nodes: torch.Tensor, logits: torch.Tensor, depth: int | None, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Children of nodes, their tokens, which are legal, and their log-probabilities: `(batch, nodes, width)`."""
        children, codes, legal = self.trie.children(nodes, depth)
        levels = torch.bucketize(children, self._child_starts, right=True) if depth is None else depth
        slots = self.level_starts[levels] + codes
        tokens = self.token_ids[slots]
        logits = logits.float()
        if temperature != 1.0:
            logits = logits / temperature
        picked = logits.gather(-1, slots if self._has_cut_head else tokens)
        if self.scoring == "catalogue":
            log_probs = catalogue_log_probs(picked, legal)
        else:
            # The sum over the vocabulary is the one costly thing here; on a CPU `log_softmax` is a third faster than
            # `logsumexp`.
            log_probs = picked - (logits[..., :1] - logits.log_softmax(-1)[..., :1])
        return children, tokens, legal, log_probs

    @torch.no_grad()
    def beam(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        num_beams: int,
        node_filter: NodeFilter | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        prior: NodePrior | None = None,
    ) -> TreeBeams:
        """
        Beam search. Makes no device synchronisation, but for `top_k` on a CPU.

        Args:
            input_ids (`torch.Tensor` of shape `(batch, prompt)`):
                Prompts without the common prefix, padded on the left.
            attention_mask (`torch.Tensor` of shape `(batch, prompt)`):
                1 for the prompts' tokens, 0 for padding.
            num_beams (`int`):
                Prefixes that survive each level.
            node_filter ([`NodeFilter`], *optional*):
                Rules of the batch's users: prefixes that lead only to items they may not be given take no place.
            temperature (`float`, *optional*, defaults to `1.0`):
                Divides the logits.
            top_k (`int`, *optional*):
                How many of the beams are wanted. Those are then all that is returned, and on a CPU, where a forward
                pass costs by the token, prefixes that could not lead to them are not expanded: the same beams for
                less.

            prior ([`NodePrior`], *optional*):
                Prior of the batch's users: prefixes are ranked by their log-probability combined with the best prior
                below them.

        Returns:
            [`TreeBeams`] with `min(num_beams, top_k, number of SIDs)` beams.
        """
        on_cpu = self.token_ids.device.type == "cpu"
        if top_k is not None and on_cpu and self._pays_to_prune(input_ids, num_beams, top_k):
            return self._pruned(input_ids, attention_mask, num_beams, top_k, node_filter, temperature, prior)
        beams = self._descend(input_ids, attention_mask, num_beams, node_filter, temperature=temperature, prior=prior)
        leaves, scores, log_probs = (part[:, :top_k] for part in (beams.leaves, beams.scores, beams.log_probs))
        return TreeBeams(leaves, scores, log_probs, beams.num_expanded)

    def _pays_to_prune(self, input_ids: torch.Tensor, num_beams: int, top_k: int) -> bool:
        return (
            2 * top_k <= num_beams
            and len(input_ids) * top_k >= MIN_ROWS_TO_PRUNE
            and all(map(self._probe(input_ids).agrees, ("tree", "packed")))
        )

    @torch.no_grad()
    def sample(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        num_samples: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        node_filter: NodeFilter | None = None,
    ) -> TreeBeams:
        """
        Draws distinct SIDs, each in turn from the model's distribution over those not drawn yet, level probabilities
        renormalised over legal tokens: stochastic beam search by Gumbel top-k (Kool et al. 2019, arXiv 1903.06059,
        algorithm 1). Makes no device synchronisation.

        Args:
            input_ids (`torch.Tensor` of shape `(batch, prompt)`):
                Prompts without the common prefix, padded on the left.
            attention_mask (`torch.Tensor` of shape `(batch, prompt)`):
                1 for the prompts' tokens, 0 for padding.
            num_samples (`int`):
                SIDs to draw for each prompt.
            temperature (`float`, *optional*, defaults to `1.0`):
                Divides the logits.
            generator (`torch.Generator`, *optional*):
                Source of randomness, on the model's device.
            node_filter ([`NodeFilter`], *optional*):
                Rules of the batch's users.

        Returns:
            [`TreeBeams`], first drawn first, with `min(num_samples, number of SIDs)` beams; scores are those of the
            distribution that was drawn from.

        Raises:
            `ValueError`: a search of scoring `"vocabulary"`, a temperature that is not positive.
        """
        if self.scoring != "catalogue":
            raise ValueError(
                'Expected `scoring="catalogue"` for sampling: SIDs are drawn from probabilities over legal tokens, '
                f"but this search has scoring {self.scoring!r}."
            )
        if not temperature > 0:
            raise ValueError(f"Expected a positive `temperature`, but found {temperature}.")
        return self._descend(input_ids, attention_mask, num_samples, node_filter, True, temperature, generator)

    def _descend(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        num_beams: int,
        node_filter: NodeFilter | None,
        sample: bool = False,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        prior: NodePrior | None = None,
    ) -> TreeBeams:
        trie = self.trie
        batch_size = input_ids.shape[0]
        passes = self._passes(input_ids, attention_mask)
        logits = passes.prompt_logits()  # (batch, 1, vocabulary)
        nodes = torch.zeros(batch_size, 1, dtype=torch.long, device=input_ids.device)
        scores = torch.zeros(batch_size, 1, dtype=torch.float32, device=input_ids.device)
        # What decides who survives: the score, perturbed where SIDs are drawn, or combined with a prior.
        keys = scores
        first, num_expanded = 0, 1  # the first beam's number among the nodes of the passes, and how many those are
        for depth in range(trie.num_levels):
            children, tokens, legal, log_probs = self._children(nodes, logits, depth, temperature)
            if node_filter is not None:
                legal = node_filter(children, legal)
            candidates = (scores.unsqueeze(-1) + log_probs).masked_fill(~legal, -torch.inf)
            child_keys = candidates
            if sample:
                child_keys = _perturbed(candidates, keys, generator)
            elif prior is not None:
                child_keys = prior(children, candidates)
            width = candidates.shape[-1]
            beams = min(num_beams, trie.num_prefixes(depth + 1), candidates[0].numel())
            flat = child_keys.flatten(1)
            # Draws have no equals.
            chosen = (
                flat.topk(beams).indices if sample else best_of(flat, trie.first_items[children].flatten(1), beams)
            )
            self._note(nodes, children, candidates, child_keys, chosen)
            keys = flat.gather(1, chosen)
            scores = candidates.flatten(1).gather(1, chosen)
            # A beam without a legal continuation may hold padding, which is no node of this level: it goes on from
            # one that is, so that codes stay within their level, and keeps its score of -inf.
            nodes = children.flatten(1).gather(1, chosen)
            nodes = torch.where(scores == -torch.inf, trie.depth_starts[depth + 1], nodes)
            if depth == trie.num_levels - 1:
                break
            parents, token_ids = first + chosen // width, tokens.flatten(1).gather(1, chosen)
            logits = passes.extend(parents, token_ids)
            first, num_expanded = num_expanded, num_expanded + beams
        expanded = torch.full((batch_size,), num_expanded, device=input_ids.device)
        return TreeBeams(trie.leaves_of(nodes), scores if prior is None else keys, scores, expanded)

    def _note(self, nodes, children, candidates, keys, chosen) -> None:
        """
        Called at every level with the prefixes, their children, the children's log-probabilities and keys, and which
        of them go on; does nothing here. For searches that tell how they went.
        """

    def _pruned(self, input_ids, attention_mask, num_beams, top_k, node_filter, temperature, prior) -> TreeBeams:
        """The best `top_k` beams, a few users at a time."""
        parts = []
        for start in range(0, len(input_ids), USERS_OF_A_PACK):
            users = slice(start, start + USERS_OF_A_PACK)
            passes = PackedPasses(self.backbone, self._forward, input_ids[users], attention_mask[users], self._prefix)
            parts.append(
                prune_beams(
                    passes, self.trie, self._children, num_beams, top_k, node_filter, start, temperature, prior
                )
            )
        nodes, scores, log_probs, expanded = map(torch.cat, zip(*parts))
        return TreeBeams(self.trie.leaves_of(nodes), scores, log_probs, expanded)

    @torch.no_grad()
    def exact(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        top_k: int,
        num_beams: int,
        node_filter: NodeFilter | None = None,
        prior: NodePrior | None = None,
    ) -> TreeBeams:
        """
        The most probable SIDs of the whole catalogue, by best-first search.

        A prefix's log-probability, combined with the best prior below it, bounds the scores of all SIDs below. The
        search expands the best open prefixes, `num_beams` of them in a pass, and ends when none of those left is above
        the `top_k`-th SID found.

        Args:
            input_ids (`torch.Tensor` of shape `(1, prompt)`):
                One prompt without the common prefix.
            attention_mask (`torch.Tensor` of shape `(1, prompt)`):
                1 for the prompt's tokens, 0 for padding.
            top_k (`int`):
                SIDs to find.
            num_beams (`int`):
                Most prefixes to expand in one pass.
            node_filter ([`NodeFilter`], *optional*):
                Rules of the user.
            prior ([`NodePrior`], *optional*):
                Prior of the user; the `top_k` best items are then among those of the `top_k` SIDs found.

        Returns:
            [`TreeBeams`] with `min(top_k, number of SIDs)` beams. The number of expanded prefixes depends on how sure
            the model is: every prefix there is where it has learned nothing.
        """
        if len(input_ids) != 1:
            raise ValueError(f"Expected one prompt, but found {len(input_ids)}: search for one user at a time.")
        trie = self.trie
        leaves_start = trie.depth_starts[-2]
        top_k = min(top_k, trie.num_leaves)
        passes = self._passes(input_ids, attention_mask)
        logits = passes.prompt_logits()  # (1, 1, vocabulary)
        device = input_ids.device
        nodes = torch.zeros(1, dtype=torch.long, device=device)
        scores = torch.zeros(1, dtype=torch.float32, device=device)
        places = torch.zeros(1, dtype=torch.long, device=device)  # numbers among the nodes of the passes
        # Prefixes that may be expanded: their key, which bounds what is below them, their log-probability, node and
        # token, and the passes' number of their parent.
        open_keys = open_scores = scores[:0]
        open_nodes = open_tokens = open_parents = nodes[:0]
        best = torch.full((top_k,), -torch.inf, device=device)
        best_scores = best
        best_nodes = torch.full((top_k,), leaves_start, dtype=torch.long, device=device)
        num_expanded = 1
        while True:
            children, tokens, legal, log_probs = self._children(nodes.unsqueeze(0), logits, None)
            if node_filter is not None:
                legal = node_filter(children, legal)
            # Rounding may put a log-probability above 0, and a child above its parent.
            candidates = (scores.unsqueeze(-1) + log_probs[0].clamp(max=0)).masked_fill(~legal[0], -torch.inf)
            keys = candidates if prior is None else prior(children, candidates.unsqueeze(0))[0]
            parents = places.unsqueeze(-1).expand_as(candidates)
            is_leaf = children[0] >= leaves_start
            found = torch.cat([best, keys.masked_fill(~is_leaf, -torch.inf).flatten()])
            found_nodes = torch.cat([best_nodes, children.flatten()])
            chosen = best_of(found, trie.first_items[found_nodes], top_k)
            best, best_nodes = found[chosen], found_nodes[chosen]
            best_scores = torch.cat([best_scores, candidates.flatten()])[chosen]
            open_keys = torch.cat([open_keys, keys.masked_fill(is_leaf, -torch.inf).flatten()])
            # Equals may stand before the last one in the index. The negation keeps NaN, which the caller must hear of.
            reach = torch.where(best[-1] > -torch.inf, best[-1] - TOLERANCE, best[-1])
            alive = (~(open_keys < reach) & (open_keys != -torch.inf)).nonzero().flatten()
            if len(alive) == 0 or open_keys.isnan().any():
                best = torch.where(open_keys.isnan().any(), torch.nan, best)
                break
            open_keys = open_keys[alive]
            open_scores = torch.cat([open_scores, candidates.flatten()])[alive]
            open_nodes = torch.cat([open_nodes, children.flatten()])[alive]
            open_tokens = torch.cat([open_tokens, tokens.flatten()])[alive]
            open_parents = torch.cat([open_parents, parents.flatten()])[alive]
            _, chosen = open_keys.topk(min(num_beams, len(alive)))
            scores, nodes, token_ids = open_scores[chosen], open_nodes[chosen], open_tokens[chosen]
            logits = passes.extend(open_parents[chosen].unsqueeze(0), token_ids.unsqueeze(0))
            places = torch.arange(num_expanded, num_expanded + len(chosen), device=device)
            num_expanded += len(chosen)
            open_keys[chosen] = -torch.inf  # Expanded: the next round drops them.
        expanded = torch.tensor([num_expanded], device=device)
        leaves = trie.leaves_of(best_nodes).unsqueeze(0)
        return TreeBeams(leaves, best.unsqueeze(0), best_scores.unsqueeze(0), expanded)


def _perturbed(candidates: torch.Tensor, keys: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Gumbel noise on children's scores, given that the largest of a parent's children is the parent's own key."""
    noise = torch.empty_like(candidates).exponential_(generator=generator).log()
    perturbed = candidates - noise
    largest = perturbed.amax(-1, keepdim=True)
    # Numerically stable form of -log(exp(-key) - exp(-largest) + exp(-perturbed)) (appendix B.3 of the paper).
    gap = keys.unsqueeze(-1) - perturbed + torch.log1p(-torch.exp(perturbed - largest))
    shifted = keys.unsqueeze(-1) - gap.clamp(min=0) - torch.log1p(torch.exp(-gap.abs()))
    return shifted.masked_fill(candidates == -torch.inf, -torch.inf)
