import math

import pytest
import torch

from hieramp_ref.errors import SpecError
from hieramp_ref.students.protocol import HARD, PLAIN, SOFT, lr_factor, protocol_named
from hieramp_ref.students.run import optimizer_of


@pytest.mark.parametrize(("ipc", "epochs"), [(1, 2000), (10, 2000), (11, 1500), (50, 1500), (100, 1000), (200, 1000)])
def test_hard_labels_train_as_long_as_published(ipc: int, epochs: int) -> None:
    assert HARD.epochs_for(ipc, 224) == epochs
    assert HARD.batch_size_for(ipc) == 64


@pytest.mark.parametrize(("side", "epochs"), [(32, 400), (224, 300)])
def test_soft_labels_train_as_long_as_published(side: int, epochs: int) -> None:
    assert SOFT.epochs_for(50, side) == epochs
    assert [SOFT.batch_size_for(ipc) for ipc in (1, 10, 50)] == [10, 50, 100]


@pytest.mark.parametrize(("epoch", "lr"), [(0, 0.01), (1332, 0.01), (1333, 0.002), (1665, 0.002), (1666, 0.0004),
                                           (1999, 0.0004)])
def test_the_hard_rate_falls_to_a_fifth_at_two_thirds_and_five_sixths(epoch: int, lr: float) -> None:
    assert HARD.lr * lr_factor(HARD.schedule, epoch, 2000) == pytest.approx(lr)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1.0), (100, (1 + math.cos(math.pi / 6)) / 2),
                                               (150, 0.5 + math.sqrt(2) / 4), (200, 0.75), (300, 0.5)])
def test_the_soft_rate_follows_half_of_a_cosines_fall(epoch: int, factor: float) -> None:
    assert lr_factor(SOFT.schedule, epoch, 300) == pytest.approx(factor)


@pytest.mark.parametrize(("epoch", "lr"), [(0, 0.01), (150, 0.01), (151, 0.001), (299, 0.001)])
def test_the_plain_rate_falls_to_a_tenth_past_the_middle(epoch: int, lr: float) -> None:
    """Of 300 epochs, from number 300 // 2 + 1 on."""
    assert PLAIN.lr * lr_factor(PLAIN.schedule, epoch, PLAIN.epochs_for(10, 32)) == pytest.approx(lr)


def test_the_steps_are_those_of_torch() -> None:
    """PyTorch's own scheduler, stepped after each epoch as the published code does."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2 * 50 // 3, 5 * 50 // 6], gamma=0.2)
    for epoch in range(50):
        assert lr_factor("steps", epoch, 50) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_the_optimizers_are_those_of_the_table() -> None:
    model = torch.nn.Linear(2, 2)
    sgd, adamw = (optimizer_of(model, protocol) for protocol in (HARD, SOFT))
    assert isinstance(sgd, torch.optim.SGD) and isinstance(adamw, torch.optim.AdamW)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.01, 0.9, 5e-4)
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (1e-3, 0.01)
    assert (HARD.temperature, SOFT.temperature) == (None, 20)
    assert HARD.crop == (0.5, 1.0)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SpecError, match="protocol must be one of hard, soft, plain, got 'medium'"):
        protocol_named("medium")
    with pytest.raises(SpecError, match="schedule must be one of steps, half_cosine, halfway, got 'flat'"):
        lr_factor("flat", 0, 1)
