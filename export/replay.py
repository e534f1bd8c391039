"""Replay a recorded trace: its labels and tokens through the reference or a plan, the same arrays out.

A trace holds `labels`, and for each scale k `logits_k` [2B, l, V] before the guidance mix and `idx_k` [B, l], then
`f_hat` and `image` in [0, 1].
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hieramp.export.errors import ExportError
from hieramp.export.model_source import ModelSource, load_model
from hieramp.runtime import OnnxRuntimeBackend, Plan, draw_batch, resolve_settings
from hieramp.runtime.errors import OutputError
from hieramp_ref.generate import generate

Arrays = dict[str, NDArray[np.generic]]


def read_trace(path: Path) -> Arrays:
    """The arrays of a trace file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            trace = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path} is no trace: {error}") from error
    if "labels" not in trace or "idx_0" not in trace:
        raise ExportError(f"{path} is no trace: it needs labels and idx_0, has {', '.join(trace) or 'nothing'}")
    return trace


def write_trace(path: Path, trace: Mapping[str, NDArray[np.generic]]) -> None:
    """Write a trace file, replacing an older one in one step."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **trace)
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def replay_reference(source: ModelSource, recorded: Arrays) -> Arrays:
    """The trace as the PyTorch reference computes it."""
    model = load_model(source)
    tokens = _forced_tokens(recorded, model.var.spec.scale_tokens)
    labels_B = _labels(recorded, model.var.spec.var.num_classes)
    uniforms_BL = torch.zeros(len(labels_B), model.var.spec.token_count)
    trace = generate(model.var, model.vqvae, torch.from_numpy(labels_B), uniforms_BL, model.settings,
                     [torch.from_numpy(t) for t in tokens])
    return _arrays(labels_B, [x.numpy() for x in trace.logits], tokens, trace.f_hat_BzPP.numpy(),
                   trace.image_B3hw.numpy())


def replay_plan(folder: Path, recorded: Arrays) -> Arrays:
    """The trace as a plan with trace outputs computes it, with the plan's own settings."""
    plan = Plan.open(folder)
    model = plan.manifest.model
    tokens, labels_B = _forced_tokens(recorded, model.scale_tokens), _labels(recorded, model.num_classes)
    forced_BL = np.concatenate(tokens, axis=1)
    with OnnxRuntimeBackend.open(plan) as backend:
        drawing = draw_batch(backend, plan, resolve_settings(plan.manifest), labels_B,
                             np.zeros(forced_BL.shape, np.float32), forced_BL=forced_BL, trace=True)
    return _arrays(labels_B, list(drawing.logits), list(drawing.tokens), drawing.f_hat_BzPP, drawing.image_B3SS)


def largest_differences(replayed: Arrays, recorded: Arrays) -> dict[str, float]:
    """Largest absolute difference of every array that both traces hold, tokens and labels left out."""
    shared = [name for name in replayed if name in recorded and not name.startswith(("idx_", "labels"))]
    return {name: float(np.abs(replayed[name].astype(np.float64) - recorded[name]).max()) for name in shared}


def _labels(recorded: Arrays, classes: int) -> NDArray[np.int64]:
    labels_B = recorded["labels"].astype(np.int64)
    if labels_B.ndim != 1 or not all(0 <= label < classes for label in labels_B):
        raise ExportError(f"labels of the trace must lie in 0..{classes - 1}, got {labels_B.tolist()}")
    return labels_B


def _forced_tokens(recorded: Arrays, scale_tokens: tuple[int, ...]) -> list[NDArray[np.int64]]:
    shapes = {f"idx_{k}": (len(recorded["labels"]), count) for k, count in enumerate(scale_tokens)}
    for name, shape in shapes.items():
        if name not in recorded or recorded[name].shape != shape:
            got = recorded[name].shape if name in recorded else "nothing"
            raise ExportError(f"{name} of the trace must have the model's shape {shape}, got {got}")
    return [recorded[name].astype(np.int64) for name in shapes]


def _arrays(labels_B: NDArray[np.int64], logits: list[NDArray[np.float32]], tokens: list[NDArray[np.int64]],
            f_hat: NDArray[np.float32], image: NDArray[np.float32]) -> Arrays:
    scales = {f"logits_{k}": x for k, x in enumerate(logits)} | {f"idx_{k}": t.astype(np.int32)
                                                                 for k, t in enumerate(tokens)}
    return {"labels": labels_B, **scales, "f_hat": f_hat, "image": image}
