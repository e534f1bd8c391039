"""The runtime: a plan folder to images and datasets, with ONNX Runtime and without PyTorch.

Shape suffixes are the symbols of docs/plan-format.md; beside them L are the tokens of all scales together, S the side
of an image in pixels, N = P² the positions of the latent and m the tokens of the next scale.
"""

from hieramp.runtime.backend import Backend, Conditioning, Drawing, Request, StepBackend, StepInputs, StepOutputs
from hieramp.runtime.errors import (
    ClassSpecError,
    HierampError,
    OutputError,
    PlanError,
    ProviderError,
    SettingsError,
)
from hieramp.runtime.generate import Picture, PictureKey, batch_inputs, draw_batch, generate
from hieramp.runtime.manifest import Manifest, manifest_json, parse_manifest
from hieramp.runtime.onnxruntime_backend import OnnxRuntimeBackend
from hieramp.runtime.plan import Plan, describe_member
from hieramp.runtime.schedule import Overrides, Settings, resolve_settings

__all__ = [
    "Backend", "ClassSpecError", "Conditioning", "Drawing", "HierampError", "Manifest", "OnnxRuntimeBackend",
    "OutputError", "Overrides", "Picture", "PictureKey", "Plan", "PlanError", "ProviderError", "Request", "Settings",
    "SettingsError", "StepBackend", "StepInputs", "StepOutputs", "batch_inputs", "describe_member", "draw_batch",
    "generate", "manifest_json", "parse_manifest", "resolve_settings",
]
