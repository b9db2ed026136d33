"""Read a JSON file that others have written: every way in which it can be wrong has its words, for all readers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_json(path: str | Path) -> Any:
    """
    The document of a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        `FileNotFoundError`: no such file. `ValueError`: a truncated file, another encoding, a name that occurs twice
        in an object (all but one of the values would be lost), half of a surrogate pair, a document that is nested too
        deep. All name the file.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf.models.json_files_tsrec import read_json

    >>> path = Path(tempfile.mkdtemp(), "index.json")
    >>> _ = path.write_text('{"7": ["<a_0>"], "7": ["<a_1>"]}')
    >>> read_json(path)
    Traceback (most recent call last):
        ...
    ValueError: Expected every name once in an object of .../index.json, but '7' occurs twice. Remove one of the two.
    ```
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a JSON file at {path}, but there is none. Check the path.")

    def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise _TwiceError(
                    f"Expected every name once in an object of {path}, but {name!r} occurs twice. Remove one of the "
                    "two."
                )
            found[name] = value
        return found

    try:
        text = path.read_text(encoding="utf-8-sig")
        document = json.loads(text, object_pairs_hook=once)
        # Only escapes can spell half of a pair, which no file in UTF-8 could hold again.
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except _TwiceError as error:
        raise ValueError(str(error)) from None
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Expected text in {path} that UTF-8 can hold, but found half of a surrogate pair behind "
            f"{error.object[max(0, error.start - 20) : error.start]!r}. Remove the escape, or write the file again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). The file may be truncated: fetch or write it again."
        ) from error
    return document


class _TwiceError(Exception):
    """A name occurs twice. No `ValueError`, which the file's other faults are."""
