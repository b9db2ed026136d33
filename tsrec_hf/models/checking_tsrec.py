"""
Types at the boundary: what a public function takes is compared with its annotations once, when it is called.

A string passes for a sequence, `True` for a number, and what neither fits fails far from its cause or not at all. Only
what Python's own values get wrong is refused: objects of other libraries pass where ours are expected, and go by what
they can do.
"""

import builtins
import functools
import inspect
import math
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints, overload

import numpy as np


P = ParamSpec("P")
R = TypeVar("R")

PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, types.NoneType)
# Beyond this many elements, a look at all would cost; the functions look themselves.
MOST_ELEMENTS = 1000
SCALARS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    types.NoneType: ("None", lambda value: value is None),
    bool: ("True or False", lambda value: isinstance(value, (bool, np.bool_))),
    int: ("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    float: ("a number", lambda value: isinstance(value, Real) and not isinstance(value, (bool, np.bool_))),
    str: ("a string", lambda value: isinstance(value, str)),
    Path: ("a path", lambda value: isinstance(value, (str, os.PathLike))),
}


@overload
def checks_types(function: type[R]) -> type[R]: ...


@overload
def checks_types(function: Callable[P, R]) -> Callable[P, R]: ...


def checks_types(function):
    """
    Decorates a function, or a class by its constructor, that raises for arguments not of their annotations' types.

    Raises:
        `TypeError`: an argument of another type. `ValueError`: NaN or infinity for a number.

    Example:

    ```python
    >>> from tsrec_hf.models.checking_tsrec import checks_types

    >>> @checks_types
    ... def mean(numbers: list[float], weight: float = 1.0):
    ...     return weight * sum(numbers) / len(numbers)
    >>> mean([1, 2], weight="2")
    Traceback (most recent call last):
        ...
    TypeError: Expected `weight` of `mean` as a number, but found '2' of type `str`. Convert it before the call.
    ```
    """
    if inspect.isclass(function):
        function.__init__ = checks_types(function.__init__)
        return function
    signature = inspect.signature(function)

    @functools.cache
    def annotations() -> dict[str, Any]:
        hints = get_type_hints(function, localns=_NamesOfCheckers(function.__globals__))
        return {
            name: hints[name]
            for name, parameter in signature.parameters.items()
            if name in hints and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }

    @functools.wraps(function)
    def checked(*args, **kwargs):
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{function.__qualname__}: {error}. Compare the call with its documentation.") from None
        for name, value in given.items():
            if name in annotations():
                _check(f"`{name}` of `{_name_of(function)}`", value, annotations()[name])
        return function(*args, **kwargs)

    return checked


class _NamesOfCheckers(dict):
    """Names that only type checkers import stand for anything."""

    def __init__(self, known: Mapping[str, Any]):
        super().__init__()
        self.known = known

    def __missing__(self, name: str) -> Any:
        if name in self.known or hasattr(builtins, name):
            raise KeyError(name)
        return Any


def _name_of(function: Callable) -> str:
    return function.__qualname__.removesuffix(".__init__").rsplit(".<locals>.", 1)[-1]


def _check(name: str, value: Any, annotation: Any) -> None:
    kinds = _kinds(annotation)
    if not any(_fits(value, kind) for kind in kinds):
        wanted = " or ".join(dict.fromkeys(map(_describe, kinds)))
        found = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
        remedy = (
            "Pass a list of them." if isinstance(value, str) and "list" in wanted else "Convert it before the call."
        )
        raise TypeError(f"Expected {name} as {wanted}, but found {found} of type `{type(value).__name__}`. {remedy}")
    numbers = [number for kind in kinds for number in _numbers(value, kind)]
    if not all(map(math.isfinite, numbers)):
        few = "a finite number" if isinstance(value, Real) else "finite numbers"
        raise ValueError(f"Expected {name} as {few}, but found {value}. Pass a number, or leave it out.")


def _numbers(value: Any, kind: Any) -> Iterable[Any]:
    """The numbers that a value, a list or a dictionary holds by its annotation."""
    if kind is float:
        values: Iterable[Any] = [value]
    elif isinstance(value, Mapping) and get_args(kind)[1:] == (float,):
        values = value.values()
    elif isinstance(value, (list, tuple)) and get_args(kind)[:1] == (float,):
        values = value
    else:
        return ()
    return [number for number in values if isinstance(number, Real)]


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """What a union is a union of."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(kind for part in get_args(annotation) for kind in _kinds(part))
    return (types.NoneType if annotation is None else annotation,)


def _fits(value: Any, kind: Any) -> bool:
    if kind in SCALARS:
        return SCALARS[kind][1](value)
    origin = get_origin(kind) or kind
    if origin is Literal:
        # Which strings there are, the function itself says.
        return type(value) in {type(choice) for choice in get_args(kind)}
    if (
        origin is Any
        or not isinstance(origin, type)
        or getattr(origin, "_is_protocol", False)
        and origin is not Iterable
    ):
        return True
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if issubclass(origin, (Sequence, list, tuple)) or origin is Iterable:
        if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
            return False
        elements = get_args(kind)[0] if get_args(kind) else Any
        if not isinstance(value, (list, tuple)) or len(value) > MOST_ELEMENTS:
            return True
        return all(any(_fits(element, part) for part in _kinds(elements)) for element in value)
    if issubclass(origin, np.ndarray):
        return not isinstance(value, (str, bytes, Mapping, types.NoneType)) and not np.isscalar(value)
    return isinstance(value, origin) or type(value) not in PLAIN


def _describe(kind: Any) -> str:
    if kind in SCALARS:
        return SCALARS[kind][0]
    origin = get_origin(kind) or kind
    if origin is Literal:
        return f"one of {list(get_args(kind))}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a dictionary"
    if isinstance(origin, type) and (issubclass(origin, (Sequence, list, tuple)) or origin is Iterable):
        parts = [part for part in get_args(kind)[:1] if part is not Any]
        of = " or ".join(_describe(part).removeprefix("a ") for union in parts for part in _kinds(union))
        return f"a list of {of} each" if of else "a list"
    if isinstance(origin, type) and issubclass(origin, np.ndarray):
        return "an array"
    return f"`{getattr(origin, '__name__', origin)}`"
