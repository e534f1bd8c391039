"""Replay a recorded trace: its labels and tokens through the reference or a plan, the same arrays out.

A trace holds `labels`, and for each scale k `logits_k` [2B, l, V] before the guidance mix and `idx_k` [B, l], then
`f_hat` and `image` in [0, 1].
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hieramp.export.errors import ExportError
from hieramp.export.gate import replay_forced
from hieramp.export.model_source import ModelSource, load_model
from hieramp.runtime import Plan
from hieramp.runtime.errors import OutputError
from hieramp_ref.generate import generate

Arrays = dict[str, NDArray[np.generic]]


def read_trace(path: Path) -> Arrays:
    """The arrays of a trace file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            trace = {name: stored[name] for name in stored.files}
    except Exception as error:  # NumPy's readers of archives, headers and arrays share no base but Exception
        raise ExportError(f"{path} is no trace: {error}") from error
    if "labels" not in trace or "idx_0" not in trace:
        raise ExportError(f"{path} is no trace: it needs labels and idx_0, has {', '.join(trace) or 'nothing'}")
    odd = [name for name, array in trace.items() if not (isinstance(array, np.ndarray) and array.dtype.kind in "iuf")]
    if odd:
        raise ExportError(f"{path} is no trace: {', '.join(odd)} holds no numbers")
    return trace


def write_trace(path: Path, trace: Mapping[str, NDArray[np.generic]]) -> None:
    """Write a trace file, replacing an older one in one step."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            np.savez(stream, **trace)  # type: ignore[arg-type]  # its option allow_pickle is newer than the arrays' names
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def replay_reference(source: ModelSource, recorded: Arrays) -> Arrays:
    """The trace as the PyTorch reference computes it."""
    model = load_model(source)
    spec = model.var.spec
    labels_B = _labels(recorded, spec.var.num_classes)
    tokens = _forced_tokens(recorded, len(labels_B), spec.scale_tokens, spec.vqvae.vocab_size)
    uniforms_BL = torch.zeros(len(labels_B), spec.token_count)
    trace = generate(model.var, model.vqvae, torch.from_numpy(labels_B), uniforms_BL, model.settings,
                     [torch.from_numpy(t) for t in tokens])
    return _arrays(labels_B, [x.numpy() for x in trace.logits], tokens, trace.f_hat_BzPP.numpy(),
                   trace.image_B3hw.numpy())


def replay_plan(folder: Path, recorded: Arrays) -> Arrays:
    """The trace as a plan with trace outputs computes it, with the plan's own settings."""
    plan = Plan.open(folder)
    model = plan.manifest.model
    if not plan.manifest.trace_outputs:
        raise ExportError(f"{folder} has no trace outputs: export it with --trace-outputs")
    labels_B = _labels(recorded, model.num_classes)
    tokens = _forced_tokens(recorded, len(labels_B), model.scale_tokens, model.vocab_size)
    drawing = replay_forced(plan, labels_B, np.concatenate(tokens, axis=1))
    return _arrays(labels_B, list(drawing.logits), list(drawing.tokens), drawing.f_hat_BzPP, drawing.image_B3SS)


def largest_differences(replayed: Arrays, recorded: Arrays) -> dict[str, float]:
    """Largest absolute difference of every array that both traces hold in one shape, tokens and labels left out."""
    shared = [name for name, array in replayed.items() if not name.startswith(("idx_", "labels"))
              and name in recorded and recorded[name].shape == array.shape]
    return {name: float(np.abs(_float64(replayed[name]) - _float64(recorded[name])).max()) for name in shared}


def _float64(array: NDArray[np.generic]) -> NDArray[np.float64]:
    return array.astype(np.float64)


def _labels(recorded: Arrays, classes: int) -> NDArray[np.int64]:
    labels = recorded["labels"]
    if labels.ndim != 1 or not len(labels) or not _whole_below(labels, classes):
        raise ExportError(f"labels of the trace must be a list of class ids in 0..{classes - 1}, got {labels.tolist()}")
    return labels.astype(np.int64)


def _forced_tokens(
    recorded: Arrays, batch: int, scale_tokens: tuple[int, ...], vocab_size: int
) -> list[NDArray[np.int64]]:
    """Tokens [B, l] of every scale."""
    shapes = {f"idx_{k}": (batch, count) for k, count in enumerate(scale_tokens)}
    for name, shape in shapes.items():
        if name not in recorded or recorded[name].shape != shape:
            got = recorded[name].shape if name in recorded else "nothing"
            raise ExportError(f"{name} of the trace must have the model's shape {shape}, got {got}")
        if not _whole_below(recorded[name], vocab_size):
            raise ExportError(f"{name} of the trace must hold tokens in 0..{vocab_size - 1}, got "
                              f"{recorded[name].min()} to {recorded[name].max()} ({recorded[name].dtype})")
    return [recorded[name].astype(np.int64) for name in shapes]


def _whole_below(array: NDArray[np.generic], limit: int) -> bool:
    return array.dtype.kind in "iu" and all(0 <= value < limit for value in array.astype(object).flat)


def _arrays(labels_B: NDArray[np.int64], logits: list[NDArray[np.float32]], tokens: list[NDArray[np.int64]],
            f_hat: NDArray[np.float32], image: NDArray[np.float32]) -> Arrays:
    scales = {f"logits_{k}": x for k, x in enumerate(logits)} | {f"idx_{k}": t.astype(np.int32)
                                                                 for k, t in enumerate(tokens)}
    return {"labels": labels_B, **scales, "f_hat": f_hat, "image": image}
