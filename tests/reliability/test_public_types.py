"""Every public entry with arguments of wrong types: our error names the argument, what was expected and found."""

import importlib
import inspect
import math
import pkgutil
import re
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import tsrec_hf
from tsrec_hf.models.checking_tsrec import _kinds, _NamesOfCheckers


class Anything:
    """Stands for an object of another library."""


# One or more of each kind that JSON, command lines and habit put in the place of another.
WRONG: dict[str, Any] = {
    "None": None,
    "a string": "text",
    "a number in quotes": "5",
    "True": True,
    "3": 3,
    "2.5": 2.5,
    "bytes": b"text",
    "a list of a number and a word": [1, "a"],
    "a dictionary": {"a": 1},
    "NaN": math.nan,
    "infinity": math.inf,
}


def entries() -> dict[str, Callable]:
    """All functions that check their arguments' types, by their full names."""
    found = {}
    for module in pkgutil.walk_packages(tsrec_hf.__path__, "tsrec_hf."):
        if ".evaluation.metrics." in module.name and module.name.endswith(("hit_rate", "ndcg")):
            continue  # scripts of `evaluate`
        if module.name.endswith((".vllm_model", ".vllm_processor")):
            continue  # subclasses of what vLLM has, which is an extra
        members = vars(importlib.import_module(module.name))
        classes = [member for member in members.values() if inspect.isclass(member)]
        for owner in (types.SimpleNamespace(**members), *classes):
            for member in vars(owner).values():
                function = getattr(member, "__func__", member)
                if inspect.isfunction(function) and function.__module__ == module.name and _is_checked(function):
                    found[f"{function.__module__}.{function.__qualname__}"] = function
    return found


def _is_checked(function: Callable) -> bool:
    return hasattr(function, "__wrapped__") and "checks_types" in str(function.__code__.co_qualname)


def fits(value: Any, annotation: Any) -> bool:
    """Whether the annotation takes the value, told otherwise than the code does: by example."""
    for kind in _kinds(annotation):
        origin = get_origin(kind) or kind
        if origin in (Any, object) or not isinstance(origin, type) and origin is not Literal:
            return True
        if origin is Literal and isinstance(value, tuple({type(choice) for choice in get_args(kind)})):
            return True
        if kind is float and type(value) in (int, float) and math.isfinite(value):
            return True
        if kind in (int, bool, str, types.NoneType) and type(value) is kind:
            return True
        if kind is Path and type(value) is str:
            return True
        if isinstance(origin, type) and issubclass(origin, Mapping):
            if isinstance(value, dict):
                return True
        elif origin is Iterable or isinstance(origin, type) and issubclass(origin, (Sequence, list, tuple)):
            if isinstance(value, list):
                parts = get_args(kind)[:1]
                return not parts or all(fits(one, parts[0]) for one in value)
        elif isinstance(origin, type) and issubclass(origin, np.ndarray):
            if isinstance(value, (list, dict)):
                return True  # told by the function itself
        elif getattr(origin, "_is_protocol", False):
            return True
    return False


def stand_in(annotation: Any) -> Any:
    """Something that passes."""
    values = {bool: True, int: 1, float: 1.0, str: "a", Path: "a", types.NoneType: None}
    for kind in _kinds(annotation):
        origin = get_origin(kind) or kind
        if kind in values:
            return values[kind]
        if origin is Literal:
            return get_args(kind)[0]
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {}
        if origin is Iterable or isinstance(origin, type) and issubclass(origin, (Sequence, list, tuple)):
            return []
    return Anything()


def test_every_argument_of_every_public_entry() -> None:
    outcomes: Counter[str] = Counter()
    bad = []
    found = entries()
    for name, function in found.items():
        hints = get_type_hints(function, localns=_NamesOfCheckers(function.__wrapped__.__globals__))
        parameters = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        needed = {p.name: stand_in(hints.get(p.name, Any)) for p in parameters if p.default is p.empty}
        for parameter in parameters:
            for label, value in WRONG.items():
                if parameter.name not in hints or fits(value, hints[parameter.name]):
                    continue
                try:
                    function(**{**needed, parameter.name: value})
                except (TypeError, ValueError) as error:
                    words = rf"Expected `{parameter.name}` of `.*` as .*, but found .*\. [A-Z].*\."
                    outcome = "clear" if re.fullmatch(words, str(error)) else f"unclear: {error}"
                except Exception as error:
                    outcome = f"unclear: {type(error).__name__}: {error}"
                else:
                    outcome = "silent"
                outcomes[outcome.partition(":")[0]] += 1
                if outcome != "clear":
                    bad.append(f"{name}({parameter.name}={label}): {outcome}")
    print(len(found), "entries", dict(outcomes))
    assert not bad, "\n".join(bad)
    assert outcomes["clear"] >= 1000 and len(found) >= 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"top_k": True}, "`top_k` as a whole number"),
        ({"top_k": "5"}, "`top_k` as a whole number"),
        ({"top_k": 2.5}, "`top_k` as a whole number"),
        ({"exclude_history": "no"}, "`exclude_history` to be True or False"),
        ({"num_beams": math.nan}, "`num_beams` as a whole number"),
        ({"search": ["beam"]}, "Expected `search`"),
        ({"scoring": 3}, "Expected `scoring`"),
        ({"unknown_items": None}, "Expected `unknown_items`"),
        ({"allowed_items": "hammer"}, "collection of item ids|string"),
        ({"allowed_items": 3}, "allowed_items"),
        ({"exclude_items": [3]}, "3"),
        ({"prior": 3}, "prior"),
        ({"prior_weight": math.nan}, "weight"),
        ({"prior_weight": "much"}, "weight"),
        ({"prior_form": "sum"}, "form"),
        ({"batch_size": 0}, "at least 1"),
        ({"histories": "hammer"}, "list of lists"),
        ({"histories": ["hammer"]}, "list of lists"),
        ({"histories": [["hammer"], "nail"]}, "history as a list of item ids"),
        ({"histories": [["hammer"], None]}, "history as a list of item ids"),
        ({"histories": [{"hammer": 1}]}, "history as a list of item ids"),
        ({"histories": [[0.9]]}, "0.9"),
        ({"histories": [[["hammer"]]]}, "hammer"),
        ({"histories": 3}, "list of lists"),
        ({"histories": {"a": 1}}, "list of lists"),
    ],
)
def test_recommend(model, tokenizer, arguments: dict, words: str) -> None:
    arguments = {"histories": [["hammer"]], "prior": None, **arguments}
    if "prior_weight" in arguments or "prior_form" in arguments:
        arguments["prior"] = np.ones((1, 8))
    with pytest.raises((TypeError, ValueError, KeyError), match=words) as error:
        model.recommend(tokenizer, **arguments)
    assert "xpected" in str(error.value) or "is not among" in str(error.value)


@pytest.mark.parametrize(
    "sid", [[0.9, 0.0, 0.0], "abc", 3, None, ["<a_0>"], [True, 0, 0], {"a": 1}, b"x", [[0], 0, 0]]
)
def test_sids(sid_index, sid) -> None:
    with pytest.raises((TypeError, ValueError), match="Expected"):
        sid_index.items_of(sid)


@pytest.mark.parametrize(
    ("codes", "error"),
    [
        ([[10**9, 0], [0, 1]], ValueError),
        ([[10**12, 0], [0, 1]], ValueError),
        ([[2**70, 0], [0, 1]], (TypeError, ValueError)),
        ([[-1, 0], [0, 1]], ValueError),
        ([[0.5, 0], [0, 1]], TypeError),
        ([["0", "1"], ["0", "2"]], TypeError),
        ([[None, 0], [0, 1]], TypeError),
        ([[math.nan, 0], [0, 1]], TypeError),
        ("ab", (TypeError, ValueError)),
        (None, (TypeError, ValueError)),
        (3, (TypeError, ValueError)),
        ([0, 1], (TypeError, ValueError)),
        ([[], []], ValueError),
        ([[0], [1, 2]], ValueError),
        ({"a": 1}, (TypeError, ValueError)),
        ([[True, False], [False, True]], TypeError),
    ],
)
def test_codes(codes, error) -> None:
    with pytest.raises(error, match="Expected"):
        tsrec_hf.SIDIndex(["a", "b"], codes)
    with pytest.raises(error, match="Expected"):
        tsrec_hf.SIDTrie(codes) if codes != [[10**9, 0], [0, 1]] else tsrec_hf.SIDIndex(["a", "b"], codes)
