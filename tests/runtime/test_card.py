"""The card of a dataset: facts of the run, a header that YAML reads, names that cannot break its tables."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hieramp.runtime.card import card_text
from hieramp.runtime.manifest import ClassList
from hieramp.runtime.plan import Plan
from hieramp.runtime.recipe import resolve_recipe
from hieramp.runtime.redrawn import Redrawn
from hieramp.runtime.writers.layouts import LAYOUTS, with_layout
from hieramp.runtime.writers.parquet import unique_names


def card(plan: Plan, layout: str = "folder") -> str:
    recipe, classes = resolve_recipe(plan, ipc=3, batch_size=2)
    return card_text(plan, with_layout(recipe, layout, 5), classes, "contact_sheet.png", 2)


@pytest.mark.parametrize(("layout", "words"), [("folder", "soft-*.npy"), ("rded", "soft-*.npy"),
                                               ("webdataset", '"soft.npy"'), ("parquet", "`soft_label`")])
def test_soft_labels_are_explained_where_there_are_some(layout: str, words: str, plan: Plan) -> None:
    recipe, classes = resolve_recipe(plan, ipc=3, batch_size=2)
    recipe = replace(with_layout(recipe, layout, 5), teacher="t.onnx", teacher_sha256="5e7", teacher_columns=(0, 1))
    text = card_text(plan, recipe, classes, "contact_sheet.png", 2, agreement=0.875)
    for fact in ("## Soft labels", "`t.onnx` (SHA-256 `5e7`)", "the label for 87.5% of the pictures", words):
        assert fact in text
    assert "Soft labels" not in card(plan, layout) and words not in card(plan, layout)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_card_states_the_run(layout: str, plan: Plan) -> None:
    text = card(plan, layout)
    for words in ("# 12 pictures of 4 classes from tiny", f"`{plan.digest}`", "3 a class, 8×8 pixels",
                  "![Contact sheet](contact_sheet.png)", "| 2 | big cat | `big_cat` | 2 |", "| seed | 0 |",
                  "| amplification β, a scale | 0, 5, 5, 5 |", f"| format | {layout} |"):
        assert words in text
    assert ("| pictures a file | 6 |" in text) == (layout in ("webdataset", "parquet"))  # five, in whole batches of two


def test_the_header_is_yaml(plan: Plan) -> None:
    yaml = pytest.importorskip("yaml")
    licensed = replace(plan, manifest=replace(plan.manifest, license='cc-by-4.0: "free"'))
    for layout, path in (("folder", "*/*.png"), ("webdataset", "data-*.tar"), ("parquet", "data/train-*.parquet")):
        header = yaml.safe_load(card(licensed, layout).split("---")[1])
        assert header["license"] == 'cc-by-4.0: "free"'
        assert header["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": path}]}]
    assert "license" not in yaml.safe_load(card(plan).split("---")[1])
    assert "The plan's weights: cc-by" in card(licensed) and "The plan names none" in card(plan)


def test_the_licence_comes_from_the_manifest(make_plan: Callable[..., Path],
                                             edit_manifest: Callable[..., None]) -> None:
    folder = make_plan()
    edit_manifest(folder, lambda values: values.update(license="mit"))
    assert "\nlicense: \"mit\"\n" in card(Plan.open(folder))


def test_names_cannot_break_the_table(make_plan: Callable[..., Path]) -> None:
    plan = Plan.open(make_plan(classes=ClassList("names", ("a|b", "c  d", "e", "e"))))
    assert "| 0 | a\\|b | `a_b` | 0 |\n| 1 | c d |" in card(plan)


def test_names_are_no_markup(make_plan: Callable[..., Path]) -> None:
    plan = Plan.open(make_plan(classes=ClassList("names", ("<img src=//a>", "[b](//c)", "`d", "e\\|"))))
    text = card(plan)
    assert "| \\<img src=//a> |" in text and "| \\[b](//c) |" in text and "| \\`d |" in text and "| e\\\\\\| |" in text


def test_class_labels_are_unique(make_plan: Callable[..., Path]) -> None:
    _, classes = resolve_recipe(Plan.open(make_plan(classes=ClassList("names", ("crane", "bee", "crane", "dog")))))
    assert unique_names(classes) == ["crane (0000_crane)", "bee", "crane (0002_crane)", "dog"]


def test_pictures_drawn_again_are_listed_up_to_a_number(plan: Plan) -> None:
    recipe, classes = resolve_recipe(plan, ipc=30, batch_size=2)
    redrawn = {number: Redrawn(number, number // 30, number % 30, "logits", 2, "fp16", "tiny", "5a", "fp32", "")
               for number in range(61)}
    text = card_text(plan, recipe, classes, "contact_sheet.png", 2, redrawn=redrawn)
    assert text.count("| fp16 | `tiny` | fp32 | `5a` |") == 50 and "11 more are in `dataset.json`." in text
    assert "| bee | 19 | fp16 |" in text and "| bee | 20 | fp16 |" not in text
    assert "safer" not in card(plan)
