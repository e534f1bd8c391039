"""Strict conversion between JSON values and frozen dataclasses; whatever does not fit is named by its path."""

from dataclasses import MISSING, Field, fields, is_dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hieramp.runtime.bounds import NAME_LENGTH, TEXT_LENGTH
from hieramp.runtime.terminal import is_printable, shown

_WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false", list: "a list",
          dict: "an object"}


class SchemaError(ValueError):
    """A value that does not fit; the message begins with its path."""


def decode(kind: Any, value: Any, path: str = "") -> Any:
    """Turn a JSON value into `kind`: a dataclass, tuple[X, ...], dict[str, X], a union or a scalar."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _decode_record(kind, value, path)
    if origin is tuple:
        return tuple(decode(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(_expect(list, value, path)))
    if origin is dict:
        return {_key(key, path): decode(arguments[1], item, f"{path}.{key}")
                for key, item in _expect(dict, value, path).items()}
    if origin in (Union, UnionType):
        return _decode_union(arguments, value, path)
    return _decode_scalar(kind, value, path)


def encode(value: Any) -> Any:
    """Turn a dataclass into JSON values; a field that equals its default is left out."""
    if is_dataclass(value):
        present = [f for f in fields(value) if f.default is MISSING or getattr(value, f.name) != f.default]
        return {f.name: encode(getattr(value, f.name)) for f in present}
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return value


def _decode_record(kind: Any, value: Any, path: str) -> Any:
    record, known = _expect(dict, value, path), {f.name: f for f in fields(kind)}
    for name in record.keys() - known.keys():
        raise SchemaError(f"{_join(path, _key(name, path))} is not a known field; known are {', '.join(known)}")
    for name in [name for name, field in known.items() if _is_required(field) and name not in record]:
        raise SchemaError(f"{_join(path, name)} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: decode(hints[name], item, _join(path, name)) for name, item in record.items()})


def _decode_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    rest = [kind for kind in kinds if kind is not NoneType]
    if len(rest) == 1:
        return decode(rest[0], value, path)
    if type(value) in rest:
        return _decode_scalar(type(value), value, path)
    raise SchemaError(f"{path} must be {' or '.join(_WORDS[kind] for kind in rest)}, got {shown(value)}")


def _decode_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float:
        return _decode_float(value, path)
    if kind is str:
        _check_text(_expect(str, value, path), path)
    return _expect(kind, value, path)


def _decode_float(value: Any, path: str) -> float:
    try:
        if type(value) in (int, float) and isfinite(value):
            return float(value)
    except OverflowError:  # a whole number that no float holds
        pass
    raise SchemaError(f"{path} must be {_WORDS[float]}, got {shown(value)}")


def _check_text(text: str, path: str) -> None:
    if len(text) > TEXT_LENGTH:
        raise SchemaError(f"{path} must have at most {TEXT_LENGTH} characters, got {len(text)}")
    if not is_printable(text):
        raise SchemaError(f"{path} must not hold control characters, got {shown(text)}")


def _expect(kind: type, value: Any, path: str) -> Any:
    if type(value) is not kind:
        raise SchemaError(f"{path or 'the file'} must be {_WORDS[kind]}, got {shown(value)}")
    return value


def _key(key: str, path: str) -> str:
    if len(key) > NAME_LENGTH or not is_printable(key):
        raise SchemaError(f"{path or 'the file'} has a key that is too long or holds control characters: {shown(key)}")
    return key


def _is_required(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
