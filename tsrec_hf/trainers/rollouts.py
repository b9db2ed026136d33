"""Groups of completions for GRPO: distinct SIDs that exist, found by the constrained tree search."""

from collections.abc import Sequence

import torch

from tsrec_hf.models import SearchSession, SIDSearch, TSRecForCausalLM, TSRecTokenizer


# Searches keep every candidate's keys and values: this bounds the rows that do so together.
PROMPTS_PER_SEARCH = 64


@torch.no_grad()
def roll_out(
    model: TSRecForCausalLM,
    tokenizer: TSRecTokenizer,
    prompts: Sequence[Sequence[int]],
    num_generations: int,
    rollout: str = "beam",
    scoring: str = "vocabulary",
    temperature: float = 1.0,
) -> list[list[list[int]]]:
    """
    SIDs for each prompt, the most probable first.

    Args:
        model ([`TSRecForCausalLM`]):
            The policy.
        tokenizer ([`TSRecTokenizer`]):
            Its tokenizer.
        prompts (`Sequence[Sequence[int]]`):
            Token ids of each prompt.
        num_generations (`int`):
            SIDs per prompt; no more than the catalogue has.
        rollout (`str`, *optional*, defaults to `"beam"`):
            `"beam"`, `"sample"` or `"mixed"`.
        scoring (`str`, *optional*, defaults to `"vocabulary"`):
            What beams are scored by. Samples are drawn from probabilities over legal tokens, always; so are the beams
            beside them.
        temperature (`float`, *optional*, defaults to `1.0`):
            Divides the logits. Samples use the global source of randomness of torch.

    Returns:
        `list[list[list[int]]]`: For each prompt, `num_generations` distinct completions of one token per level.
    """
    prefix = _common_prefix(prompts)
    session = SearchSession(model, tokenizer, scoring if rollout == "beam" else "catalogue", prefix)
    # Padding is least where prompts of like length share a batch.
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]), reverse=True)
    completions: list[list[list[int]]] = [[] for _ in prompts]
    for start in range(0, len(order), PROMPTS_PER_SEARCH):
        rows = order[start : start + PROMPTS_PER_SEARCH]
        inputs = session.pad([prompts[row][len(prefix) :] for row in rows])
        leaves = _leaves(session.search, inputs, num_generations, rollout, temperature)
        for row, token_ids in zip(rows, session.tokens_of(leaves).tolist()):
            completions[row] = token_ids
    return completions


def _leaves(
    search: SIDSearch,
    inputs: tuple[torch.Tensor, torch.Tensor],
    num_generations: int,
    rollout: str,
    temperature: float,
) -> torch.Tensor:
    """Leaves of each prompt's completions, `(prompts, num_generations)`, by falling score."""
    if rollout == "beam":
        found = search.beam(*inputs, num_generations, temperature=temperature)
        _check_finite(found.scores)
        return found.leaves
    sampled = search.sample(*inputs, num_generations, temperature=temperature)
    leaves, scores = sampled.leaves, sampled.scores
    _check_finite(scores)
    if rollout == "mixed":
        best = search.beam(*inputs, num_generations // 2, temperature=temperature)
        # Beams first, then the first drawn that are not among them: a stable sort keeps that order.
        drawn_again = (leaves.unsqueeze(-1) == best.leaves.unsqueeze(1)).any(-1)
        kept = drawn_again.int().argsort(dim=-1, stable=True)[:, : num_generations - best.leaves.shape[1]]
        leaves = torch.cat([best.leaves, leaves.gather(1, kept)], dim=1)
        scores = torch.cat([best.scores, scores.gather(1, kept)], dim=1)
    return leaves.gather(1, scores.argsort(dim=-1, descending=True, stable=True))


def _check_finite(scores: torch.Tensor) -> None:
    """Raises `FloatingPointError` for scores that are no numbers, which rank SIDs at random."""
    if not torch.isfinite(scores).all():
        raise FloatingPointError("the policy's scores of SIDs are no finite numbers")


def _common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """What all prompts begin with, short of the last token of the shortest."""
    longest = min(map(len, prompts)) - 1
    # Of sorted prompts the first and the last have the least in common.
    ordered = sorted(list(prompt) for prompt in prompts)
    first, last = ordered[0], ordered[-1]
    common = next((place for place in range(longest) if first[place] != last[place]), longest)
    return first[:common]
