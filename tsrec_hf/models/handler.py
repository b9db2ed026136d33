"""
Serves a recommender as a Hugging Face Inference Endpoint, which finds this file beside the weights.

A request holds item ids, and how to search; the answer is what `recommend` finds, with titles:

    {"inputs": ["117", "118"], "parameters": {"top_k": 10, "exclude_history": true}}
    [{"item_id": "98", "sid": "<a_3><b_9><c_1>", "score": -2.1, "title": "..."}, ...]

Several histories in `inputs` get as many lists. Errors say what a request should hold; the server passes them on.

Where `tsrec_hf` is installed, its classes are used. Elsewhere the code of the repository, of which this file is a
part, runs only if the endpoint's owner says so: `HF_TRUST_REMOTE_CODE=1` in its environment.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


# Options of `recommend` that are the endpoint's business and not a client's.
WITHHELD = {"batch_size", "max_batch_tokens", "progress"}
# What one request may ask for.
MOST_HISTORIES, LONGEST_HISTORY, MOST_ITEMS = 1000, 10_000, 1000
TRUST = "HF_TRUST_REMOTE_CODE"


class RecommendationRequest(NamedTuple):
    """
    A request that is of the right form: histories, options of `recommend`, and whether one history was sent alone, so
    that its answer is one list.
    """

    histories: list[list[str]]
    parameters: dict[str, Any]
    single: bool

    @classmethod
    def parse(cls, data: Any, known_parameters: Sequence[str]) -> "RecommendationRequest":
        """
        Checks the form of a request, and that it asks for no more than a server gives. What its values mean,
        `recommend` checks.

        Args:
            data (`dict`):
                A request as read from JSON, in the form of [`EndpointHandler.__call__`].
            known_parameters (`Sequence[str]`):
                Parameters that it may name, from [`client_parameters`].

        Raises:
            `ValueError`: no inputs, inputs of another form, parameters that do not exist, more than is allowed.
        """
        if not isinstance(data, dict):
            raise ValueError(f"Expected a request as an object with `inputs`, but found `{type(data).__name__}`.")
        histories, parameters = data.get("inputs"), data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f"Expected `parameters` as an object, but found `{type(parameters).__name__}`.")
        if not isinstance(histories, list) or not histories:
            raise ValueError(
                'Expected `inputs` with item ids, oldest first, such as {"inputs": ["117", "118"]}, or a list of such '
                f"lists, but found {repr(histories)[:80]}."
            )
        single = not isinstance(histories[0], list)
        histories = [histories] if single else histories
        if not all(isinstance(row, list) and all(isinstance(item, str) for item in row) for row in histories):
            raise ValueError(
                "Expected item ids as strings, in one list or in a list for each user, but found something else among "
                "`inputs`."
            )
        longest = max(map(len, histories))
        if len(histories) > MOST_HISTORIES or longest > LONGEST_HISTORY:
            raise ValueError(
                f"Expected at most {MOST_HISTORIES} histories of at most {LONGEST_HISTORY} items each, but found "
                f"{len(histories)}, the longest of {longest}. Send several requests, and the last items of a history."
            )
        for name in ("top_k", "num_beams"):
            value = parameters.get(name)
            if isinstance(value, int) and value > MOST_ITEMS:
                raise ValueError(f"Expected `{name}` of at most {MOST_ITEMS}, but found {value}. Ask for less.")
        unknown = sorted(set(parameters) - set(known_parameters))
        if unknown:
            raise ValueError(f"Expected `parameters` among {known_parameters}, but found {unknown}.")
        return cls(histories, parameters, single)

    def answer(self, lists: Sequence[Sequence[Any]]) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """What is sent back, from the lists that `recommend` found for the histories."""
        answers = [[item._asdict() for item in row] for row in lists]
        return answers[0] if self.single else answers


def client_parameters(recommend: Callable) -> list[str]:
    """Those options of `recommend` that a client may set."""
    return sorted(set(signature(recommend).parameters) - {"tokenizer", "histories"} - WITHHELD)


class EndpointHandler:
    """
    Loads a recommender and answers requests with it.

    Args:
        path (`str`, *optional*, defaults to `""`):
            Folder of the checkpoint.
    """

    def __init__(self, path: str = ""):
        trusted = os.environ.get(TRUST, "").lower() in ("1", "true", "yes", "on")
        if not trusted and importlib.util.find_spec("tsrec_hf") is None:
            raise RuntimeError(
                f"Expected `tsrec_hf` to be installed, or the endpoint's owner to trust the code of this repository, "
                f"but found neither. Add the package to `requirements.txt`, or set {TRUST}=1."
            )
        if not trusted:
            importlib.import_module("tsrec_hf")  # registers its classes
        self.tokenizer = AutoTokenizer.from_pretrained(path or ".", trust_remote_code=trusted)
        model = AutoModelForCausalLM.from_pretrained(path or ".", trust_remote_code=trusted, dtype="auto")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(device)  # type: ignore[arg-type]  # transformers wraps `to`
        self.parameters = client_parameters(self.model.recommend)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """
        Recommends for one user or several.

        Args:
            data (`dict`):
                `inputs`: item ids of one user, oldest first, or a list of such lists. `parameters`, *optional*: some
                of those of `recommend`.

        Returns:
            `list[dict]` for one user, `list[list[dict]]` for several: `item_id`, `sid`, `score` and `title`.

        Raises:
            `ValueError`: no inputs, inputs of another form, items that the catalogue does not hold, parameters that do
            not exist or do not fit.
        """
        request = RecommendationRequest.parse(data, self.parameters)
        try:
            lists = self.model.recommend(self.tokenizer, request.histories, **request.parameters)
        except (KeyError, TypeError) as error:
            raise ValueError(str(error.args[0]) if error.args else repr(error)) from error
        return request.answer(lists)
