"""How one student is trained, resolved to values that a resumed run must share."""

import hashlib
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from hieramp_ref.errors import SpecError
from hieramp_ref.students.datasets import LabelledImages
from hieramp_ref.students.protocol import HARD, Protocol

PRECISIONS = ("auto", "bf16", "fp32")
# A test image costs a forward pass, a third of a training image; tests may add a tenth to a run.
_TEST_COST, _TEST_SHARE = 1 / 3, 0.1


@dataclass(frozen=True)
class StudentSettings:
    """None stands for the protocol's own value, and for tests whose cost stays below a tenth of the run."""

    student: str = "convnet3"
    norm: str = "instance"
    protocol: Protocol = HARD
    epochs: int | None = None
    batch_size: int | None = None
    test_every: int | None = None
    precision: str = "auto"
    compile: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise SpecError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        for name in ("epochs", "batch_size", "test_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SpecError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class Schedule:
    """The length of a run: epochs, images a step, steps an epoch, and the epochs after which it is tested."""

    epochs: int
    batch_size: int
    steps_per_epoch: int
    tested: tuple[int, ...]


def schedule_of(settings: StudentSettings, train: LabelledImages, test_count: int) -> Schedule:
    """What settings mean for a dataset; the last epoch is always tested."""
    count = len(train.images)
    epochs = settings.epochs or settings.protocol.epochs_for(train.ipc, train.side)
    batch_size = min(settings.batch_size or settings.protocol.batch_size_for(train.ipc), count)
    every = settings.test_every or default_test_every(count, test_count)
    return Schedule(epochs, batch_size, ceil(count / batch_size),
                    tuple(epoch for epoch in range(1, epochs + 1) if epoch % every == 0 or epoch == epochs))


def default_test_every(train_count: int, test_count: int) -> int:
    """Epochs between tests of which the cost stays below a tenth of the training's."""
    return max(1, ceil(test_count * _TEST_COST / (_TEST_SHARE * train_count)))


def resolve_precision(settings: StudentSettings) -> str:
    """bf16 where the processor multiplies matrices in it (AMX) or on a GPU, else fp32."""
    if settings.precision != "auto":
        return settings.precision
    if settings.device != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("amx_bf16") else "fp32"


def identity(settings: StudentSettings, schedule: Schedule, seed: int, train: LabelledImages, test: LabelledImages,
             teacher_digest: str | None) -> dict[str, Any]:
    """All that decides a run's figures, as JSON values."""
    return {"student": settings.student, "norm": settings.norm, "protocol": asdict(settings.protocol),
            "schedule": asdict(schedule), "seed": seed, "precision": resolve_precision(settings),
            "compile": settings.compile, "train": digest(train.images, train.labels),
            "test": digest(test.images, test.labels), "teacher": teacher_digest}


def digest(*tensors: Tensor) -> str:
    """SHA-256 over the values of tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().cpu().numpy().tobytes())
    return found.hexdigest()
