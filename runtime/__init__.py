"""The runtime: a plan folder to images and datasets, with ONNX Runtime and without PyTorch.

Shape suffixes are the symbols of docs/plan-format.md; beside them L are the tokens of all scales together, S the side
of an image in pixels, N = P² the positions of the latent and m the tokens of the next scale.
"""

from hieramp.runtime.backend import Backend, Conditioning, Drawing, Request, StepBackend, StepInputs, StepOutputs
from hieramp.runtime.batches import Shard
from hieramp.runtime.drawing import Picture, PictureKey, batch_inputs, draw_batch, draw_pictures
from hieramp.runtime.edit import Edit
from hieramp.runtime.edit_files import picture_tokens, read_edit
from hieramp.runtime.errors import (
    ClassSpecError,
    HierampError,
    NotFiniteError,
    OutputError,
    PlanError,
    ProviderError,
    RunError,
    SettingsError,
    StoppedError,
)
from hieramp.runtime.generator import GeneratedDataset, generate
from hieramp.runtime.manifest import Manifest, manifest_json, parse_manifest
from hieramp.runtime.onnxruntime_backend import OnnxRuntimeBackend
from hieramp.runtime.plan import Plan, describe_member
from hieramp.runtime.record import Record
from hieramp.runtime.schedule import Overrides, Settings, resolve_settings

__all__ = [
    "Backend", "ClassSpecError", "Conditioning", "Drawing", "Edit", "GeneratedDataset", "HierampError", "Manifest",
    "NotFiniteError", "OnnxRuntimeBackend", "OutputError", "Overrides", "Picture", "PictureKey", "Plan", "PlanError",
    "ProviderError", "Record", "Request", "RunError", "Settings", "SettingsError", "Shard", "StepBackend",
    "StepInputs", "StepOutputs", "StoppedError", "batch_inputs", "describe_member", "draw_batch", "draw_pictures",
    "generate", "manifest_json", "parse_manifest", "picture_tokens", "read_edit", "resolve_settings",
]
