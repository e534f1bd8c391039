"""The averaged weights against the recurrence written out."""

import pytest
import torch
from torch import nn

from hieramp_ref.training.ema import ema_copy, ema_decay, update_ema


def test_decay_starts_low_and_is_bounded() -> None:
    assert [ema_decay(0.999, step) for step in (0, 8, 90)] == [0.1, 0.5, 0.91]
    assert ema_decay(0.999, 10**6) == 0.999


def test_average_follows_the_recurrence() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema, expected = ema_copy(model), 1.0
    for step, value in enumerate((3.0, -2.0, 5.0)):
        model.weight.data.fill_(value)
        update_ema(ema, model, ema_decay(0.9, step))
        expected = min(0.9, (1 + step) / (10 + step)) * expected + (1 - min(0.9, (1 + step) / (10 + step))) * value
        assert ema.weight.item() == pytest.approx(expected, rel=1e-6)


def test_the_copy_is_frozen_and_apart() -> None:
    model = nn.Linear(2, 2)
    ema = ema_copy(model)
    assert not any(p.requires_grad for p in ema.parameters())
    before = ema.weight.clone()
    model.weight.data.add_(1)
    assert torch.equal(ema.weight, before)
