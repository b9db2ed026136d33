"""
Semantic-aware initialisation of SID token embeddings (SA-Init, TS-Rec section on semantic-aware embedding
initialisation).

As published, a SID token starts as the mean of the backbone's own embeddings of its keywords' tokens, rescaled to the
vocabulary's mean norm. Keywords that many tokens share then dominate the mean and the rows nearly coincide, so pooling
may weigh each keyword by its inverse document frequency and the rows may be centred. Everything is computed in float32
and vectorised over tokens; untied models get their output rows from their output matrix.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from .checking_tsrec import checks_types
from .plain_text_tsrec import plain_texts


# The form of the paper, where the defaults of `initialize_sid_embeddings` are what a study found best.
PUBLISHED_SA_INIT = {"pooling": "mean", "center": False, "norm": "vocab_mean"}


@dataclass
class SAInitReport:
    """
    Report of [`initialize_sid_embeddings`]: its arguments, and statistics of the rows of each matrix and level.

    Attributes:
        settings (`dict`): Arguments that decided the rows.
        levels (`list[dict]`): One entry per matrix (`"input"`, and `"output"` when untied) and level: `matrix`,
            `level`, `tokens`, `mean_cosine` (over pairs), `nearest_cosine` (mean over tokens), `mean_norm`. The
            cosines of a level with one token are `None`.

    Example:

    ```python
    >>> from tsrec_hf import SAInitReport

    >>> report = SAInitReport.from_dict(model.config.sid_initialization)
    >>> report.settings["pooling"], [row["tokens"] for row in report.levels]
    ('idf', [2, 3, 2])
    ```
    """

    settings: dict[str, Any]
    levels: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        return {**self.settings, "levels": self.levels}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SAInitReport":
        """The report that a checkpoint keeps as `config.sid_initialization`."""
        settings = {name: value for name, value in values.items() if name != "levels"}
        return cls(settings=settings, levels=list(values.get("levels", [])))

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        lines = [f"SID initialisation: {settings}", "matrix  level  tokens  mean cos  nearest cos  mean norm"]
        for row in self.levels:
            mean, nearest = (
                "-" if row[name] is None else f"{row[name]:.3f}" for name in ("mean_cosine", "nearest_cosine")
            )
            lines.append(
                f"{row['matrix']:<7} {row['level']:>5} {row['tokens']:>7} {mean:>9} {nearest:>12} "
                f"{row['mean_norm']:>10.3f}"
            )
        return "\n".join(lines)


@torch.no_grad()
def resize_default_rows(model: PreTrainedModel, token_ids: torch.Tensor) -> None:
    """
    Gives tokens the rows that `resize_token_embeddings` would have given them: the mean of the vocabulary before the
    first of them. Rows of a padded vocabulary, which resizing leaves as they are, are treated alike.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model whose input rows, and output rows when untied, are written in place.
        token_ids (`torch.Tensor` of shape `(num_tokens,)`):
            Ids of the tokens.
    """
    for module in _matrices(model).values():
        for parameter in (module.weight, getattr(module, "bias", None)):
            if isinstance(parameter, torch.Tensor):
                mean = parameter[: int(token_ids.min())].float().mean(dim=0)
                parameter[token_ids] = mean.to(parameter.dtype)


@torch.no_grad()
@checks_types
def initialize_sid_embeddings(
    model: PreTrainedModel,
    tokenizer,
    semantics: Mapping[str, Any],
    pooling: Literal["mean", "idf"] = "idf",
    center: bool = True,
    norm: Literal["vocab_mean", "match_resize"] | float | None = "match_resize",
    levels: int | None = None,
    shuffle_seed: int | None = None,
    missing: Literal["error", "resize"] = "error",
) -> SAInitReport:
    r"""
    Initialises the embedding of every SID token from the keywords of its cluster, in place.

    The defaults are the form that did best in `benchmarks/sa_init_study.py`; the published one is `PUBLISHED_SA_INIT`,
    to be passed as `**PUBLISHED_SA_INIT` here or as `sa_init_kwargs=PUBLISHED_SA_INIT` to `from_backbone`.

    Args:
        model ([`TSRecForCausalLM`]):
            Model whose input rows, and output rows when untied, are written.
        tokenizer ([`TSRecTokenizer`]):
            The model's tokenizer.
        semantics ([`TokenSemantics`]):
            Keywords by SID token.
        pooling (`"mean"` or `"idf"`, *optional*, defaults to `"idf"`):
            `"mean"`: mean over all sub-tokens of all keywords, as published. `"idf"`: mean over keywords, each the
            mean of its sub-tokens, weighted by `log(tokens / tokens that have the keyword)`.
        center (`bool`, *optional*, defaults to `True`):
            Whether to subtract the mean row of all initialised SID tokens.
        norm (`str` or `float`, *optional*, defaults to `"match_resize"`):
            Norm of every row: `"vocab_mean"`, the mean norm of the vocabulary's rows, as published; `"match_resize"`,
            the norm that `resize_token_embeddings` would have given (that of the vocabulary's mean row); a number; or
            `None`, as pooled.
        levels (`int`, *optional*):
            Number of levels, from the first, to initialise. Defaults to all.
        shuffle_seed (`int`, *optional*):
            Control: permutes the keyword lists among the tokens of each level by this seed.
        missing (`"error"` or `"resize"`, *optional*, defaults to `"error"`):
            What happens to a token without keywords: an error that names it, or the rows of `resize_token_embeddings`.

    Returns:
        [`SAInitReport`]: Arguments and figures; prints as a table. The model's configuration keeps it.

    Raises:
        `ValueError`: a SID token without keywords, keywords that are SID tokens, tokens that all have the same
        keywords while rows are centred, an argument out of range.

    Example:

    ```python
    >>> from tsrec_hf import PUBLISHED_SA_INIT, initialize_sid_embeddings

    >>> report = initialize_sid_embeddings(model, tokenizer, semantics)
    >>> report.settings["pooling"], report.levels[0]["tokens"]
    ('idf', 2)
    >>> initialize_sid_embeddings(model, tokenizer, semantics, **PUBLISHED_SA_INIT).settings["pooling"]
    'mean'
    ```
    """
    index = tokenizer.sid_index
    if pooling not in ("mean", "idf"):
        raise ValueError(f"Expected `pooling` 'mean' or 'idf', but found {pooling!r}.")
    if isinstance(norm, str) and norm not in ("vocab_mean", "match_resize"):
        raise ValueError(f"Expected `norm` 'vocab_mean', 'match_resize', a number or None, but found {norm!r}.")
    if isinstance(norm, (int, float)) and not norm > 0:
        raise ValueError(f"Expected a `norm` above 0, but found {norm}.")
    if missing not in ("error", "resize"):
        raise ValueError(f"Expected `missing` 'error' or 'resize', but found {missing!r}.")
    levels = index.num_levels if levels is None else levels
    if not 1 <= levels <= index.num_levels:
        raise ValueError(f"Expected `levels` from 1 to {index.num_levels}, but found {levels}.")

    tokens, keywords, token_ids, level_of = _keywords_by_token(tokenizer, semantics, levels, missing)
    if shuffle_seed is not None:
        keywords = _shuffled_within_levels(keywords, level_of, shuffle_seed)
    first_sid = min(token_id for level in tokenizer.sid_token_ids for token_id in level)
    weights = _subtoken_weights(tokenizer, tokens, keywords, pooling, first_sid)
    report = []
    for name, module in _matrices(model).items():
        matrix = module.weight
        assert isinstance(matrix, torch.Tensor)  # an embedding's, or a linear layer's
        vocabulary = matrix[:first_sid].float()  # (vocabulary, width)
        rows = torch.sparse.mm(weights.to(vocabulary.device), vocabulary)  # (tokens, width)
        if center:
            rows = _centred(rows, tokens)
        target = _target_norm(norm, vocabulary)
        if target is not None:
            rows = rows * (target / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        matrix[token_ids.to(matrix.device)] = rows.to(matrix.dtype)
        for level in range(levels):
            chosen = torch.tensor(level_of) == level
            if chosen.any():
                report.append({"matrix": name, "level": level + 1, **_figures(rows[chosen.to(rows.device)])})
    settings = {
        "pooling": pooling,
        "center": center,
        "norm": norm,
        "num_levels": levels,
        "shuffle_seed": shuffle_seed,
        "tokens_without_keywords": sum(map(len, index.tokens[:levels])) - len(tokens),
    }
    found = SAInitReport(settings=settings, levels=report)
    # A checkpoint tells what its rows started from.
    if hasattr(getattr(model, "config", None), "sid_initialization"):
        model.config.sid_initialization = found.to_dict()
    return found


def _matrices(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Modules with one row per token: the input embeddings, and the output head when it has rows of its own."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    return {"input": inputs} if outputs.weight is inputs.weight else {"input": inputs, "output": outputs}


def _keywords_by_token(
    tokenizer, semantics: Mapping[str, Any], levels: int, missing: str
) -> tuple[list[str], list[list[str]], torch.Tensor, list[int]]:
    tokens, keywords, token_ids, level_of, without = [], [], [], [], []
    for level, (level_tokens, level_ids) in enumerate(
        zip(tokenizer.sid_index.tokens[:levels], tokenizer.sid_token_ids[:levels])
    ):
        for token, token_id in zip(level_tokens, level_ids):
            words = [word for word in semantics[token].keywords if word.strip()] if token in semantics else []
            if not words:
                without.append(token)
                continue
            tokens.append(token)
            keywords.append(words)
            token_ids.append(token_id)
            level_of.append(level)
    if without and (missing == "error" or not tokens):
        raise ValueError(
            f"Expected keywords for every SID token, but {len(without)} of {len(without) + len(tokens)} have none, "
            f"{without[0]!r} among them. Describe these tokens, or (where some have keywords) pass `missing='resize'` "
            "to start them as `resize_token_embeddings` would."
        )
    return tokens, keywords, torch.tensor(token_ids), level_of


def _shuffled_within_levels(keywords: list[list[str]], level_of: list[int], seed: int) -> list[list[str]]:
    generator = torch.Generator().manual_seed(seed)
    shuffled = list(keywords)
    for level in sorted(set(level_of)):
        places = [place for place, of_level in enumerate(level_of) if of_level == level]
        for place, source in zip(places, torch.randperm(len(places), generator=generator).tolist()):
            shuffled[place] = keywords[places[source]]
    return shuffled


def _centred(rows: torch.Tensor, tokens: list[str]) -> torch.Tensor:
    """Rows of shape `(tokens, width)` less their mean."""
    centred = rows - rows.mean(dim=0)
    # What rounding leaves of a row that is the mean would be scaled up to a direction that means nothing.
    vanished = (centred.norm(dim=-1) <= 1e-5 * rows.norm(dim=-1)).nonzero().flatten().tolist()
    if vanished:
        raise ValueError(
            f"Expected keywords that tell SID tokens apart, but those of {tokens[vanished[0]]!r} equal the mean of "
            f"all {len(tokens)} tokens, so that nothing is left when rows are centred. Describe the tokens by other "
            "keywords, or pass `center=False`."
        )
    return centred


def _subtoken_weights(
    tokenizer, tokens: list[str], keywords: list[list[str]], pooling: str, vocabulary_size: int
) -> torch.Tensor:
    """Sparse matrix of shape `(tokens, vocabulary)` whose product with the embeddings pools each token's keywords."""
    distinct = {word: None for words in keywords for word in words}
    encoded = tokenizer(plain_texts(tokenizer, distinct), add_special_tokens=False).input_ids
    pieces = dict(zip(distinct, encoded))
    unknown = next((word for word, ids in pieces.items() if not ids or max(ids) >= vocabulary_size), None)
    if unknown is not None:
        raise ValueError(
            f"Expected keywords in the backbone's own tokens, but {unknown!r} is empty or a SID token there. Remove "
            "it from the semantics."
        )
    frequency = Counter(word for words in keywords for word in set(words))
    row_ids, column_ids, values = [], [], []
    for row, words in enumerate(keywords):
        if pooling == "mean":
            shares = [(word, 1.0) for word in words]
            total = float(sum(len(pieces[word]) for word in words))
        else:
            idf = torch.log(torch.tensor([len(tokens) / frequency[word] for word in words], dtype=torch.float64))
            # Keywords that every token has carry no weight; when there are no others, all count alike.
            idf = idf if idf.sum() > 0 else torch.ones_like(idf)
            shares = [(word, weight / len(pieces[word])) for word, weight in zip(words, (idf / idf.sum()).tolist())]
            total = 1.0
        for word, share in shares:
            row_ids.extend([row] * len(pieces[word]))
            column_ids.extend(pieces[word])
            values.extend([share / total] * len(pieces[word]))
    return torch.sparse_coo_tensor(
        torch.tensor([row_ids, column_ids]),
        torch.tensor(values, dtype=torch.float32),
        size=(len(tokens), vocabulary_size),
        check_invariants=True,
    ).coalesce()


def _target_norm(norm: str | float | None, vocabulary: torch.Tensor) -> torch.Tensor | float | None:
    if norm == "vocab_mean":
        return vocabulary.norm(dim=-1).mean()
    if norm == "match_resize":
        return vocabulary.mean(dim=0).norm()
    assert not isinstance(norm, str)  # checked before
    return norm


def _figures(rows: torch.Tensor) -> dict[str, Any]:
    """Figures of one level's rows of shape `(tokens, width)`."""
    figures = {"tokens": len(rows), "mean_norm": rows.norm(dim=-1).mean().item()}
    if len(rows) < 2:
        # Not NaN, which is no JSON: the report travels in the checkpoint's configuration.
        return {**figures, "mean_cosine": None, "nearest_cosine": None}
    unit = nn.functional.normalize(rows, dim=-1)
    cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)
    pairs = cosine.masked_select(cosine > -torch.inf)
    return {**figures, "mean_cosine": pairs.mean().item(), "nearest_cosine": cosine.amax(dim=-1).mean().item()}
