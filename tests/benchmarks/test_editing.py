"""The example picture of editing, of a small model: what its rows hold, and that it is written."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hieramp.export.plan import ExportOptions, export_plan
from hieramp.runtime import Plan, generate
from hieramp.runtime.manifest import ClassList
from hieramp_ref.settings import default_settings

Script = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def plan(small_model: NamedTuple, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The small model with an encoder: scales of 1, 2 and 4 tokens a side, 8 pixels."""
    out = tmp_path_factory.mktemp("editing") / "small.plan"
    var, vqvae, settings = small_model.var, small_model.vqvae, default_settings(small_model.var.spec)
    export_plan(var, vqvae, settings, ClassList("names", ("bar", "dot", "gap")), ExportOptions("small",
                with_encoder=True), out)
    return Plan.open(out)


def test_a_start_row_goes_from_the_class_alone_to_the_source(script: Script, plan: Plan) -> None:
    source_SS3 = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    row = script("editing").started_row(plan, source_SS3, "dot", 4)
    alone = next(generate(plan, classes="dot", ipc=1, seed=4, batch_size=1))
    np.testing.assert_array_equal(row.pictures[0], alone.image_SS3)
    assert row.titles == ("dot, 0 kept", "dot, 1 kept", "dot, 2 kept")


def test_the_masks_of_both_painted_rows_are_each_other_s_rest(script: Script, plan: Plan) -> None:
    source_SS3 = np.full((8, 8, 3), 7, np.uint8)
    inner, outer = script("editing").painted_rows(plan, source_SS3, ["bar", "gap"], 4)
    assert inner.titles == ("source", "its tokens", "kept: the edge", "bar", "gap")
    hidden = [row.pictures[2][..., 0] == 128 for row in (inner, outer)]
    assert hidden[0].sum() == 16 and (hidden[0] ^ hidden[1]).all()
    np.testing.assert_array_equal(inner.pictures[1], outer.pictures[1])


def test_it_is_written(script: Script, plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "editing.png"
    options = ["--plan", str(plan.folder), "--source", "bar", "--classes", "dot,gap", "--out", str(out)]
    result = CliRunner().invoke(script("editing").main, options)
    assert result.exit_code == 0, result.output
    with Image.open(out) as picture:
        assert picture.width > 300 and len(picture.convert("RGB").getcolors(1 << 16)) > 10
