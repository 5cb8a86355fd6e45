"""Values of a recipe against the types they are for. Errors name the key, the value and what to write instead."""

import difflib
import enum
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import yaml


class RecipeError(ValueError):
    """A recipe that cannot be carried out as it is written."""


def check_keys(given: Iterable[str], known: Iterable[str], section: str = "") -> None:
    """
    Raises:
        RecipeError: for keys that are not known, each with the nearest one that is.
    """
    known, prefix = list(known), f"{section}." if section else ""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            remedy = f"did you mean {prefix}{near[0]!s}?" if near else f"known are {', '.join(map(str, known))}."
            raise RecipeError(f"no key is called {prefix}{key}: {remedy}")


def convert(key: str, value: Any, hint: Any) -> Any:
    """
    A value of a YAML file as the type that a field has.

    Raises:
        RecipeError: where it is of another type.
    """
    for kind in _alternatives(hint):
        fits, converted = _fit(key, value, kind)
        if fits:
            return converted
    remedy = ""
    if isinstance(value, str) and {int, float} & set(_alternatives(hint)) and _is_number(value):
        remedy = f"; YAML reads {value} as text: write it with a point and a sign, as in 1.0e-5"
    raise RecipeError(f"{key} is {describe(hint)}, got {value!r}{remedy}")


def parse_text(key: str, text: str, hint: Any) -> Any:
    """
    A value of the command line as the type that a field has; lists may be written with commas.

    Raises:
        RecipeError: where it is no such value.
    """
    kinds = _alternatives(hint)
    if types.NoneType in kinds and text.lower() in ("none", "null"):
        return None
    if all(kind is str or kind is types.NoneType or get_origin(kind) is Literal for kind in kinds):
        return convert(key, text, hint)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{key} is {describe(hint)}, got {text!r}, which cannot be read") from error
    if isinstance(value, str) and float in kinds and _is_number(value):
        value = float(value)
    if isinstance(value, str) and any(get_origin(kind) is list for kind in kinds) and str not in kinds:
        value = [part.strip() for part in value.split(",")]
    return convert(key, value, hint)


def describe(hint: Any) -> str:
    """A type in words."""
    words = []
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            words += [repr(value) for value in get_args(kind)]
        elif isinstance(kind, type) and issubclass(kind, enum.Enum):
            words += [repr(member.value) for member in kind]
        else:
            words.append(_WORDS.get(get_origin(kind) or kind, "a value of its own kind"))
    return " or ".join(dict.fromkeys(words))


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
    types.NoneType: "null",
    Any: "anything",
}


def _alternatives(hint: Any) -> tuple:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fit(key: str, value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether a value is of one plain type, and what it is then."""
    origin = get_origin(kind) or kind
    if kind is Any or (origin is Literal and value in get_args(kind)):
        return True, value
    if kind is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        return fits, float(value) if fits else value
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if kind in (bool, str, types.NoneType):
        return isinstance(value, kind), value
    if origin is list and isinstance(value, list):
        inner = get_args(kind)[0] if get_args(kind) else Any
        return True, [convert(f"{key}[{index}]", part, inner) for index, part in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        inner = get_args(kind)[1] if get_args(kind) else Any
        return True, {name: convert(f"{key}.{name}", part, inner) for name, part in value.items()}
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return value in [member.value for member in origin], value
    return False, value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
