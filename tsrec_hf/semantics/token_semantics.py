"""What each SID token means: the teacher's description and keywords of the items that carry it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from tsrec_hf.models import SIDIndex


@dataclass(frozen=True)
class TokenDescription:
    """
    Meaning of one SID token.

    Attributes:
        token (`str`): The token, such as `<a_12>`.
        description (`str`): What the items of its cluster share, in a sentence or more.
        keywords (`list[str]`): About 20 words or short phrases.
        provenance (`dict`, *optional*): Where both come from: the teacher, its model and prompt version, and counts.
            `None` for files that do not say.

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
        # The letters of one string would pass for keywords.
        if isinstance(self.keywords, str) or not all(isinstance(word, str) for word in self.keywords):
            raise TypeError(
                f"Expected the keywords of {self.token!r} as a list of strings, but found {self.keywords!r}. Split "
                "them, as in `['saw', 'hammer']`."
            )


class TokenSemantics(Mapping[str, TokenDescription]):
    r"""
    The meaning of SID tokens, looked up by token.

    Args:
        entries (`Iterable[TokenDescription]`):
            One entry per token.
        fingerprint (`str`, *optional*):
            Fingerprint of the [`SIDIndex`] that the tokens belong to. `None` where it is not known, as in files of
            MiniOneRec.

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

    def check_index(self, sid_index: "SIDIndex") -> None:
        """
        Checks that these descriptions belong to `sid_index` or to one of its ancestors.

        Two indexes name their tokens alike, so descriptions of another index would be trained on without an error.
        Without a fingerprint only the tokens can be compared: every token that an item carries needs an entry.

        Raises:
            `ValueError`: descriptions of another index, or tokens without a description where the index is not known.
        """
        if self.fingerprint is None:
            carried = (
                tokens[code]
                for level, tokens in enumerate(sid_index.tokens)
                for code in sorted(set(sid_index.codes[:, level].tolist()))
            )
            missing = [token for token in carried if token not in self]
            if missing:
                raise ValueError(
                    f"Expected a description of every token of the SID index, found none for {len(missing)} of them, "
                    f"first {missing[0]!r}. Describe the tokens of this index with `describe_tokens`."
                )
        elif not sid_index.fits(self.fingerprint):
            raise ValueError(
                f"Expected descriptions of the SID index {sid_index.fingerprint}, found descriptions of the index "
                f"{self.fingerprint}. The index was rebuilt since: run `describe_tokens` again."
            )

    @classmethod
    def from_json(cls, path: str | Path) -> "TokenSemantics":
        """
        Reads a teacher's file: `[{"token": "<a_12>", "description": "...", "keywords": ["...", ...]}, ...]`,
        or the same list under `entries`, beside the `fingerprint` of the index.

        Raises:
            `ValueError`: a truncated file, an entry without one of the three fields or with another type, a token that
            occurs twice.
        """
        path = Path(path)
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is not valid JSON ({error}). The file may be truncated: fetch or write it again."
            ) from error
        fingerprint = None
        if isinstance(rows, dict) and isinstance(rows.get("fingerprint"), str):
            fingerprint, rows = rows["fingerprint"], rows.get("entries")
        if not isinstance(rows, list):
            raise ValueError(f"Expected {path} to hold a list of entries, but found `{type(rows).__name__}`.")
        return cls((_entry(row, number, path) for number, row in enumerate(rows)), fingerprint)

    def to_json(self, path: str | Path) -> None:
        """
        Writes the file that [`TokenSemantics.from_json`] reads.

        Each entry has its own `provenance`, where it is known: other readers of this format pass over a field that
        they do not know. A file written here and one of MiniOneRec's come back byte for byte.
        """
        rows = [asdict(entry) for entry in self._entries.values()]
        rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
        content = rows if self.fingerprint is None else {"fingerprint": self.fingerprint, "entries": rows}
        Path(path).write_text(
            json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True), encoding="utf-8", newline="\n"
        )

    def count_teachers(self) -> dict[str, int]:
        r"""
        How many tokens each teacher described, most first.

        Returns:
            `dict[str, int]`: Teacher, with its model if it has one -> number of tokens; "unknown" where a file does
            not say.

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
    return TokenDescription(row["token"], row["description"], list(row["keywords"]), provenance)
