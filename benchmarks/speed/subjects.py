"""What `throughput.py` compares: the reference in its forms, and plans under providers and arithmetics."""

from collections.abc import Collection
from dataclasses import dataclass

from hieramp.runtime.processor import multiplies_bf16


@dataclass(frozen=True)
class Subject:
    """One way to draw: `plan` names a plan of the run ("" is the reference), `options` go to the scripts that draw.

    `ceiling` is the precision of its matrix products, whose ceiling it is measured against. `parts` go to the script
    that is timed alone: how a batch is cut into parts changes no picture.
    """

    name: str
    plan: str
    ceiling: str
    options: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def is_reference(self) -> bool:
        return not self.plan

    @property
    def begun(self) -> int:
        """Batches that are begun at a time."""
        return int(self.parts[self.parts.index("--begun") + 1]) if "--begun" in self.parts else 1

    @property
    def is_traceable(self) -> bool:
        """Whether its logits can be compared: a model without class tokens is another model."""
        return self.plan != "plain"


def _ours(name: str, plan: str, ceiling: str, provider: str, compute: str = "f32", *parts: str) -> Subject:
    return Subject(name, plan, ceiling, ("--provider", provider, "--compute", compute), parts)


def _reference(name: str, ceiling: str, *options: str) -> Subject:
    return Subject(name, "", ceiling, options)


SUBJECTS = {subject.name: subject for subject in (
    _reference("reference", "fp32"),
    _reference("reference-bf16", "bf16", "--autocast", "bf16"),
    _reference("reference-fp16", "fp16", "--autocast", "fp16"),
    _reference("reference-compile", "fp32", "--compile"),
    _reference("reference-compile-bf16", "bf16", "--compile", "--autocast", "bf16"),
    _reference("reference-compile-fp16", "fp16", "--compile", "--autocast", "fp16"),
    _ours("onnxruntime", "fp32", "fp32", "cpu"),
    _ours("onnxruntime-plain", "plain", "fp32", "cpu"),
    _ours("onnxruntime-int8", "int8", "int8", "cpu"),
    _ours("openvino", "fp32", "fp32", "openvino"),
    _ours("openvino-plain", "plain", "fp32", "openvino"),
    _ours("openvino-bf16", "fp32", "bf16", "openvino", "bf16"),
    _ours("openvino-bf16-plain", "plain", "bf16", "openvino", "bf16"),
    _ours("openvino-bf16-plan", "bf16", "bf16", "openvino", "bf16"),
    _ours("openvino-bf16-explicit", "bf16", "bf16", "openvino"),
    _ours("openvino-int8", "int8", "int8", "openvino"),
    _ours("openvino-int8-bf16", "int8", "int8", "openvino", "bf16"),
    _ours("openvino-int8-bf16-8", "int8", "int8", "openvino", "bf16", "--at-once", "8"),
    _ours("openvino-int8-bf16-begun", "int8", "int8", "openvino", "bf16", "--begun", "2"),
    _ours("openvino-int8-bf16-1-lane", "int8", "int8", "openvino", "bf16", "--lanes", "1"),
    _ours("cuda", "fp16", "fp16", "cuda"),
    _ours("tensorrt", "fp16", "fp16", "tensorrt"),
)}


def default_subjects(features: Collection[str], available: Collection[str], device: str, has_int8: bool) -> list[str]:
    """Names of what makes sense on this machine: processor features, providers installed, cpu or cuda."""
    if device == "cuda":
        reduced = ["reference-fp16", "reference-compile-fp16", "reference-bf16"]
        return ["reference", *reduced, *(name for name in ("cuda", "tensorrt") if name in available)]
    bf16, openvino = multiplies_bf16(features), "openvino" in available
    names = ["reference", *(["reference-bf16"] if bf16 else []), "reference-compile",
             *(["reference-compile-bf16"] if bf16 else []), "onnxruntime"]
    names += ["openvino"] if openvino else []
    names += ["openvino-bf16", "openvino-bf16-plain"] if openvino and bf16 else ["onnxruntime-plain"]
    names += ["onnxruntime-int8"] if has_int8 else []
    return names + (["openvino-int8-bf16"] if has_int8 and openvino and bf16 else [])
