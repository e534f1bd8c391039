"""Draws by counter: the same for the same keys, different for others, and distributed as they say."""

import torch

from hieramp_ref.training.draws import LABEL_DROP, batch_indices, coin_flips, drop_labels


def test_an_epoch_visits_every_item_once() -> None:
    epoch = torch.cat([batch_indices(12, 4, seed=1, step=step) for step in range(3)])
    assert sorted(epoch.tolist()) == list(range(12))


def test_epochs_seeds_and_steps_differ_but_repeat() -> None:
    first = batch_indices(1000, 50, seed=1, step=0)
    assert torch.equal(first, batch_indices(1000, 50, seed=1, step=0))
    others = [batch_indices(1000, 50, seed=1, step=20), batch_indices(1000, 50, seed=2, step=0),
              batch_indices(1000, 50, seed=1, step=1)]
    assert not any(torch.equal(first, other) for other in others)


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    coin_flips(8, 0.5, 0, "flip", 3)
    assert torch.equal(before, torch.get_rng_state())


def test_one_label_in_ten_is_dropped() -> None:
    labels = torch.arange(10).repeat(20)
    mixed = torch.stack([drop_labels(labels, 10, seed=0, step=step) for step in range(200)])
    dropped = mixed == 10
    deviation = (LABEL_DROP * (1 - LABEL_DROP) / dropped.numel()) ** 0.5
    assert LABEL_DROP == 0.1
    assert abs(dropped.float().mean().item() - 0.1) < 4 * deviation
    assert bool((mixed[~dropped] == labels.expand_as(mixed)[~dropped]).all())


def test_purposes_are_independent() -> None:
    flips = torch.cat([coin_flips(64, 0.5, 0, "flip", step) for step in range(50)])
    drops = torch.cat([coin_flips(64, 0.5, 0, "drop", step) for step in range(50)])
    assert abs((flips == drops).float().mean().item() - 0.5) < 4 * 0.5 / len(flips) ** 0.5
