"""What a training run is told: one frozen record, the same for all stages."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from hieramp_ref.compiling import compiled
from hieramp_ref.errors import DataError, SpecError
from hieramp_ref.spec import ModelSpec

MOST_THREADS = 1024

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class TrainSettings:
    """One run. Its length is `steps`, or `minutes` of training time summed over resumes, or what ends first of both.

    A run by steps repeats bit for bit (same machine, same thread count); one by minutes does not, since its
    learning rate follows the clock.
    """

    spec: ModelSpec
    data: Path | None
    out: Path
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch_size: int = 64
    lr: float = 1e-3
    optimizer: str = "adamw"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    ema: float = 0.999
    precision: str = "bf16"
    warm_up: int = 200
    compile: bool = False
    init: Path | None = None
    vqvae: Path | None = None
    var: Path | None = None
    checkpoint_seconds: float = 300.0
    log_steps: int = 50
    validate_steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "minutes", "batch_size", "lr", "threads", "checkpoint_seconds", "log_steps",
                     "validate_steps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SpecError(f"{name} must be positive, got {value}")
        for name in ("epochs", "lr"):
            if getattr(self, name) == math.inf:
                raise SpecError(f"{name} must be finite, got inf")
        if self.warm_up < 0:
            raise SpecError(f"warm_up must be 0 or more, got {self.warm_up}")
        if self.threads is not None and self.threads > MOST_THREADS:
            raise SpecError(f"threads must be at most {MOST_THREADS}, got {self.threads}")
        if not -2**63 <= self.seed < 2**64:
            raise SpecError(f"seed must be a number of 64 bits, got {self.seed}")
        if self.steps is None and self.epochs is None and self.minutes is None:
            raise SpecError("the length of the run must be given: steps, epochs or minutes")
        if self.precision not in ("bf16", "fp32"):
            raise SpecError(f"precision must be one of bf16, fp32, got {self.precision!r}")
        if self.optimizer not in ("adamw", "muon"):
            raise SpecError(f"optimizer must be one of adamw, muon, got {self.optimizer!r}")
        if not 0 <= self.ema < 1:
            raise SpecError(f"ema must lie in [0, 1), got {self.ema}")

    def step_limit(self, item_count: int) -> int | None:
        """Steps of the run, from `steps` or `epochs`; None when only the clock ends it."""
        if self.batch_size > item_count:
            raise DataError(f"batch_size must be at most the {item_count} training images, got {self.batch_size}")
        by_epochs = None if self.epochs is None else max(1, round(self.epochs * (item_count // self.batch_size)))
        return min((n for n in (self.steps, by_epochs) if n is not None), default=None)

    def make_folder(self) -> None:
        """Make the folder of the run."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"output folder {self.out} cannot be written: {error.strerror}") from error

    def torch_device(self) -> torch.device:
        """The device to train on; `auto` takes the GPU when there is one."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise SpecError(f"device must be one of auto, cpu, cuda, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SpecError("device is cuda but PyTorch sees no GPU: use --device cpu")
        use_gpu = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if use_gpu else "cpu")

    def compiled(self, function: Callable[P, T]) -> Callable[P, T]:
        """The function through `torch.compile` when asked for."""
        return compiled(function, self.torch_device().type) if self.compile else function

    def autocast(self, device: torch.device) -> torch.autocast:
        """The mixed-precision context of a forward pass."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")
