"""Choice of how item priors are combined with a model, on validation rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import torch
from datasets import Dataset

from tsrec_hf.models import ItemPrior, MixedPrior, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.prior_search_tsrec import Fusion

from .metrics import hit_rate_at_k, ndcg_at_k
from .report import metrics_table
from .sharding import recommend_distributed


CUT_OFFS = (1, 3, 5, 10)
# Weights of the second and further priors beside the first one.
SHARES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Up to where the priors all but decide: a model that was trained little must not stand in their way.
WEIGHTS = {
    "log_linear": (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0, 4.5, 7.0, 12.0),
    "mixture": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
}


@dataclass(frozen=True)
class PriorFit:
    """
    Result of [`fit_prior`].

    Attributes:
        prior ([`ItemPrior`], *optional*): The weighted sum of the priors; `None` where the model alone is best.
        form (`str`), weight (`float`): How it is combined with the model.
        shares (`tuple[float, ...]`): Weight of each prior in the sum.
        results (`dict`): HR and NDCG by item on the validation rows, of the model, the priors alone and both together.
    """

    prior: ItemPrior | None
    form: str
    weight: float
    shares: tuple[float, ...]
    results: dict[str, dict[str, dict[str, float]]] = field(repr=False)

    def __str__(self) -> str:
        chosen = "no prior: the model alone is best" if self.prior is None else f"{self.form}, weight {self.weight:g}"
        if self.prior is not None and len(self.shares) > 1:
            chosen += f", shares {', '.join(f'{share:g}' for share in self.shares)}"
        return f"{metrics_table(self.results)}\n\nChosen: {chosen}"


@torch.no_grad()
@checks_types
def fit_prior(
    model: TSRecForCausalLM,
    tokenizer: TSRecTokenizer,
    priors: Sequence[ItemPrior],
    interactions: Dataset,
    num_rows: int | None = 1200,
    num_candidates: int = 100,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = False,
    scoring: str = "catalogue",
) -> PriorFit:
    r"""
    Chooses how priors are combined with a model, and gives the checkpoint the result.

    The model searches once for every row, with the mean of the priors in a mixture, which finds the best items of the
    model and of the priors. These are then ranked by every form and weight of a grid, and the one of the highest
    NDCG@10 (by item) is kept: `tokenizer.prior`, which is saved with the tokenizer and which `recommend` uses from
    then on.

    In a distributed run every process calls this, and the rows are shared among them.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender.
        tokenizer ([`TSRecTokenizer`]):
            Its tokenizer.
        priors (`Sequence[ItemPrior]`):
            Fitted priors that can be saved; the first one is the main one.
        interactions (`datasets.Dataset`):
            Validation rows with `history` and `target`, which neither the model nor the priors were fitted on.
        num_rows (`int`, *optional*, defaults to `1200`):
            Rows drawn from them; `None` takes all.
        num_candidates (`int`, *optional*, defaults to `100`):
            Best items of that mixture, which are ranked for every row.
        batch_size (`int`, *optional*, defaults to `16`):
            Users searched together.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw.
        progress (`bool`, *optional*, defaults to `False`):
            Whether to show a progress bar.
        scoring (`str`, *optional*, defaults to `"catalogue"`):
            As in [`TSRecForCausalLM.recommend`]: that of the searches to come, since a weight that suits one suits the
            other only where the model gives other tokens than those of SIDs hardly any probability.

    Returns:
        [`PriorFit`]: What was chosen; printed, it is a table.

    Raises:
        `TypeError`: a prior that cannot be saved. `ValueError`: no prior, a prior of another index, no rows.

    Example:

    ```python
    >>> from tsrec_hf import NextItemPrior, fit_prior

    >>> fit = fit_prior(model, tokenizer, [NextItemPrior.fit(dataset.train, sid_index)], dataset.valid)
    >>> list(fit.results)
    ['model', 'priors', 'fused']
    ```
    """
    if num_rows is not None and num_rows < 1:
        raise ValueError(f"Expected at least one row to choose on, or `None` for all, but found num_rows={num_rows}.")
    if not priors or len(interactions) == 0:
        raise ValueError(
            f"Expected at least one prior and validation rows, but found {len(priors)} priors and "
            f"{len(interactions)} rows. Fit a `NextItemPrior` on the training rows and pass the validation rows."
        )
    index = tokenizer.sid_index
    priors = [prior.for_index(index) for prior in priors]
    for prior in priors:
        prior.state()  # raises for a prior that cannot travel with the checkpoint
    if num_rows is not None and num_rows < len(interactions):
        interactions = interactions.shuffle(seed=seed).select(range(num_rows)).flatten_indices()
    histories, targets = interactions["history"][:], index.positions_of(interactions["target"][:])
    num_candidates = min(num_candidates, len(index))
    everything = MixedPrior(priors, [1 / len(priors)] * len(priors))

    def search(share: list[Sequence[str]]) -> list[list[tuple[str, float | None]]]:
        # A mixture finds what the model ranks high and what a prior does, each with the model's exact probability.
        found = model.recommend(
            tokenizer,
            share,
            top_k=num_candidates,
            num_beams=min(num_candidates, index.trie.num_leaves),
            batch_size=batch_size,
            prior=everything,
            prior_form="mixture",
            prior_weight=1.0,
            progress=progress,
            scoring=scoring,
        )
        return [[(item.item_id, item.log_prob) for item in row] for row in found]

    found = recommend_distributed(search, histories)
    log_probs, weights, columns, sizes = _pool(found, priors, index, histories, targets)
    best: tuple[float, tuple[float, ...], str, float] | None = None
    # Without a prior all items of a SID have its probability.
    model_ranks = _ranks(log_probs + sizes.log(), columns)
    for shares in product((1.0,), *([SHARES] * (len(priors) - 1))):
        total = torch.tensordot(torch.tensor(shares), weights, dims=1)
        for form, candidates in WEIGHTS.items():
            for weight in candidates:
                fusion = Fusion(form, weight)
                ranks = _ranks(fusion.combine(log_probs, fusion.scale(total)), columns)
                value = ndcg_at_k(ranks, 10).item()
                if best is None or value > best[0]:
                    best = value, shares, form, weight
    assert best is not None
    value, shares, form, weight = best
    fusion, total = Fusion(form, weight), torch.tensordot(torch.tensor(shares), weights, dims=1)
    results = {
        "model": _metrics(model_ranks),
        "priors": _metrics(_ranks(total, columns)),
        "fused": _metrics(_ranks(fusion.combine(log_probs, fusion.scale(total)), columns)),
    }
    if value <= ndcg_at_k(model_ranks, 10).item():
        tokenizer.set_prior(None)
        return PriorFit(None, form, weight, shares, results)
    # Priors without a share are left out: they would cost time and space for nothing.
    kept = [(prior, share) for prior, share in zip(priors, shares) if share > 0]
    mixed = kept[0][0] if len(kept) == 1 else MixedPrior([prior for prior, _ in kept], [share for _, share in kept])
    tokenizer.set_prior(mixed, form, weight)
    return PriorFit(tokenizer.prior, form, weight, shares, results)


def _pool(
    found: list[list[tuple[str, float | None]]], priors, index, histories, targets: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Log-probabilities of every row's candidates `(rows, candidates)`, weights of the priors `(priors, rows,
    candidates)`, the column of each target `(rows,)`, `-1` where it is no candidate, and how many items have each
    candidate's SID `(rows, candidates)`. Padding has a log-probability of `-inf`.
    """
    log_probs, weights, columns, sizes = [], [], [], []
    sizes_of_items = index.trie.leaf_offsets.diff()[index.trie.leaf_of_item]
    for start in range(0, len(found), 64):
        rows = range(start, min(start + 64, len(found)))
        dense = torch.stack([prior.weights_of(histories, list(rows)).to_dense() for prior in priors])
        for place, row in enumerate(rows):
            pool = index.positions_of([item for item, _ in found[row]])
            log_probs.append(torch.tensor([log_prob for _, log_prob in found[row]]))
            weights.append(dense[:, place, pool].T)
            columns.append(pool.index(targets[row]) if targets[row] in pool else -1)
            sizes.append(sizes_of_items[pool])
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    return (
        pad(log_probs, padding_value=-torch.inf),
        pad(weights).permute(2, 0, 1),
        torch.tensor(columns),
        pad(sizes, padding_value=1),
    )


def _ranks(scores: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """0-based rank of each target among the candidates, ties counting half of the others; `-1` where it is none."""
    own = scores.gather(1, columns.clamp(min=0).unsqueeze(1))
    better = (scores > own).sum(1) + ((scores == own).sum(1) - 1) // 2
    return torch.where((columns < 0) | (own.squeeze(1) == -torch.inf), -1, better)


def _metrics(ranks: torch.Tensor) -> dict[str, dict[str, float]]:
    scores = {f"hr@{k}": hit_rate_at_k(ranks, k).item() for k in CUT_OFFS}
    scores |= {f"ndcg@{k}": ndcg_at_k(ranks, k).item() for k in CUT_OFFS}
    return {"all": {"num_rows": len(ranks), **scores}}
