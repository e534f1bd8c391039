"""A few thousand hostile cases in every test run, and proof that a crash or an escape would be counted."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from hieramp.runtime.errors import PlanError

pytestmark = pytest.mark.filterwarnings("ignore")  # whatever warns of a hostile file
Script = Callable[[str], ModuleType]
TARGETS = ("manifest", "plan folder", "sidecar", "classes", "weights", "settings", "memory", "picture", "teacher",
           "soft labels", "tokens", "names",
           "output folder", "command", "graph")
CASES_A_SHARE = 20


@pytest.fixture
def place(script: Script, tmp_path: Path) -> Any:
    return script("fuzzing.place").Place.make(tmp_path / "place")


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_cases_are_refused_or_harmless(name: str, script: Script, place: Any) -> None:
    pytest.importorskip("pyarrow")
    target = script("fuzzing.targets").targets(place)[name]
    tally = script("fuzzing.run").fuzz(target, place, CASES_A_SHARE * target.share)
    assert tally.is_clean, tally.examples
    assert tally.cases > 10 * target.share
    assert tally.taken + tally.refused == tally.cases
    assert tally.longest_message < 5000


def test_every_target_is_named_here(script: Script, place: Any) -> None:
    assert set(script("fuzzing.targets").targets(place)) == set(TARGETS)


def try_one(script: Script, place: Any, check: Callable[[Any, Any], None]) -> Any:
    """The tally of a target that always does the same."""
    return script("fuzzing.run").fuzz(script("fuzzing.targets").Target(st.just(0), check), place, 1)


def test_errors_of_ours_are_refusals_and_all_others_crashes(script: Script, place: Any) -> None:
    def refuse(place: Any, case: int) -> None:
        raise PlanError("no")

    def crash(place: Any, case: int) -> None:
        raise KeyError(case)

    assert (try_one(script, place, refuse).refused, try_one(script, place, refuse).crashes) == (1, 0)
    tally = try_one(script, place, crash)
    assert (tally.crashes, tally.is_clean) == (1, False) and "KeyError: 0" in tally.examples[0]


@pytest.mark.parametrize("name", ["home/new", "home/elsewhere/canary", "home/tiny.plan/decoder.onnx", "canary"])
def test_a_write_outside_the_output_folder_is_an_escape(name: str, script: Script, place: Any) -> None:
    def write(place: Any, case: int) -> None:
        (place.root / name).write_bytes(b"something")

    assert try_one(script, place, write).escapes == 1


def test_what_happens_in_the_output_folder_is_no_escape(script: Script, place: Any) -> None:
    def write(place: Any, case: int) -> None:
        (place.out / "inner").mkdir(parents=True)
        (place.out / "inner" / "file").write_bytes(b"something")

    assert try_one(script, place, write).is_clean


def test_a_case_without_end_is_a_crash(script: Script, place: Any) -> None:
    def wait(place: Any, case: int) -> None:
        while True:
            pass

    with mock.patch.object(script("fuzzing.run"), "_SECONDS_A_CASE", 1):
        assert "took more than 1 s" in try_one(script, place, wait).examples[0]


def test_writing_through_a_link_again_would_be_found(script: Script, place: Any) -> None:
    """With scratch files opened as they once were, which followed what lay in their place."""
    target = script("fuzzing.targets").targets(place)["output folder"]
    with mock.patch("hieramp.runtime.durable.open_scratch", lambda path: path.open("wb")), \
            mock.patch.object(script("fuzzing.run"), "_SECONDS_A_CASE", 1):  # a pipe in that place is waited for
        assert script("fuzzing.run").fuzz(target, place, 150).escapes > 0


def test_the_command_writes_a_row(script: Script, tmp_path: Path) -> None:
    with mock.patch.object(script("fuzz"), "limit_memory") as limit:  # which would hold for the tests that follow
        result = CliRunner().invoke(script("fuzz").main, ["--cases", "20", "--target", "manifest", "--target", "memory",
                                                          "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "0 crashes, 0 escapes" in result.stdout and limit.called
    assert (tmp_path / "fuzz.jsonl").read_text().count('"crashes": 0') == 3
