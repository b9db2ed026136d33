"""`pipeline("recommendation")`: item ids in, ranked items as dictionaries out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from inspect import signature
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY


if TYPE_CHECKING:
    from .modeling_tsrec import TSRecForCausalLM
    from .tokenization_tsrec import TSRecTokenizer


TASK = "recommendation"
# Users that a stream holds at a time, in batches: enough to sort them by length.
BATCHES_IN_A_CHUNK = 16


class RecommendationPipeline(Pipeline):
    r"""
    Recommends items for histories of item ids.

    Registered as the task `"recommendation"` by `import tsrec_hf`. What [`~transformers.Pipeline.save_pretrained`] of
    it writes loads without the package too, by `pipeline("recommendation", ..., trust_remote_code=True)`.

    Args:
        top_k, num_beams, allowed_items, exclude_items, exclude_history, search, scoring (*optional*):
            As [`~TSRecForCausalLM.recommend`]'s; for all calls, or in a call for that one.
        batch_size (`int`, *optional*, defaults to `16`):
            Most users decoded together.
        kwargs (*optional*):
            As [`~transformers.Pipeline`]'s: `model`, `tokenizer`, `device`, ...

    Example:

    ```python
    >>> from transformers import pipeline

    >>> recommend = pipeline("recommendation", model=model, tokenizer=tokenizer, device="cpu")
    >>> first, second = recommend(["hammer", "nail"], top_k=2)
    >>> sorted(first)
    ['item_id', 'log_prior', 'log_prob', 'score', 'sid', 'title']
    >>> [len(items) for items in recommend([["hammer"], ["apple", "pear"]], top_k=3)]
    [3, 3]
    >>> [len(items) for items in recommend(dataset.test, top_k=3)]  # one after the other, from its column `history`
    [3, 3]
    ```
    """

    model: "TSRecForCausalLM"
    tokenizer: "TSRecTokenizer"  # type: ignore[assignment]  # of this task always there
    # The base class annotates these by their defaults.
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = True  # type: ignore[assignment]

    def _sanitize_parameters(self, **settings) -> tuple[dict, dict, dict]:
        if not hasattr(self.model, "recommend"):
            raise TypeError(
                f"Expected a recommender for the task {TASK!r}, but found `{type(self.model).__name__}`. Load a "
                "checkpoint of `TSRecForCausalLM`, or make one of a plain language model: "
                "`TSRecForCausalLM.from_backbone`."
            )
        # The pipeline itself takes these two.
        known = _options_of(self.model.recommend) - {"batch_size", "progress"}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise TypeError(f"Unknown setting {unknown[0]!r} of recommendations. Expected some of {sorted(known)}.")
        # What can be read only once has to serve several batches, or calls.
        settings = {name: list(value) if isinstance(value, Iterator) else value for name, value in settings.items()}
        return {}, settings, {}

    def __call__(  # type: ignore[override]  # as every task's, for its own inputs
        self,
        histories: Sequence[str] | Sequence[Sequence[str]] | Iterable[Sequence[str]],
        batch_size: int | None = None,
        progress: bool = False,
        column: str = "history",
        **settings,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterator[list[dict[str, Any]]]:
        """
        Recommends for one user, for some, or for a stream of them.

        Args:
            histories (`list[str]`, `list[list[str]]`, or an iterable of `list[str]`):
                Item ids, oldest first: one history, several, or a `datasets.Dataset` (its column `column`), a column
                of one, or a generator.
            batch_size (`int`, *optional*):
                Most users decoded together.
            progress (`bool`, *optional*, defaults to `False`):
                Whether to show a progress bar.
            column (`str`, *optional*, defaults to `"history"`):
                The column of a data set.
            settings (*optional*):
                `top_k`, `num_beams`, ...

        Returns:
            `list[dict]`: For one history, items best first as `{"item_id", "sid", "score", "title", "log_prob",
            "log_prior"}`, the fields of [`Recommendation`]. For several, a list of these. For a stream, an iterator
            over these that holds a few batches at a time.

        Raises:
            `TypeError`: a string, an unknown setting. `ValueError`: a data set without the column, rules per user for
            a stream; and what [`~TSRecForCausalLM.recommend`] raises.
        """
        if isinstance(histories, (str, dict)):
            raise TypeError(
                f"Expected a history as a list of item ids, or several, but found `{type(histories).__name__}`. Pass "
                '`["117", "118"]`.'
            )
        _, settings, _ = self._sanitize_parameters(**settings)
        settings = {**self._forward_params, **settings, "batch_size": batch_size or self._batch_size or 16}
        if isinstance(histories, (list, tuple)):
            if len(histories) and all(isinstance(item, str) for item in histories):
                return self._recommend([histories], settings, progress)[0]
            return self._recommend(histories, settings, progress)
        for name in ("allowed_items", "exclude_items"):
            rule = settings.get(name)
            is_mask = isinstance(rule, np.ndarray) and rule.dtype == bool
            if rule is not None and not is_mask and any(not isinstance(entry, str) for entry in rule):
                raise ValueError(
                    f"Expected `{name}` for all users of a stream, but found a set per user. Pass the histories as a "
                    "list, or the rules as one collection of item ids."
                )
        prior = settings.get("prior")
        if getattr(prior, "ndim", 1) == 2 or (
            isinstance(prior, (list, tuple)) and any(np.ndim(row) or isinstance(row, Mapping) for row in prior)
        ):
            raise ValueError(
                "Expected a `prior` for all users of a stream, but found weights per user. Pass the histories as a "
                "list, or a function that computes the weights of a batch of histories."
            )
        return self._stream(_column_of(histories, column), settings, progress)

    def _recommend(self, histories, settings, progress: bool = False) -> list[list[dict[str, Any]]]:
        return self.run_single(histories, {}, {**settings, "progress": progress}, {}) if len(histories) else []

    def _stream(self, histories: Iterable[Sequence[str]], settings, progress: bool) -> Iterator[list[dict[str, Any]]]:
        total = len(histories) if isinstance(histories, Sized) else None
        rows, start = iter(histories), 0
        with tqdm(total=total, desc="Recommending", disable=not progress) as bar:
            while chunk := list(islice(rows, settings["batch_size"] * BATCHES_IN_A_CHUNK)):
                try:
                    recommended = self._recommend(chunk, settings)
                except (KeyError, TypeError, ValueError) as error:
                    error.add_note(f"Users are counted from number {start} of the stream.")
                    raise
                yield from recommended
                start += len(chunk)
                bar.update(len(chunk))

    def preprocess(self, histories: Sequence[Sequence[str]]) -> dict[str, Any]:  # type: ignore[override]
        """Wraps histories."""
        return {"histories": list(histories)}

    def _forward(self, inputs: dict[str, Any], **settings) -> dict[str, Any]:  # type: ignore[override]
        rows = self.model.recommend(self.tokenizer, inputs["histories"], **settings)
        return {"rows": [[item._asdict() for item in row] for row in rows]}

    def postprocess(self, outputs: dict[str, Any]) -> list[list[dict[str, Any]]]:  # type: ignore[override]
        """The lists themselves."""
        return outputs["rows"]


def _options_of(recommend: Callable) -> set[str]:
    """The options of `recommend`, beside the tokenizer and the histories."""
    return set(signature(recommend).parameters) - {"tokenizer", "histories"}


def _column_of(histories: Any, column: str) -> Iterable:
    """The histories of a `datasets.Dataset`, without importing that library; anything else as it is."""
    names = getattr(histories, "column_names", None)
    if names is None:
        return histories
    if column not in names:
        raise ValueError(
            f"Expected a data set with a column {column!r} of histories, but found {names}. Name another: `column=`."
        )
    return histories[column] if hasattr(histories, "__len__") else (row[column] for row in histories)


# A checkpoint's own code may be loaded beside the package, whose class stays.
if TASK not in PIPELINE_REGISTRY.supported_tasks:
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=RecommendationPipeline, pt_model=AutoModelForCausalLM, type="text"
    )
