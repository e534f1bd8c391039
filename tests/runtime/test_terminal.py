"""Text of others reaches a terminal without anything that a terminal obeys."""

import pytest

from hieramp.runtime.terminal import is_printable, printable, shortened, shown


@pytest.mark.parametrize(("text", "safe"), [
    ("\x1b[2Jred", "\\x1b[2Jred"), ("\x07\x9b31m", "\\x07\\x9b31m"), ("a\r\nb", "a\\r\\nb"),
    ("\u202egnp", "\\u202egnp"), ("\ud800", "\\ud800"), ("\u2028", "\\u2028"), ("été 猫 🐈", "été 猫 🐈"),
])
def test_what_a_terminal_obeys_is_escaped(text: str, safe: str) -> None:
    assert printable(text) == safe
    assert is_printable(text) == (text == safe)


def test_joined_emoji_are_names_but_are_not_shown_as_they_are() -> None:
    assert is_printable("👩\u200d🔬") and printable("👩\u200d🔬") == "👩\\u200d🔬"


def test_values_are_shown_briefly() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(shown(deep)) < 50
    assert len(shown(list(range(10**6)))) < 200
    assert len(shown("x" * 10**6)) < 100
    assert shown([1, "a"]) == "[1, 'a']"
    assert (shortened("abc", 3), shortened("abcd", 3)) == ("abc", "ab…")
    while deep:  # so that freeing it does not nest as deep
        deep = deep.pop()
