"""What a page is made of: amplified differences, cells of saliency, plots in the page's colours, broken plans."""

import base64
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hieramp.export.parity.comparison import Comparison
from hieramp.export.parity.figures import Figure
from hieramp.export.parity.job import CompareJob, run_compare
from hieramp.export.parity.report.embed import data_uri, difference, difference_factor, saliency_cells
from hieramp.export.parity.report.page import write_comparison
from hieramp.export.parity.report.plots import error_plot
from hieramp.runtime import Plan


@pytest.fixture(scope="module")
def found(tiny_plan: Plan) -> Comparison:
    return run_compare(CompareJob(tiny_plan.folder, against=tiny_plan.folder, images=3, threads=1))


def picture(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_pictures_are_what_they_were() -> None:
    image = np.random.default_rng(0).random((3, 12, 12)).astype(np.float32)
    assert np.abs(picture(data_uri(image)).transpose(2, 0, 1) / 255 - image).max() <= 0.5 / 255 + 1e-6
    assert picture(data_uri(np.zeros((3, 256, 256), np.float32))).shape == (128, 128, 3)
    assert (picture(data_uri(np.full((3, 4, 4), np.nan, np.float32))) == 255).all()


@pytest.mark.parametrize(("error", "factor"), [(0.5, 1), (0.1, 4), (0.01, 32), (1e-6, 2**18), (0.0, 2**20)])
def test_differences_are_amplified_to_half_the_range(error: float, factor: int) -> None:
    theirs = np.full((3, 2, 2), 0.25, np.float32)
    ours = theirs.copy()
    ours[0, 0, 0] += np.float32(error)
    assert difference_factor(ours, theirs) == factor
    shown = difference(ours, theirs, factor)
    assert shown[1, 1, 1] == 0.5
    assert shown[0, 0, 0] == pytest.approx(min(0.5 + factor * error, 1), abs=0.02)


def test_cells() -> None:
    cells = saliency_cells(np.array([0.1, 0.4, 0.3, 0.2], np.float32), np.array([0, 1, 1, 0], bool),
                           np.array([0, 1, 0, 1], bool))
    assert [(cell["x"], cell["y"], cell["selected"]) for cell in cells] == [
        (0, 0, ""), (1, 0, "both"), (0, 1, "plan"), (1, 1, "reference")]
    assert [cell["heat"] for cell in cells] == pytest.approx([0, 1, 0.67, 0.33])


def test_plots_take_the_colours_of_the_page_and_the_same_bytes_each_time(found: Comparison) -> None:
    svg = error_plot(found.figures)
    assert svg == error_plot(found.figures)
    assert svg.startswith("<svg") and "currentColor" in svg and "var(--bad)" in svg
    assert "saliency overlap" in svg  # text stays text


def test_a_plan_that_gives_no_numbers_still_gets_its_report(found: Comparison, tmp_path: Path) -> None:
    broken = tuple(Figure(figure.quantity, figure.scale, math.nan, figure.bound) for figure in found.figures)
    ours = replace(found.shown.ours, image_B3SS=np.full_like(found.shown.ours.image_B3SS, np.nan))
    write_comparison(replace(found, figures=broken, shown=replace(found.shown, ours=ours)), tmp_path)
    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert data["passed"] is False and data["first_failure"]["value"] is None
    assert "not a number" in (tmp_path / "report.html").read_text()


def test_a_plan_without_saliency_has_no_such_section(found: Comparison, tmp_path: Path) -> None:
    blind = replace(found.shown, ours=replace(found.shown.ours, saliency=()))
    write_comparison(replace(found, shown=blind), tmp_path)
    assert "<h2>Saliency</h2>" not in (tmp_path / "report.html").read_text()
