from collections.abc import Callable
from types import ModuleType

import pytest

from hieramp.runtime.errors import HierampError

Script = Callable[[str], ModuleType]


def test_a_child_answers_with_its_last_line(script: Script) -> None:
    finished = script("children.child").run_child(["-c", "print('noise'); print('{\"a\": 1}')"])
    assert finished.answer == {"a": 1}
    assert finished.seconds > 0


def test_the_peak_is_the_childs_own(script: Script) -> None:
    """200 MB held for a moment by one of two children, whatever this process holds."""
    held = bytearray(300_000_000)
    lean, heavy = (script("children.child").run_child(["-c", f"bytearray({size}) ; print('{{}}')"]).peak_rss_bytes
                   for size in (1, 200_000_000))
    assert len(held) > heavy > 200_000_000
    assert lean < 100_000_000


def test_a_child_that_stays_open_answers_every_asking(script: Script) -> None:
    program = """import json, sys
print("{}", flush=True)
for count, _ in enumerate(sys.stdin):
    print(json.dumps({"count": count, "peak_rss_bytes": 5}), flush=True)"""
    with script("children.child").open_child(["-c", program]) as ask:
        answers = [ask() for _ in range(3)]
    assert [answer.answer["count"] for answer in answers] == [0, 1, 2]
    assert {answer.peak_rss_bytes for answer in answers} == {5}


@pytest.mark.parametrize("program", ["", "print('{}')"], ids=["before", "behind"])
def test_a_child_that_does_not_stay_open_is_an_error(script: Script, program: str) -> None:
    with pytest.raises(HierampError, match="-c ended"), script("children.child").open_child(["-c", program]) as ask:
        ask()


def test_a_child_that_fails_says_why(script: Script) -> None:
    with pytest.raises(HierampError, match="-c ended with 1: ValueError: no luck"):
        script("children.child").run_child(["-c", "raise ValueError('no luck')"])
