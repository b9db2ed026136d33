"""The history in the address of the page, so that a link can be shared."""

from urllib.parse import parse_qs, urlencode


NAME = "item"
# What is read when the page opens, beside a query that the browser may have kept.
READ = "(query, _) => [query, window.location.search]"
# Other parts of the query, such as the theme, stay; the browser's past gets no page for every click.
WRITE = f"""(items) => {{
    const url = new URL(window.location), given = new URLSearchParams(items);
    url.searchParams.delete("{NAME}");
    given.getAll("{NAME}").forEach((item) => url.searchParams.append("{NAME}", item));
    url.hash = "";
    window.history.replaceState(window.history.state, "", url);
    return url.href;
}}"""


def link_of(history: list[str]) -> str:
    """
    The part of an address that names a history.

    Example:

    ```python
    >>> link_of(["117", "a&b"])
    'item=117&item=a%26b'
    ```
    """
    return urlencode([(NAME, item) for item in history])


def history_of(link: str, most: int) -> list[str]:
    """The history that an address names: its last `most` items, in whatever order the address has other things."""
    return parse_qs(link.removeprefix("?")).get(NAME, [])[-most:]
