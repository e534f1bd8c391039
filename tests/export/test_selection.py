"""Rows that broke a tie of saliency differently are left out of the comparison, and only those."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hieramp.export.model_source import LoadedModel
from hieramp.export.selection import comparable_rows
from hieramp.runtime import Drawing
from hieramp_ref.generate import Trace

EVEN = [0.2, 0.3, 0.1, 0.4]  # 1 and 3 are selected


def rows_of(model: LoadedModel, ours: list[list[float]], theirs: list[list[float]],
            tolerance: float) -> list[list[bool]]:
    """Scale 1 (four positions, two selected) of these saliency maps [R, 4]; scales 0 and 2 agree."""
    R, image = len(ours), np.zeros((1, 3, 1, 1), np.float32)
    first, last = torch.ones(R, 1), torch.arange(9.0).expand(R, 9)
    reference = [{}, {1: torch.tensor(theirs)}, {1: last}]
    observed = tuple(m.numpy()[None].astype(np.float32) for m in (first, torch.tensor(ours), last))
    nothing, logits = torch.zeros(1), [torch.zeros(R, 1, 1)] * 3
    trace = Trace(logits, [], [], reference, nothing, nothing)
    drawing = Drawing((), image, image, saliency=observed)
    return [rows.tolist() for rows in comparable_rows(trace, drawing, model.settings, model.var.spec, tolerance)]


@pytest.mark.parametrize(("theirs", "tolerance", "kept"), [
    (EVEN, 0.0, True),
    ([0.3, 0.2, 0.1, 0.4], 0.3, True),     # 0 instead of 1, too far apart for a tie
    ([0.3, 0.2, 0.1, 0.4], 0.34, False),   # within a third of the larger
    ([0.2, 0.35, 0.1, 0.35], 0.0, True),   # other values, the same selection
])
def test_a_row_is_left_out_where_it_broke_a_tie_differently(tiny: LoadedModel, theirs: list[float], tolerance: float,
                                                            kept: bool) -> None:
    assert rows_of(tiny, [EVEN, EVEN], [EVEN, theirs], tolerance) == [[True, True], [True, kept], [True, kept]]


def test_if_no_row_is_left_all_are_compared(tiny: LoadedModel) -> None:
    assert rows_of(tiny, [EVEN], [[0.3, 0.2, 0.1, 0.4]], 0.5) == [[True]] * 3


def test_without_amplification_all_rows_are_compared(tiny: LoadedModel) -> None:
    plain = replace(tiny, settings=replace(tiny.settings, beta=(0.0,) * 3))
    trace = Trace([torch.zeros(2, 1, 1)] * 3, [], [], [{}, {}, {}], torch.zeros(1), torch.zeros(1))
    image = np.zeros((1, 3, 1, 1), np.float32)
    rows = comparable_rows(trace, Drawing((), image, image), plain.settings, plain.var.spec, 1.0)
    assert [r.tolist() for r in rows] == [[True, True]] * 3
