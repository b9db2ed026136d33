"""Titles as people write them: catalogues put the article last, to sort by the word after it, and the year behind."""

import re


ARTICLES = "The|An?|L'|La|Les?|Une?|El|Los|Las|Il|Lo|Gli|Das|Der|Die|Det"
ARTICLE_LAST = re.compile(rf"([^()]*[^()\s]), ({ARTICLES})(?=\s*(?:[()]|$))")
YEAR_LAST = re.compile(r"\s*\(((?:18|19|20)\d\d)\)\s*$")


def written_title(title: str) -> tuple[str, str]:
    """
    A title with its article in front, and the year that stood behind it, or an empty string.

    Example:

    ```python
    >>> written_title("Godfather, The (1972)")
    ('The Godfather', '1972')
    >>> written_title("Star Maker, The (Uomo delle stelle, L')")
    ("The Star Maker (L'Uomo delle stelle)", '')
    ```
    """
    year = YEAR_LAST.search(title)
    return ARTICLE_LAST.sub(_article_first, YEAR_LAST.sub("", title)).strip(), year[1] if year else ""


def _article_first(found: re.Match) -> str:
    return f"{found[2]}{'' if found[2].endswith(chr(39)) else ' '}{found[1]}"
