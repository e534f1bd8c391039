"""The state of a run: all that a resumed run needs, in one file written atomically."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hieramp_ref.errors import CheckpointError

STATE_FILE = "state.pt"
Record = dict[str, float]


@dataclass
class TrainState:
    """A model in training with its average, its optimizers and what the stage remembers between steps."""

    model: nn.Module
    ema: nn.Module
    optimizers: list[Optimizer]
    memory: dict[str, Tensor]
    step: int = 0
    elapsed: float = 0.0
    history: list[Record] = field(default_factory=list)
    window: list[dict[str, Tensor]] = field(default_factory=list)
    finished: bool = False
    stopped_by: int | None = None


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there in one operation."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_state(path: Path, state: TrainState, identity: dict[str, Any]) -> None:
    """Write the state; `identity` is what a resumed run must share with this one."""
    values = {
        "identity": json.dumps(identity, sort_keys=True),
        "model": state.model.state_dict(),
        "ema": state.ema.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "memory": state.memory,
        "step": state.step,
        "elapsed": state.elapsed,
        "history": state.history,
        "window": state.window,
    }
    write_atomically(path, lambda temporary: _write(temporary, values))


def _write(path: Path, values: dict[str, Any]) -> None:
    with path.open("wb") as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # torch's own, raised over the system's where a disk is full
            if isinstance(error.__context__, (OSError, KeyboardInterrupt)):
                raise error.__context__ from None
            raise


def load_state(path: Path, state: TrainState, identity: dict[str, Any], device: torch.device) -> None:
    """Bring `state` to where the file left off."""
    values = _read(path, device)
    _check_identity(path, json.loads(values["identity"]), json.loads(json.dumps(identity)))
    state.model.load_state_dict(values["model"])
    state.ema.load_state_dict(values["ema"])
    for optimizer, saved in zip(state.optimizers, values["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    for name, tensor in state.memory.items():
        tensor.copy_(values["memory"][name])
    state.step, state.elapsed = values["step"], values["elapsed"]
    state.history, state.window = values["history"], values["window"]


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        values: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, OSError or UnpicklingError by the kind of damage
        raise CheckpointError(f"{path} cannot be read ({error}): remove it to start over") from error
    return values


def _check_identity(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in wanted:
        if name not in saved:
            raise CheckpointError(f"{path} was written before states named their {name}, so that it may be of another "
                                  "run: give another --out, and the weights beside it as --init to go on from them")
        if saved[name] != wanted[name]:
            raise CheckpointError(f"{path} is of a run with {name} {saved[name]!r}, asked for {wanted[name]!r}: "
                                  "use the same or another --out")
