"""What the loop asks of a stage: a model, a loss a step, a validation, and its weights' name."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hieramp_ref.training.schedule import trapezoid
from hieramp_ref.training.settings import TrainSettings
from hieramp_ref.training.state import Record, TrainState


class Stage(ABC):
    """One training stage; the loop owns steps, averages and files, a stage owns its data and its loss."""

    name: str
    prefix: str
    schedule: Callable[[float], float] = staticmethod(trapezoid)
    clip_norm: float = 1.0

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.device = settings.torch_device()

    model: nn.Module
    item_count: int

    @abstractmethod
    def data(self) -> dict[str, Tensor]:
        """All that the stage learns from and is validated on, which a resumed run must share."""

    def prepare(self) -> None:  # noqa: B027 - not every stage has to
        """What the steps need and takes long or is written; called once, when nothing is left to refuse."""

    @abstractmethod
    def optimizers(self) -> list[Optimizer]:
        """Fresh optimizers over the model's parameters."""

    @abstractmethod
    def loss(self, step: int, state: TrainState) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step's batch and what to report beside it."""

    @abstractmethod
    def validate(self, model: nn.Module) -> Record:
        """Figures of a model on held-out data."""

    def memory(self) -> dict[str, Tensor]:
        """Tensors to carry from step to step, saved with the state."""
        return {}

    def before_step(self, step: int, state: TrainState) -> None:  # noqa: B027 - most stages have nothing to do here
        """A chance to act on the model between steps."""

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor on the training device, without waiting for the copy."""
        return tensor.to(self.device, non_blocking=True)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's tensors under their published keys."""
        tensors = model.state_dict()
        return {f"{self.prefix}.{k}": v.detach().to("cpu", torch.float32).contiguous() for k, v in tensors.items()}
