"""
Words of text in any script.

Where words stand apart, a word is a run of letters, digits and combining marks, as Unicode defines them. Chinese,
Japanese, Thai, Lao, Khmer and Burmese are written without spaces: their words are those of ICU's dictionaries, through
the optional package icu4py.
"""

import logging
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import regex


logger = logging.getLogger(__name__)

# Scripts without spaces: those that Unicode's line breaking leaves to dictionaries (SA), and Chinese and Japanese.
_UNSPACED = r"\p{lb=SA}\p{Han}\p{Hiragana}\p{Katakana}"
_RUN = regex.compile(
    rf"(?P<unspaced>[{_UNSPACED}][{_UNSPACED}\p{{M}}ー]*)|(?:(?![{_UNSPACED}])[\w\p{{M}}\u200c\u200d])+"
)
_HAS_LETTER = regex.compile(r"\p{L}")
_ENDS_INSIDE = regex.compile(r"[\p{M}\u200c\u200d]")
_HAN = regex.compile(r"\p{Han}")
_SPACE_IN_UNSPACED = regex.compile(rf"(?<=[{_UNSPACED}\p{{M}}ー]) (?=[{_UNSPACED}])")
_UNSPACED_START = regex.compile(rf"[{_UNSPACED}]")
# Share of texts in a script without spaces from which on missing dictionaries are an error, not a warning.
MOST_UNSEGMENTED = 0.01
# A longer run of letters is an address or a key, not a word.
LONGEST_WORD = 40


class Word(NamedTuple):
    """A word and where it stands in its text; `is_unspaced` tells that its script has no spaces."""

    text: str
    start: int
    end: int
    is_unspaced: bool


def find_words(text: str) -> Iterator[Word]:
    r"""
    Yields the words of a text in order, also numbers and single letters, without punctuation.

    A run of a script without spaces is one word if icu4py is not installed; [`check_segmenter`] tells about it.

    Example:

    ```python
    >>> from tsrec_hf.semantics.words import find_words

    >>> [word.text for word in find_words("Бутылка для воды, 1 l: स्टील पानी")]
    ['Бутылка', 'для', 'воды', '1', 'l', 'स्टील', 'पानी']
    ```
    """
    breaker = _word_breaker()
    for run in _RUN.finditer(text):
        start = run.start()
        if run["unspaced"] is None or breaker is None:
            yield Word(run.group(), start, run.end(), run["unspaced"] is not None)
            continue
        # The lengths of the pieces are added up, because ICU's own positions count UTF-16 units.
        for piece in breaker(run.group(), "root"):
            yield Word(piece, start, start + len(piece), True)
            start += len(piece)


def find_terms(text: str, stop_words: frozenset[str] = frozenset()) -> list[str]:
    r"""
    Words and two-word phrases that may serve as keywords, in lower case.

    A word has two to 40 characters and a letter, because sizes such as "12" are not informative; a single Chinese
    character is one, too. Stop words are passed over, also inside phrases. In scripts without spaces a phrase is two
    words that touch. [`spell`] writes it as the text has it.

    Args:
        text (`str`):
            Any text.
        stop_words (`frozenset[str]`, *optional*):
            Words to leave out, in lower case.

    Returns:
        `list[str]`: First the words, then the phrases as two words with a space between them.

    Example:

    ```python
    >>> from tsrec_hf.semantics.words import find_terms

    >>> find_terms("Bottle of steel, 12 oz", frozenset({"of"}))
    ['bottle', 'steel', 'oz', 'bottle steel', 'steel oz']
    ```
    """
    words = [word._replace(text=word.text.lower()) for word in find_words(text)]
    words = [word for word in words if _is_keyword(word) and word.text not in stop_words]
    phrases = [
        f"{left.text} {right.text}"
        for left, right in zip(words, words[1:])
        if not (left.is_unspaced or right.is_unspaced)
        or (left.is_unspaced and right.is_unspaced and left.end == right.start)
    ]
    return [word.text for word in words] + phrases


def spell(term: str) -> str:
    """Writes a term of [`find_terms`] as texts have it: without the space between words of a script without spaces."""
    return _SPACE_IN_UNSPACED.sub("", term)


def cut_at_word(text: str, max_chars: int) -> str:
    r"""
    Shortens a text to its first words.

    Args:
        text (`str`):
            Any text.
        max_chars (`int`):
            Maximum number of characters, at least 1.

    Returns:
        `str`: The text, or what its last whole word within the limit ends. If not even the first word fits, that is
        cut, but not between a letter and its marks.

    Example:

    ```python
    >>> from tsrec_hf.semantics.words import cut_at_word

    >>> cut_at_word("Stainless steel bottle", 16), cut_at_word("Stainless", 5)
    ('Stainless steel', 'Stain')
    ```
    """
    if len(text) <= max_chars:
        return text
    end = 0
    for word in find_words(text[: max_chars + LONGEST_WORD]):  # a word across the limit is seen whole
        if word.end > max_chars:
            break
        end = word.end
    if end == 0:
        end = max_chars
        while end > 1 and _ENDS_INSIDE.match(text, end):
            end -= 1
    return text[:end]


def check_segmenter(texts: Iterable[str]) -> None:
    """
    Looks for texts whose words icu4py would have to find where it is not installed.

    Raises:
        `ImportError`: more than 1 % of the texts are such; fewer are warned about.
    """
    if _word_breaker() is not None:
        return
    found, total, first = 0, 0, ""
    for text in texts:
        total += 1
        if _UNSPACED_START.search(text):
            found += 1
            first = first or text
    advice = 'Install it with `pip install ".[keywords]"` in a clone of the repository.'
    if found > MOST_UNSEGMENTED * total:
        raise ImportError(
            f"{found} of {total} texts are in a script without spaces between words (Chinese, Japanese, Thai, Lao, "
            f"Khmer, Burmese), such as {first[:40]!r}. Their words need icu4py, which is not installed. {advice}"
        )
    if found:
        logger.warning(
            "%d of %d texts are in a script without spaces between words, such as %r: without icu4py, which is not "
            "installed, whole runs of it count as one word. %s",
            found,
            total,
            first[:40],
            advice,
        )


def _is_keyword(word: Word) -> bool:
    long_enough = len(word.text) > 1 or _HAN.match(word.text)
    return bool(long_enough and len(word.text) <= LONGEST_WORD and _HAS_LETTER.search(word.text))


@cache
def _word_breaker() -> Any:
    try:
        from icu4py.breakers import WordBreaker
    except ImportError:
        return None
    return WordBreaker
