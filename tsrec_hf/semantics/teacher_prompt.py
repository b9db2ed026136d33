"""Build the prompt for a chat model about a cluster, and parse and validate its answer.

`PROMPT_VERSION` increases with every change of the wording, since files record it in their provenance.
"""

import json
from collections.abc import Sequence
from typing import Any

from tsrec_hf.models.checking_tsrec import checks_types


PROMPT_VERSION = 1
LEAST_KEYWORDS, MOST_KEYWORDS = 15, 20
# Limits in characters. Longer ones are sentences or lists, which SA-Init and TS-Align cannot use.
LONGEST_KEYWORD, LONGEST_DESCRIPTION = 80, 3000
# Limit in characters: a longer answer comes from a model that does not stop.
LONGEST_ANSWER = 50_000

Message = dict[str, str]

# Without an example answer: small models would copy it, and a copy would pass validation.
QUESTION = """The following {shown} of {total} items form one group of a catalogue:

{items}

What do the items of this group share? Answer with one JSON object and nothing else. It has two fields: \
"description", a string of two or three sentences on what the items are, what they share and what they are used for; \
and "keywords", a list of {least} to {most} strings, words or short phrases, the most characteristic first, none \
twice."""
# Prefix of the answer, for models whose answers can be prefilled.
ANSWER_START = '{"description": "'
CORRECTION = "This answer cannot be used: {reason} Answer again with the JSON object alone."


class BadAnswerError(ValueError):
    """Raised for an answer in a wrong format; the message gives the reason and is sent back to the model."""


@checks_types
def build_question(texts: Sequence[str], total: int) -> list[Message]:
    r"""
    Builds the conversation that asks for the description of one token.

    It is a single user message, because some chat templates do not accept a system message.

    Args:
        texts (`Sequence[str]`):
            The sampled items, one text each.
        total (`int`):
            Number of items of the cluster.

    Returns:
        `list[dict[str, str]]`: Chat messages.

    Example:

    ```python
    >>> from tsrec_hf.semantics import build_question

    >>> [message] = build_question(["Cobalt drill", "Titanium drill"], total=40)
    >>> message["role"], message["content"].splitlines()[2]
    ('user', '1. Cobalt drill')
    ```
    """
    items = "\n".join(f"{number}. {' '.join(text.split())}" for number, text in enumerate(texts, start=1))
    content = QUESTION.format(shown=len(texts), total=total, items=items, least=LEAST_KEYWORDS, most=MOST_KEYWORDS)
    return [{"role": "user", "content": content}]


def ask_again(messages: Sequence[Message], answer: str, error: BadAnswerError) -> list[Message]:
    """Continues a conversation with the bad answer, truncated, and the reason why it was rejected."""
    return [
        *messages,
        {"role": "assistant", "content": answer[:500] or "..."},
        {"role": "user", "content": CORRECTION.format(reason=error)},
    ]


@checks_types
def parse_answer(text: str) -> tuple[str, list[str]]:
    r"""
    Parses and validates description and keywords of a teacher's answer.

    The first JSON object with both fields is used; a code fence, greeting or `<think>` block around it is ignored.
    White space is collapsed and duplicate keywords are removed; nothing else is repaired.

    Args:
        text (`str`):
            The answer.

    Returns:
        `tuple[str, list[str]]`: Description and 15 to 20 keywords.

    Raises:
        [`BadAnswerError`]: no such object, fields of another type, too few or too many keywords, a keyword or
        description that is empty or too long.

    Example:

    ```python
    >>> import json
    >>> from tsrec_hf.semantics import parse_answer

    >>> keywords = [f"word {number}" for number in range(15)]
    >>> answer = json.dumps({"description": "Tools.", "keywords": keywords})
    >>> description, keywords = parse_answer(f"Sure! ```json\n{answer}\n```")
    >>> description, len(keywords)
    ('Tools.', 15)
    >>> parse_answer('{"description": "Tools.", "keywords": ["saw"]}')
    Traceback (most recent call last):
        ...
    tsrec_hf.semantics.teacher_prompt.BadAnswerError: Expected 15 to 20 different keywords, found 1.
    ```
    """
    answer = _find_object(text)
    description, keywords = answer["description"], answer["keywords"]
    if not isinstance(description, str) or not isinstance(keywords, list):
        raise BadAnswerError("Expected `description` to be a string and `keywords` to be a list of strings.")
    if not all(isinstance(word, str) for word in keywords):
        raise BadAnswerError("Expected every keyword to be a string.")
    description = " ".join(description.split())
    if not 0 < len(description) <= LONGEST_DESCRIPTION:
        raise BadAnswerError(
            f"Expected a description of 1 to {LONGEST_DESCRIPTION} characters, found {len(description)}."
        )
    first_spelling: dict[str, str] = {}
    for word in (" ".join(word.split()) for word in keywords):
        if not 0 < len(word) <= LONGEST_KEYWORD:
            raise BadAnswerError(f"Expected keywords of 1 to {LONGEST_KEYWORD} characters, found one of {len(word)}.")
        first_spelling.setdefault(word.casefold(), word)
    if not LEAST_KEYWORDS <= len(first_spelling) <= MOST_KEYWORDS:
        raise BadAnswerError(
            f"Expected {LEAST_KEYWORDS} to {MOST_KEYWORDS} different keywords, found {len(first_spelling)}."
        )
    return description, list(first_spelling.values())


def _find_object(text: str) -> dict[str, Any]:
    """Returns the first JSON object after any `<think>` block that has both fields."""
    text = text.rpartition("</think>")[2]
    if len(text) > LONGEST_ANSWER:
        raise BadAnswerError(f"Expected an answer of at most {LONGEST_ANSWER} characters, found {len(text)}.")
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):  # nested a thousand deep
            end = start + 1
        else:
            if "description" in found and "keywords" in found:
                return found
        start = text.find("{", end)
    raise BadAnswerError("Expected one JSON object with the fields `description` and `keywords`, found none.")
