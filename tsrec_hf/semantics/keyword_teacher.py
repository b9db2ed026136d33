"""Teacher without a language model: describe a token by the keywords that distinguish its cluster from its siblings.

TS-Rec asks a teacher LLM for about 20 keywords and a description of a sample of each cluster. Here words and two-word
phrases of all items of the cluster are ranked by class-based TF-IDF (one class per token, over the tokens of one
level), and the description is built from the top keywords and the most typical titles. The result is deterministic and
needs no download.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from tsrec_hf.models.checking_tsrec import checks_types

from .item_text import text_of, title_of
from .token_semantics import TokenDescription
from .words import check_segmenter, cut_at_word, find_terms, spell


if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


logger = logging.getLogger(__name__)

# Maximum number of characters of an example title in a description, and of a title that serves as a keyword.
LONGEST_TITLE = 80
# Maximum number of distinct words and phrases, the most frequent ones; it bounds memory on large catalogues.
VOCABULARY_SIZE = 200_000
KEYWORDS_IN_DESCRIPTION = 5


@checks_types
@dataclass(frozen=True)
class KeywordTeacher:
    r"""
    Describes SID tokens by the keywords that distinguish their items from those of the level's other tokens.

    Each item counts once for every word and two-word phrase of its text, and once more for those of its title; English
    stop words are excluded. Items of a cluster with the same title count as one for its words, and with the same text
    as one for all. A phrase needs two items of the cluster, and a word that the cluster has only inside a chosen
    phrase is skipped. Words of a single item, such as part numbers, are ranked last. For an item without title and
    description the other text columns are used. A cluster without any usable word gets its titles as keywords. Titles
    are cut to 80 characters in descriptions and keywords, at a word; how many were is logged.

    Text may be in any script. Requires scikit-learn and, for the words of Chinese, Japanese, Thai, Lao, Khmer and
    Burmese, icu4py: `pip install ".[keywords]"` in a clone of the repository.

    Args:
        num_keywords (`int`, *optional*, defaults to `20`):
            Maximum number of keywords per token.
        num_titles (`int`, *optional*, defaults to `3`):
            Maximum number of example titles in a description.

    Example:

    ```python
    >>> from tsrec_hf.semantics import KeywordTeacher

    >>> clusters = {
    ...     "<a_0>": [{"title": "Cobalt drill bit"}, {"title": "Steel drill bit"}, {"title": "Cobalt steel saw"}],
    ...     "<a_1>": [{"title": "Steel tape measure"}, {"title": "Tape measure"}],
    ... }
    >>> semantics = KeywordTeacher(num_keywords=2).describe(clusters)
    >>> semantics["<a_0>"].keywords  # steel is everywhere; drill and bit always come as "drill bit"
    ['drill bit', 'cobalt']
    >>> semantics["<a_1>"].description
    'Items about tape measure and steel. For example: Steel tape measure; Tape measure.'
    ```
    """

    num_keywords: int = 20
    num_titles: int = 3

    def __post_init__(self) -> None:
        if self.num_keywords < 1 or self.num_titles < 0:
            raise ValueError(
                f"Expected `num_keywords` of at least 1 and `num_titles` of at least 0, found {self.num_keywords} and "
                f"{self.num_titles}. The defaults are 20 and 3."
            )

    def describe(self, clusters: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, TokenDescription]:
        r"""
        Describes all tokens of one level.

        Args:
            clusters (`Mapping[str, Sequence[Mapping]]`):
                Token -> the items that carry it. All tokens of a level at once, because TF-IDF compares them.

        Returns:
            `dict[str, TokenDescription]`: One entry per token, in the order of `clusters`.

        Example:

        ```python
        >>> from tsrec_hf.semantics import KeywordTeacher

        >>> teacher = KeywordTeacher()
        >>> teacher.describe({"<a_0>": [{"title": "It"}], "<a_1>": [{"title": "Glue"}]})["<a_0>"].keywords
        ['It']
        ```
        """
        sizes = [len(cluster) for cluster in clusters.values()]
        voices = list(chain.from_iterable(map(_voices_of, clusters.values())))
        terms, uses, title_uses = _count_terms([text for text, _ in voices], [title for _, title in voices])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        counts = _sum_rows(uses, sizes)  # (tokens, terms), in items
        weights = class_tfidf(counts + _sum_rows(title_uses, sizes))
        unshared = np.asarray(counts.sum(axis=0)).ravel() < 2  # (terms,)
        described = {}
        num_cut = 0
        for row, (token, cluster) in enumerate(clusters.items()):
            chosen = self._choose(terms, counts[row], weights[row], unshared)
            typicality = uses[starts[row] : starts[row + 1]][:, chosen] @ weights[row, chosen].toarray().ravel()
            titles = [title_of(cluster[position]) for position in np.argsort(-typicality, kind="stable")]
            titles = [title for title in dict.fromkeys(titles) if title]
            keywords = [spell(terms[column]) for column in chosen]
            quoted = titles[: self.num_titles if keywords else max(self.num_titles, self.num_keywords)]
            num_cut += sum(len(title) > LONGEST_TITLE for title in quoted)
            quoted = list(dict.fromkeys(cut_at_word(title, LONGEST_TITLE) for title in quoted))
            keywords = keywords or quoted[: self.num_keywords]
            if not keywords:
                raise ValueError(
                    f"Expected a word or a title among the {len(cluster)} items of {token}, found none. Give these "
                    f"items a title or a description: {[item.get('item_id') for item in cluster[:5]]}."
                )
            described[token] = TokenDescription(
                token=token,
                description=_sentence(keywords, quoted[: self.num_titles]),
                keywords=keywords,
                provenance={"teacher": "KeywordTeacher", "num_items": len(cluster)},
            )
        if num_cut:
            logger.info(
                "%d titles in descriptions were cut to their first %d characters, at a word.", num_cut, LONGEST_TITLE
            )
        return described

    def _choose(
        self, terms: Sequence[str], counts: "csr_matrix", weights: "csr_matrix", unshared: np.ndarray
    ) -> list[int]:
        """
        Selects the columns of one token's top `num_keywords` terms; `counts` and `weights` are the token's rows.

        Greedy by rank. A word is redundant if a chosen phrase contains it equally often, since the word then only
        occurs inside the phrase; a phrase is redundant if chosen phrases already contain all its words.
        """
        count_of = dict(zip(counts.indices.tolist(), counts.data.tolist(), strict=True))
        ranked = sorted(
            zip(weights.indices.tolist(), weights.data.tolist(), strict=True),
            key=lambda pair: (
                unshared[pair[0]],
                -round(pair[1], 12),  # ties that differ only by rounding
                " " not in terms[pair[0]],  # phrases first
                terms[pair[0]],
            ),
        )
        chosen: list[int] = []
        phrase_count: dict[str, int] = {}  # word -> largest count of a chosen phrase that holds it
        for column, _ in ranked:
            words, count = terms[column].split(" "), count_of[column]
            if len(words) == 1:
                redundant = phrase_count.get(words[0]) == count
            else:
                redundant = count < 2 or all(word in phrase_count for word in words)
            if redundant:
                continue
            chosen.append(column)
            if len(words) > 1:
                phrase_count.update((word, max(count, phrase_count.get(word, 0))) for word in words)
            if len(chosen) == self.num_keywords:
                break
        return chosen


def class_tfidf(counts: "csr_matrix") -> "csr_matrix":
    r"""
    Computes class-based TF-IDF: the weight of each term for each class.

    The weight of term `t` in class `c` is `counts[c, t] / counts[c].sum() * log(1 + A / counts[:, t].sum())`,
    where `A` is the average `counts[c].sum()` over the classes.

    Args:
        counts (`scipy.sparse.csr_matrix` of shape `(classes, terms)`):
            Number of occurrences; each term needs at least one.

    Returns:
        `scipy.sparse.csr_matrix` of shape `(classes, terms)`: Weights; zero where the count is zero.

    Example:

    ```python
    >>> from scipy.sparse import csr_matrix

    >>> class_tfidf(csr_matrix([[3, 1], [0, 4]])).toarray().round(3)  # row sums 4 and 4, so A = 4
    array([[0.635, 0.147],
           [0.   , 0.588]])
    ```
    """
    class_totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()  # (classes,)
    term_totals = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()  # (terms,)
    idf = np.log1p(class_totals.mean() / term_totals)
    weights = counts.astype(np.float64).tocsr()
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    weights.data *= idf[weights.indices] / class_totals[rows]
    return weights


def check_packages(texts: Sequence[str]) -> None:
    """Raises `ImportError` if a package that [`KeywordTeacher`] requires for these texts is not installed."""
    try:
        import sklearn.feature_extraction.text  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "`KeywordTeacher` needs scikit-learn, which is not installed. "
            'Install it with `pip install ".[keywords]"` in a clone of the repository.'
        ) from error
    check_segmenter(texts)


def _voices_of(cluster: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns text and title of each item, without what an earlier item of the cluster says in the same words."""
    seen: set[str] = set()
    voices = []
    for item in cluster:
        title, text = title_of(item), text_of(item)
        title_key, text_key = (" ".join(one.split()).casefold() for one in (title, text))
        if title_key in seen:
            text, title = text.removeprefix(title), ""
        if text_key in seen:
            text = ""
        seen |= {title_key, text_key}
        voices.append((text, title))
    return voices


def _count_terms(texts: Sequence[str], titles: Sequence[str]) -> tuple[list[str], "csr_matrix", "csr_matrix"]:
    """Returns the terms of `texts` and binary term matrices of texts and titles, each of shape `(texts, terms)`."""
    check_packages(texts)
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

    analyze = partial(find_terms, stop_words=ENGLISH_STOP_WORDS)
    vectorizer = CountVectorizer(analyzer=analyze, max_features=VOCABULARY_SIZE, binary=True, dtype=np.int32)
    if not any(analyze(text) for text in texts):  # scikit-learn raises on an empty vocabulary
        empty = csr_matrix((len(texts), 0), dtype=np.int32)
        return [], empty, empty
    uses = csr_matrix(vectorizer.fit_transform(texts))
    return vectorizer.get_feature_names_out().tolist(), uses, csr_matrix(vectorizer.transform(titles))


def _sum_rows(uses: "csr_matrix", sizes: Sequence[int]) -> "csr_matrix":
    """Sums consecutive rows, `sizes[c]` of them for class `c`; returns shape `(classes, terms)`."""
    from scipy.sparse import csr_matrix

    num_rows = sum(sizes)
    classes = np.repeat(np.arange(len(sizes)), sizes)  # (rows,)
    membership = csr_matrix(
        (np.ones(num_rows, dtype=np.int32), (classes, np.arange(num_rows))), (len(sizes), num_rows)
    )
    return membership @ uses


def _sentence(keywords: Sequence[str], titles: Sequence[str]) -> str:
    """Formats a description: `Items about a, b and c. For example: X; Y.`"""
    named = keywords[:KEYWORDS_IN_DESCRIPTION]
    topic = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    examples = "; ".join(title.rstrip(".") for title in titles)
    return f"Items about {topic}." + (f" For example: {examples}." if examples else "")
