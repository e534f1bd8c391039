"""The PyTorch reference as one side of a comparison."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hieramp.export.errors import ExportError
from hieramp.export.gate import attention_sharpness
from hieramp.export.parity.facts import Facts
from hieramp.export.parity.observation import Inputs, Observation
from hieramp.export.plan import model_shape
from hieramp.export.plan_settings import reference_settings, runtime_settings
from hieramp.runtime import Plan
from hieramp.runtime.contract import WEIGHTS
from hieramp_ref.checkpoint import load_var, load_vqvae, read_state
from hieramp_ref.generate import Trace, generate
from hieramp_ref.presets import PRESETS, preset
from hieramp_ref.settings import Settings, settings_from_json
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae


@dataclass(frozen=True)
class CheckpointSource:
    """Where the reference comes from; what is left out is the plan's own."""

    var: Path | None = None
    vae: Path | None = None
    preset: str | None = None
    config: Path | None = None
    settings: Path | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A reference ready to run, with its facts."""

    var: Var
    vqvae: Vqvae
    settings: Settings
    facts: Facts


def open_checkpoint(source: CheckpointSource, plan: Plan) -> Checkpoint:
    """Load the reference of a plan. An ExportError says what to give where the plan does not hold its own."""
    spec = _spec(source, plan)
    weights = plan.path(WEIGHTS)
    if source.var is None and not any(key.startswith("encoder.") for key in read_state(weights, "vae.")):
        raise ExportError(f"{plan.folder} keeps no training weights, so it holds no reference of its own: give "
                          "--reference VAR VAE, --against PLAN or --recorded RECORD")
    var, vqvae = load_var(source.var or weights, spec), load_vqvae(source.vae or weights, spec)
    settings = settings_from_json(var.spec, source.settings) if source.settings else reference_settings(plan.manifest)
    return checkpoint(var, vqvae, settings, source.var.name if source.var else f"checkpoint in {plan.manifest.name}")


def checkpoint(var: Var, vqvae: Vqvae, settings: Settings, name: str) -> Checkpoint:
    """A model in memory as a reference."""
    facts = Facts(name, "reference", "fp32", model_shape(var.spec), attention_sharpness(var),
                  runtime_settings(settings, var.spec.vqvae.vocab_size), tuple(sorted(set(settings.blocks))))
    return Checkpoint(var, vqvae, settings, facts)


def observe_checkpoint(model: Checkpoint, batches: Iterable[Inputs]) -> Iterator[tuple[Inputs, Observation]]:
    """The reference running free, which is its own history."""
    for inputs in batches:
        trace = generate(model.var, model.vqvae, torch.from_numpy(inputs.labels_B),
                         torch.from_numpy(inputs.uniforms_BL), model.settings)
        yield inputs, _observation(trace, sorted(set(model.settings.blocks)))


def _observation(trace: Trace, blocks: list[int]) -> Observation:
    tokens = tuple(tokens_Bl.numpy() for tokens_Bl in trace.tokens)
    image_B3SS = trace.image_B3hw.numpy()
    saliency = tuple(np.stack([maps[block].numpy() for block in blocks]) if maps else
                     np.zeros((0, *logits.shape[:2]), np.float32)
                     for maps, logits in zip(trace.saliency, trace.logits, strict=True))
    return Observation(tuple(logits.numpy() for logits in trace.logits), saliency, tokens, trace.f_hat_BzPP.numpy(),
                       image_B3SS, tokens, image_B3SS)


def _spec(source: CheckpointSource, plan: Plan) -> ModelSpec:
    if source.preset and source.config:
        raise ExportError(f"give --preset or --config, not both (got {source.preset!r} and {source.config})")
    if source.config:
        return ModelSpec.from_json(source.config)
    name = source.preset or plan.manifest.name
    if source.preset is None and name not in PRESETS:
        raise ExportError(f"plan {name!r} is no preset, and a plan does not say all sizes of its reference: give "
                          "--config or --preset, --against PLAN or --recorded RECORD")
    return preset(name)
