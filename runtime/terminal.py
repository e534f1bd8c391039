"""What may reach a terminal: text of others without control characters, and not without end."""

import unicodedata
from reprlib import Repr
from typing import Any

# Controls (escape sequences among them), direction marks and other invisible ones, lone surrogates, line separators.
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_FORBIDDEN = ("Cc", "Cs", "Zl", "Zp")
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """The text with every character that a terminal might obey written as an escape."""
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def is_printable(text: str) -> bool:
    """Whether a text is free of control characters, lone surrogates and marks that turn its direction."""
    return not any(unicodedata.category(c) in _FORBIDDEN or c in _BIDIRECTIONAL for c in text)


def shortened(text: str, most: int) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= most else text[:most - 1] + "…"


def shown(value: Any) -> str:
    """A value as Python writes it, cut short however large or deep it is."""
    brief = Repr()
    brief.maxlevel, brief.maxstring, brief.maxlong, brief.maxother = 3, 80, 40, 80
    brief.maxlist = brief.maxtuple = brief.maxdict = 16
    return brief.repr(value)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
