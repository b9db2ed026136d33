"""Recommendations as lines of text that say what the tokens of their SIDs stand for."""

from collections.abc import Sequence

from tsrec_hf.models import Recommendation, SIDIndex
from tsrec_hf.models.checking_tsrec import checks_types

from .token_semantics import TokenSemantics


TITLE_WIDTH = 40


@checks_types
def list_recommendations(
    recommendations: Sequence[Recommendation], sid_index: SIDIndex, semantics: TokenSemantics, num_keywords: int = 3
) -> str:
    r"""
    Formats one user's recommendations: place, title, SID, and the first keywords of each of its tokens.

    Args:
        recommendations (`Sequence[Recommendation]`):
            One list of [`TSRecForCausalLM.recommend`].
        sid_index ([`SIDIndex`]):
            The index of the catalogue.
        semantics ([`TokenSemantics`]):
            What the tokens mean.
        num_keywords (`int`, *optional*, defaults to `3`):
            Keywords of each token.

    Returns:
        `str`: A line for each item, best first. Items without a title go by their id; tokens without a description are
        left out.

    Example:

    ```python
    >>> from tsrec_hf import list_recommendations

    >>> [found] = model.recommend(tokenizer, [["apple"]], top_k=1, allowed_items=["pear"])
    >>> print(list_recommendations(found, sid_index, semantics, num_keywords=2))
      1. green pear                               <a_1><b_0><c_1>  food, fresh | handle, fruit | sharp, green
    ```
    """
    lines = []
    for place, one in enumerate(recommendations, start=1):
        codes = sid_index.codes[sid_index.position_of(one.item_id)]
        tokens = [sid_index.tokens[level][code] for level, code in enumerate(codes)]
        meanings = [", ".join(semantics[token].keywords[:num_keywords]) for token in tokens if token in semantics]
        title = one.title or one.item_id
        shown = title if len(title) <= TITLE_WIDTH else f"{title[: TITLE_WIDTH - 3]}..."
        lines.append(f"{place:3}. {shown:{TITLE_WIDTH}} {one.sid}  {' | '.join(meanings)}".rstrip())
    return "\n".join(lines)
