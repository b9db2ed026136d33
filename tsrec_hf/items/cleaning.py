"""Clean scraped texts: remove HTML and control characters, resolve entities, collapse white space."""

import html
import re

import pyarrow as pa
import pyarrow.compute as pc

from tsrec_hf.models.checking_tsrec import checks_types


# Tags are matched by name, because `vector<int>` and `5 < 6 > 4` are not HTML.
TAGS = (
    "a|abbr|address|article|aside|b|big|blockquote|body|br|button|caption|center|cite|code|col|colgroup|dd|del|div|dl|"
    "dt|em|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|main|"
    "mark|meta|nav|noscript|ol|option|p|pre|s|section|select|small|span|strike|strong|sub|sup|table|tbody|td|textarea|"
    "tfoot|th|thead|title|tr|tt|u|ul|video"
)
MARKUP = (
    r"(?is)<script\b[^>]*>.*?</script\s*>|<style\b[^>]*>.*?</style\s*>|<!--.*?-->" rf"|</?(?:{TAGS})(?:\s[^<>]*)?/?>"
)
# Only entities that end in a semicolon: "&notebook" is not "¬ebook". Arrow finds the few texts that have one by the
# first pattern; Python resolves their entities by the second.
HAS_ENTITY = r"&#?\w+;"
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Invisible: soft hyphen, zero-width space, direction marks, byte order mark and the replacement character of
# undecodable bytes. The joiners U+200C and U+200D are kept, because some scripts and emoji need them.
INVISIBLE = r"[\x{00AD}\x{200B}\x{200E}\x{200F}\x{202A}-\x{202E}\x{2060}-\x{2069}\x{FEFF}\x{FFFD}]"
SPACE = r"[\s\p{Z}\p{Cc}]+"


@checks_types
def clean_text(texts: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    r"""
    Converts texts to plain text without HTML, one line each.

    HTML tags become spaces, scripts and comments are removed with their content, entities are resolved (also those
    escaped twice), control and invisible characters are removed, white space is collapsed, and Unicode is normalised
    to NFC.

    Args:
        texts (`pyarrow.Array` or `pyarrow.ChunkedArray`):
            Strings; missing ones become empty.

    Returns:
        `pyarrow.ChunkedArray`: The cleaned strings, in the same order.

    Example:

    ```python
    >>> import pyarrow as pa
    >>> from tsrec_hf.items import clean_text

    >>> clean_text(pa.array(["<b>Nuts &amp;amp; bolts</b><br/>5 < 6&nbsp;\x00mm", None])).to_pylist()
    ['Nuts & bolts 5 < 6 mm', '']
    ```
    """
    texts = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([texts])
    # Chunk by chunk, so that no string array grows beyond Arrow's 2 GB.
    return pa.chunked_array([_clean_chunk(chunk) for chunk in texts.chunks], pa.string())


def _clean_chunk(texts: pa.Array) -> pa.Array:
    texts = pc.fill_null(texts.cast(pa.string()), "")
    escaped = pc.match_substring_regex(texts, HAS_ENTITY)
    if pc.any(escaped).as_py():
        resolved = [_resolve(_resolve(text)) for text in texts.filter(escaped).to_pylist()]
        texts = pc.replace_with_mask(texts, escaped, pa.array(resolved, pa.string()))
    texts = pc.replace_substring_regex(texts, MARKUP, " ")
    texts = pc.replace_substring_regex(texts, INVISIBLE, "")
    texts = pc.replace_substring_regex(texts, SPACE, " ")
    return pc.utf8_normalize(pc.utf8_trim_whitespace(texts), form="NFC")


def _resolve(text: str) -> str:
    return ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
