"""Base class of LLM teachers: sample items, ask, validate, retry, fall back to keywords, and cache every answer.

TS-Rec asks its teacher once per token and accepts every answer. Here an answer in a wrong format is sent back with the
reason, and a token without a valid answer is described by `KeywordTeacher`, so that none is left out. The provenance
of each token names its teacher, and `report` has the counts.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.sids.progress import progress_bar

from .answer_cache import AnswerCache
from .item_text import text_of, title_of
from .keyword_teacher import KeywordTeacher, check_packages
from .sampling import fill_budget
from .teacher_prompt import PROMPT_VERSION, BadAnswerError, Message, ask_again, build_question, parse_answer
from .token_semantics import TokenDescription
from .words import cut_at_word


logger = logging.getLogger(__name__)

# Maximum characters of an item's text. The title comes first, and the end of a long description adds little.
LONGEST_ITEM = 300


@dataclass
class TeacherReport:
    r"""
    Counts of a teacher's questions and answers, over all levels it described.

    Attributes:
        num_tokens (`int`): SID tokens described.
        asked (`int`): New answers of the model.
        from_cache (`int`): Answers found in the cache.
        bad_answers (`int`): Answers among both in a wrong format.
        unanswered (`int`): Questions without any answer after all tries.
        fallbacks (`list[str]`): Tokens that `KeywordTeacher` described instead.
        num_cut (`int`): Items' texts cut to 300 characters, at a word, before they were sampled for a prompt.

    Example:

    ```python
    >>> from tsrec_hf.semantics import TeacherReport

    >>> print(TeacherReport(num_tokens=3, asked=4, bad_answers=2, fallbacks=["<a_1>"]))
    3 tokens: 4 answers asked for, 0 from the cache, 2 bad, 0 questions unanswered, 1 tokens left to KeywordTeacher
    ```
    """

    num_tokens: int = 0
    asked: int = 0
    from_cache: int = 0
    bad_answers: int = 0
    unanswered: int = 0
    fallbacks: list[str] = field(default_factory=list)
    num_cut: int = 0

    def __str__(self) -> str:
        return (
            f"{self.num_tokens} tokens: {self.asked} answers asked for, {self.from_cache} from the cache, "
            f"{self.bad_answers} bad, {self.unanswered} questions unanswered, {len(self.fallbacks)} tokens left to "
            "KeywordTeacher" + (f"; {self.num_cut} texts of items cut to their first words" if self.num_cut else "")
        )


class ChatTeacher(ABC):
    r"""
    Base class of teachers that ask a chat model. Subclasses implement the call of the model.

    Args:
        sample_tokens (`int`, *optional*, defaults to `1500`):
            Maximum number of prompt tokens for the sampled items of a cluster.
        sample_items (`int`, *optional*, defaults to `40`):
            Maximum number of items of a cluster in the prompt.
        max_retries (`int`, *optional*, defaults to `2`):
            Number of retries after a bad answer; then [`KeywordTeacher`] describes the token.
        cache_file (`str` or `Path`, *optional*):
            JSON lines file that caches every answer; a run with the same file resumes an earlier one.

    Attributes:
        report ([`TeacherReport`]):
            Counts of the questions and answers so far.

    Example of a teacher with a constant answer:

    ```python
    >>> import json
    >>> from tsrec_hf.semantics import ChatTeacher

    >>> class Parrot(ChatTeacher):
    ...     def identity(self):
    ...         return {"teacher": "Parrot", "model": "none"}
    ...     def ask(self, conversations):
    ...         answer = {"description": "Tools.", "keywords": [f"word {number}" for number in range(15)]}
    ...         yield from ((number, json.dumps(answer)) for number in range(len(conversations)))

    >>> teacher = Parrot()
    >>> teacher.describe({"<a_0>": [{"title": "Cobalt drill"}]})["<a_0>"].description
    'Tools.'
    >>> teacher.report.asked, teacher.report.fallbacks
    (1, [])
    ```
    """

    @checks_types
    def __init__(
        self,
        sample_tokens: int = 1500,
        sample_items: int = 40,
        max_retries: int = 2,
        cache_file: str | Path | None = None,
    ) -> None:
        if sample_tokens < 1 or sample_items < 1 or max_retries < 0:
            raise ValueError(
                "Expected `sample_tokens` and `sample_items` of at least 1 and `max_retries` of at least 0, found "
                f"{sample_tokens}, {sample_items} and {max_retries}. The defaults are 1500, 40 and 2."
            )
        self.sample_tokens = sample_tokens
        self.sample_items = sample_items
        self.max_retries = max_retries
        self.cache = AnswerCache(cache_file)
        self.report = TeacherReport()

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Returns what determines an answer besides the conversation: `teacher`, `model`, settings; for cache keys."""

    @abstractmethod
    def ask(self, conversations: Sequence[list[Message]]) -> Iterator[tuple[int, str | None]]:
        """Yields each conversation's number and answer as soon as it arrives; `None` if there is no answer."""

    def count_tokens(self, text: str) -> int:
        """Estimates the tokens of a text, about four bytes each. Override it where a tokenizer is available."""
        return -(-len(text.encode(errors="replace")) // 4)

    def describe(self, clusters: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, TokenDescription]:
        r"""
        Describes all tokens of one level.

        Args:
            clusters (`Mapping[str, Sequence[Mapping]]`):
                Token -> the items that carry it, most representative first.

        Returns:
            `dict[str, TokenDescription]`: One entry per token, in the order of `clusters`. Its `provenance` holds
            teacher, model, prompt version, the numbers of items in the cluster and in the prompt, and the number of
            bad answers before this one.
        """
        # Any token may fall back to `KeywordTeacher`. Check its packages first: failing after all questions would lose
        # the answers of a level.
        check_packages([text_of(item) for cluster in clusters.values() for item in cluster])
        samples = {token: self._sample(cluster) for token, cluster in clusters.items()}
        open_questions = {
            token: build_question(sample, len(clusters[token])) for token, sample in samples.items() if sample
        }
        described: dict[str, TokenDescription] = {}
        bad_answers: dict[str, int] = dict.fromkeys(clusters, 0)
        for _ in range(1 + self.max_retries):
            rejected: dict[str, list[Message]] = {}
            for token, answer in self._answers(open_questions):
                try:
                    description, keywords = parse_answer(answer)
                except BadAnswerError as error:
                    bad_answers[token] += 1
                    rejected[token] = ask_again(open_questions[token], answer, error)
                    logger.info("Bad answer for %s: %s", token, error)
                    continue
                counts = {"num_items": len(clusters[token]), "num_sampled": len(samples[token])}
                provenance = {**self._provenance(), **counts, "num_bad_answers": bad_answers[token]}
                described[token] = TokenDescription(token, description, keywords, provenance)
            # In the order of the clusters, not of the answers, so that batches are the same on every run.
            open_questions = {token: rejected[token] for token in open_questions if token in rejected}
        left = [token for token in clusters if token not in described]
        self.report.num_tokens += len(clusters)
        self.report.bad_answers += sum(bad_answers.values())
        self.report.fallbacks += left
        if left:
            logger.warning(
                "%d of %d tokens got no usable answer and are described by KeywordTeacher, first %s. Try a larger "
                "model or more `max_retries`.",
                len(left),
                len(clusters),
                left[0],
            )
            by_keywords = KeywordTeacher().describe(clusters)  # all of them: TF-IDF compares siblings
            for token in left:
                meaning = by_keywords[token]
                provenance = {
                    **(meaning.provenance or {}),
                    "fallback_for": self._provenance(),
                    "num_bad_answers": bad_answers[token],
                }
                described[token] = TokenDescription(token, meaning.description, meaning.keywords, provenance)
        return {token: described[token] for token in clusters}

    def _provenance(self) -> dict[str, Any]:
        identity = self.identity()
        return {"teacher": identity["teacher"], "model": identity["model"], "prompt_version": PROMPT_VERSION}

    def _sample(self, cluster: Sequence[Mapping[str, Any]]) -> list[str]:
        """Returns the texts of a cluster's first items with distinct titles, within the token budget."""
        distinct: dict[str, Mapping[str, Any]] = {}
        for item in cluster:
            distinct.setdefault((title_of(item) or text_of(item)).casefold(), item)
        texts = [" ".join(text_of(item).split()) for item in distinct.values()]
        self.report.num_cut += sum(len(text) > LONGEST_ITEM for text in texts)
        texts = [cut_at_word(text, LONGEST_ITEM) for text in texts]
        return fill_budget(texts, self.sample_tokens, self.count_tokens, self.sample_items)

    def _answers(self, questions: Mapping[str, list[Message]]) -> Iterator[tuple[str, str]]:
        """Yields tokens with answers: cached ones first, then new ones, each cached before it is yielded."""
        identity = {**self.identity(), "prompt_version": PROMPT_VERSION}
        to_ask = []
        for token, messages in questions.items():
            kept = self.cache.get({**identity, "messages": messages})
            if kept is None:
                to_ask.append(token)
            else:
                self.report.from_cache += 1
                yield token, kept
        if not to_ask:
            return
        for number, answer in progress_bar(
            self.ask([questions[token] for token in to_ask]),
            total=len(to_ask),
            desc="Asking the teacher",
            unit="token",
        ):
            if not isinstance(answer, str):
                if answer is not None:
                    logger.warning(f"The answer for {to_ask[number]} is no text but {type(answer).__name__}.")
                self.report.unanswered += 1
                continue
            self.report.asked += 1
            self.cache.add({**identity, "messages": questions[to_ask[number]]}, answer)
            yield to_ask[number], answer
