"""Meaning of SID tokens: a teacher's description and keywords of the items that carry each token."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.json_files_tsrec import read_json
from tsrec_hf.models.replacing_tsrec import write_text


if TYPE_CHECKING:
    from tsrec_hf.models import SIDIndex

# A teacher gives 20 of at most 80 characters; a file of another kind, or a hostile one, may hold anything.
MOST_KEYWORDS, LONGEST_KEYWORD = 1000, 1000
# Stored in each entry, so that the file stays a list that readers of MiniOneRec's format accept.
FINGERPRINT_KEY = "index_fingerprint"


@dataclass(frozen=True)
class TokenDescription:
    """
    Meaning of one SID token.

    Attributes:
        token (`str`): The token, such as `<a_12>`.
        description (`str`): What the items of its cluster have in common, in one or more sentences.
        keywords (`list[str]`): About 20 words or short phrases.
        provenance (`dict`, *optional*): Teacher, model, prompt version and counts; `None` if unknown.

    Example:

    ```python
    >>> from tsrec_hf import TokenDescription

    >>> TokenDescription("<a_0>", "Tools for wood.", ["saw", "hammer"]).keywords
    ['saw', 'hammer']
    ```
    """

    token: str
    description: str
    keywords: list[str]
    provenance: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        # A string is a sequence of strings too, and its letters would be taken for keywords.
        if isinstance(self.keywords, str) or not all(isinstance(word, str) for word in self.keywords):
            raise TypeError(
                f"Expected the keywords of {self.token!r} as a list of strings, but found {self.keywords!r}. Split "
                "them, as in `['saw', 'hammer']`."
            )
        longest = max(map(len, self.keywords), default=0)
        if len(self.keywords) > MOST_KEYWORDS or longest > LONGEST_KEYWORD:
            raise ValueError(
                f"Expected at most {MOST_KEYWORDS} keywords of {LONGEST_KEYWORD} characters each for {self.token!r}, "
                f"but found {len(self.keywords)}, the longest of {longest}. Keep the most characteristic ones."
            )


class TokenSemantics(Mapping[str, TokenDescription]):
    r"""
    Maps SID tokens to their descriptions.

    Args:
        entries (`Iterable[TokenDescription]`):
            One entry per token.
        fingerprint (`str`, *optional*):
            Fingerprint of the [`SIDIndex`] whose tokens are described. `None` if unknown.

    Raises:
        `TypeError`: entries that are not [`TokenDescription`]. `ValueError`: a token that occurs twice.

    Example:

    ```python
    >>> from tsrec_hf import TokenDescription, TokenSemantics

    >>> semantics = TokenSemantics([TokenDescription("<a_0>", "Tools for wood.", ["saw", "hammer"])])
    >>> semantics["<a_0>"].keywords
    ['saw', 'hammer']
    ```
    """

    def __init__(self, entries: Iterable[TokenDescription], fingerprint: str | None = None):
        self.fingerprint = fingerprint
        self._entries: dict[str, TokenDescription] = {}
        for entry in entries:
            if not isinstance(entry, TokenDescription):
                raise TypeError(
                    f"Expected `TokenDescription` entries, but found {entry!r} of type `{type(entry).__name__}`. Pass "
                    "the values of a dictionary, and read a teacher's file with `TokenSemantics.from_json`."
                )
            if entry.token in self._entries:
                raise ValueError(
                    f"Expected one entry per token, but {entry.token!r} occurs twice. Merge its keywords."
                )
            self._entries[entry.token] = entry

    def __getitem__(self, token: str) -> TokenDescription:
        try:
            return self._entries[token]
        except KeyError:
            raise KeyError(
                f"Token {token!r} has no description among the {len(self)} known tokens. Describe it, or use the "
                "semantics of this SID index."
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, token: object) -> bool:
        return token in self._entries

    def __repr__(self) -> str:
        return f"TokenSemantics({len(self)} tokens)"

    @checks_types
    def check_index(self, sid_index: "SIDIndex") -> None:
        """
        Checks that the descriptions belong to an index or to one of its ancestors.

        All indexes name their tokens `<a_0>`, `<a_1>`, ..., so the descriptions of another index would be used without
        an error and train the model on wrong meanings. If the fingerprint is unknown, as in MiniOneRec's files, the
        check only requires a description of every token that an item carries.

        Args:
            sid_index ([`SIDIndex`]):
                The index to use the descriptions with.

        Raises:
            `ValueError`: the descriptions belong to another index, or do not cover this one.

        Example:

        ```python
        >>> from tsrec_hf import SIDIndex, TokenSemantics

        >>> TokenSemantics([], fingerprint=sid_index.fingerprint).check_index(sid_index)
        ```
        """
        if self.fingerprint is not None:
            if not sid_index.fits(self.fingerprint):
                raise ValueError(
                    f"Expected descriptions of the tokens of SID index {sid_index.fingerprint}, but these belong to "
                    f"index {self.fingerprint}, where the same tokens mean other items. Describe the tokens of this "
                    "index with `describe_tokens`, or use the index that was described."
                )
            return
        carried = {
            level_tokens[code]: None
            for level, level_tokens in enumerate(sid_index.tokens)
            for code in sorted(set(sid_index.codes[:, level].tolist()))
        }
        missing = [token for token in carried if token not in self]
        if missing:
            raise ValueError(
                f"Expected a description for each of the {len(carried)} tokens that items of SID index "
                f"{sid_index.fingerprint} carry, but {len(missing)} have none, first {missing[0]!r}. Use the "
                "descriptions of this index, or make them with `describe_tokens`."
            )

    @classmethod
    @checks_types
    def from_json(cls, path: str | Path) -> "TokenSemantics":
        """
        Reads a teacher's file: `[{"token": "<a_12>", "description": "...", "keywords": ["...", ...]}, ...]`.

        Raises:
            `ValueError`: a truncated file, an entry without one of the three fields or with another type, a token that
            occurs twice.
        """
        path = Path(path)
        rows = read_json(path)
        if not isinstance(rows, list):
            raise ValueError(f"Expected {path} to hold a list of entries, but found `{type(rows).__name__}`.")
        entries = [_entry(row, number, path) for number, row in enumerate(rows)]
        return cls(entries, _common_fingerprint(rows, path))

    @checks_types
    def to_json(self, path: str | Path) -> None:
        """
        Writes the file that [`TokenSemantics.from_json`] reads.

        Each entry also holds its `provenance` and the fingerprint of the index, if known; other readers of the format
        ignore these fields. Reading a file and writing it again, also one of MiniOneRec's, gives the same bytes.
        """
        rows = [asdict(entry) for entry in self._entries.values()]
        rows = [{**row, FINGERPRINT_KEY: self.fingerprint} for row in rows]
        rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
        write_text(path, json.dumps(rows, ensure_ascii=False, indent=2, sort_keys=True))

    def count_teachers(self) -> dict[str, int]:
        r"""
        Counts the tokens that each teacher described, in descending order.

        Returns:
            `dict[str, int]`: Teacher, with its model if it has one -> number of tokens; "unknown" if a file does
            not name it.

        Example:

        ```python
        >>> from tsrec_hf import describe_tokens

        >>> describe_tokens(dataset.items, dataset.sid_index).count_teachers()
        {'KeywordTeacher': 7}
        ```
        """
        names = (_teacher_name(entry.provenance or {}) for entry in self._entries.values())
        return dict(Counter(names).most_common())


def _teacher_name(provenance: Mapping[str, Any]) -> str:
    teacher, model = provenance.get("teacher", "unknown"), provenance.get("model")
    return f"{teacher} ({model})" if model else teacher


def _common_fingerprint(rows: list[dict[str, Any]], path: Path) -> str | None:
    found = {row.get(FINGERPRINT_KEY) for row in rows}
    if len(found) > 1:
        raise ValueError(
            f"Expected one `{FINGERPRINT_KEY}` in {path}, but found {sorted(map(str, found))}: descriptions of "
            "several indexes in one file. Describe the tokens of one index with `describe_tokens`."
        )
    return found.pop() if found else None


def _entry(row: object, number: int, path: Path) -> TokenDescription:
    fields = {"token": str, "description": str, "keywords": list}
    if not isinstance(row, dict) or any(not isinstance(row.get(name), kind) for name, kind in fields.items()):
        found = {name: type(value).__name__ for name, value in row.items()} if isinstance(row, dict) else row
        raise ValueError(
            f"Expected entry {number} of {path} to hold `token` (str), `description` (str) and `keywords` (list), but "
            f"found {found}."
        )
    if not all(isinstance(word, str) for word in row["keywords"]):
        raise ValueError(
            f"Expected the keywords of {row['token']!r} in {path} to be strings, but found {row['keywords']}."
        )
    provenance = row.get("provenance")
    if provenance is not None and not isinstance(provenance, dict):
        raise ValueError(
            f"Expected `provenance` of {row['token']!r} in {path} to be a dictionary, but found {provenance!r}."
        )
    if not isinstance(row.get(FINGERPRINT_KEY), str | None):
        raise ValueError(
            f"Expected `{FINGERPRINT_KEY}` of {row['token']!r} in {path} to be a string, but found "
            f"{row[FINGERPRINT_KEY]!r}."
        )
    return TokenDescription(row["token"], row["description"], list(row["keywords"]), provenance)
