"""The training loop of every stage: steps, averages, logs and checkpoints, resumed from where a killed run left off.

Batches and other draws are functions of (seed, step), so a run that is killed and resumed ends with the same weights as
one that is not, bit for bit on a CPU with the same number of threads. With a wall-clock budget the learning rate
follows the clock, and no two runs are equal.
"""

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from hieramp_ref.errors import RunError
from hieramp_ref.training.curves import draw_curves
from hieramp_ref.training.digest import file_digest, tensors_digest
from hieramp_ref.training.ema import ema_copy, ema_decay, update_ema
from hieramp_ref.training.schedule import progress, warm_up
from hieramp_ref.training.stage import Stage
from hieramp_ref.training.state import STATE_FILE, Record, TrainState, load_state, save_state, write_atomically

WEIGHTS_FILE = "weights.safetensors"
LOG_FILE = "log.jsonl"
CURVES_FILE = "curves.png"


@dataclass
class _Stop:
    """The signal that asked the run to end after the step at hand, if one did."""

    number: int | None = None


@contextmanager
def stop_on_signals() -> Iterator[_Stop]:
    """Note SIGINT and SIGTERM while the block runs; a second signal interrupts at once."""
    stop = _Stop()
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.number is not None:
            raise KeyboardInterrupt
        stop.number = number

    for number in former:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def train(stage: Stage) -> TrainState:
    """Run a stage to its end, or to a signal; files go to the settings' `out` folder, once all is checked."""
    settings = stage.settings
    limit, identity = settings.step_limit(stage.item_count), _identity(stage)
    state = TrainState(stage.model, ema_copy(stage.model), stage.optimizers(), stage.memory())
    if (settings.out / STATE_FILE).exists():
        load_state(settings.out / STATE_FILE, state, identity, stage.device)
    settings.make_folder()
    with _named_failures(settings.out):
        stage.prepare()
        _write_log(settings.out / LOG_FILE, state.history)
        with stop_on_signals() as stop:
            _run(stage, state, identity, limit, stop)
    return state


@contextmanager
def _named_failures(out: Path) -> Iterator[None]:
    """Errors of the system once a run writes, as one line with the way out."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.strerror or error}: {error.filename or out}: put that right, and the same command "
                       "continues") from error


def _identity(stage: Stage) -> dict[str, Any]:
    """What a resumed run must share with the one that it continues."""
    settings = stage.settings
    return {
        "stage": stage.name, "seed": settings.seed, "batch_size": settings.batch_size, "optimizer": settings.optimizer,
        "precision": settings.precision, "model": settings.spec.to_dict(), "training images": stage.item_count,
        "data": tensors_digest(stage.data()), "vqvae": file_digest(settings.vqvae),
        "weights to start from": file_digest(settings.init or settings.var),
    }


def _run(stage: Stage, state: TrainState, identity: dict[str, Any], limit: int | None, stop: _Stop) -> None:
    settings = stage.settings
    started, before = time.monotonic(), state.elapsed
    saved = started
    with tqdm(total=limit, initial=state.step, desc=stage.name, unit="step", dynamic_ncols=True) as bar:
        while (done := progress(state.step, limit, state.elapsed, settings.minutes)) < 1 and stop.number is None:
            rate = _step(stage, state, done)
            state.elapsed = before + time.monotonic() - started
            bar.update()
            _report(stage, state, rate, bar)
            if time.monotonic() - saved >= settings.checkpoint_seconds:
                checkpoint(stage, state, identity)
                saved = time.monotonic()
    state.finished, state.stopped_by = done >= 1, stop.number
    if state.finished and (not state.history or "val_loss" not in state.history[-1]):
        _log(stage, state, {"step": float(state.step)} | _validated(stage, state))
    checkpoint(stage, state, identity)


def _step(stage: Stage, state: TrainState, done: float) -> float:
    """One optimisation step; gives the learning rate it used."""
    settings = stage.settings
    rate = settings.lr * warm_up(state.step, settings.warm_up) * stage.schedule(done)
    stage.before_step(state.step, state)
    loss, figures = stage.loss(state.step, state)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), stage.clip_norm)
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    update_ema(state.ema, state.model, ema_decay(settings.ema, state.step))
    state.step += 1
    state.window.append({"loss": loss.detach()} | figures)
    return rate


def _report(stage: Stage, state: TrainState, rate: float, bar: "tqdm[Any]") -> None:
    """Every so many steps: means of the window to the log and the bar, and figures on held-out data."""
    settings = stage.settings
    validating = state.step % settings.validate_steps == 0
    if state.step % settings.log_steps and not validating:
        return
    record: Record = {"step": float(state.step)} | _means(state.window) | {"lr": rate, "seconds": state.elapsed}
    _require_finite(state)
    state.window.clear()
    _log(stage, state, record | (_validated(stage, state) if validating else {}))
    bar.set_postfix({k: f"{v:.4g}" for k, v in state.history[-1].items() if k not in ("step", "seconds")})


def _validated(stage: Stage, state: TrainState) -> Record:
    """Figures of the averaged weights on held-out data, which show whether the last step spoiled them."""
    record = stage.validate(state.ema)
    for name, value in record.items():
        _require_finite_figure(name, value, state.step)
    return record


def _require_finite(state: TrainState) -> None:
    for entry in state.window:
        _require_finite_figure("loss", float(entry["loss"]), state.step)


def _require_finite_figure(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise RunError(f"the {name} became {value} by step {step}: go on from the last checkpoint with a lower --lr, "
                       "or start again with --precision fp32 and another --out")


def _means(window: list[dict[str, Tensor]]) -> Record:
    return {name: float(torch.stack([entry[name].float() for entry in window]).mean()) for name in window[0]}


def _log(stage: Stage, state: TrainState, record: Record) -> None:
    state.history.append(record)
    with (stage.settings.out / LOG_FILE).open("a") as file:
        file.write(json.dumps(record) + "\n")


def _write_log(path: Path, history: list[Record]) -> None:
    """The log as the state knows it; lines past the last checkpoint go, their steps are taken again."""
    write_atomically(path, lambda temporary: temporary.write_text("".join(json.dumps(r) + "\n" for r in history)))


def checkpoint(stage: Stage, state: TrainState, identity: dict[str, Any]) -> None:
    """Write the state, the averaged weights and the curves, each atomically."""
    out = stage.settings.out
    _require_finite(state)
    _require_finite_figure("norm of the weights", float(get_total_norm(state.ema.parameters())), state.step)
    save_state(out / STATE_FILE, state, identity)
    about = {"stage": stage.name, "step": state.step, "model": stage.settings.spec.to_dict()}
    # One entry: with several, their order in the file would be left to chance.
    weights = save(stage.weights(state.ema), {"hieramp": json.dumps(about)})
    write_atomically(out / WEIGHTS_FILE, lambda temporary: temporary.write_bytes(weights))
    write_atomically(out / CURVES_FILE, lambda temporary: draw_curves(state.history, temporary, stage.name))
