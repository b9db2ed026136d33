"""The one order of equal scores: that of the index, whatever the batch, its order and its padding."""

import torch


# Scores of equal SIDs differ by this much at most from one batch to another: matrix products of another shape sum in
# another order. What is nearer counts as equal; as a ratio of probabilities it is 1.00003.
TOLERANCE = 3e-5
# Above all numbers of items, so that a group and a number make one key.
NUMBERS = 1 << 32


def best_of(scores: torch.Tensor, numbers: torch.Tensor, k: int) -> torch.Tensor:
    """
    Places of the best scores, best first, equal ones by number. Makes no device synchronisation.

    `topk` orders equal scores as its algorithm pleases, which depends on the shape; and scores that are equal by
    meaning differ in their last bits.

    Args:
        scores (`torch.Tensor` of shape `(..., n)`):
            Scores; NaN counts as best.
        numbers (`torch.Tensor` of shape `(..., n)`):
            Whole numbers from 0, by which equal scores are ranked, the least first.
        k (`int`):
            How many places, at most `n`.

    Returns:
        `torch.Tensor` of shape `(..., k)`.

    Example:

    ```python
    >>> import torch
    >>> from tsrec_hf.models.ranking_tsrec import best_of

    >>> best_of(torch.tensor([0.5, 1.0, 0.5, 0.500001, 0.2]), torch.tensor([7, 5, 3, 4, 1]), k=3)
    tensor([1, 2, 3])
    ```
    """
    last = scores.topk(k).values[..., -1:]
    limits = torch.iinfo(torch.long)
    # Those above the last one for certain, then those like it, then all others.
    keys = torch.where(scores < last - TOLERANCE, limits.min, -numbers)
    keys = torch.where((scores > last + TOLERANCE) | scores.isnan(), limits.max, keys)
    places = keys.topk(k).indices
    picked, by_score = scores.gather(-1, places).sort(dim=-1, descending=True)
    places = places.gather(-1, by_score)
    # A group is of scores each of which is like the one before.
    begins = torch.nn.functional.pad(picked[..., :-1] - picked[..., 1:] > TOLERANCE, (1, 0))
    order = (begins.cumsum(-1) * NUMBERS + numbers.gather(-1, places)).argsort(dim=-1)
    return places.gather(-1, order)
