"""Teachers for hieramp-run: a classifier in ONNX whose file says which classes its outputs are, and of which pixels."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hieramp.export.errors import ExportError, ParityError
from hieramp.export.graph import OPSET
from hieramp.runtime.durable import replacing
from hieramp.runtime.sessions import session_options
from hieramp.runtime.teacher import METADATA_KEY, TeacherMetadata
from hieramp_ref.students.classifier import load_classifier
from hieramp_ref.students.teacher import CLASS_NAMES

_COMPARED, _MOST_DIFFERENCE = 4, 1e-3


@dataclass(frozen=True)
class TeacherFacts:
    """A teacher that was written: its classes, and by how much its logits differ from the module's, of their spread.

    `difference` is None where there was no module to compare with.
    """

    classes: tuple[str, ...]
    difference: float | None


class _OfUnitPixels(nn.Module):
    """A classifier of this project, which takes pixels of 0..255 and knows their statistics, on those of 0..1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_B3SS: Tensor) -> Tensor:
        logits: Tensor = self.model(image_B3SS * 255)
        return logits


def write_teacher(source: Path, out: Path, metadata: TeacherMetadata) -> TeacherFacts:
    """Write a teacher from a classifier of `hieramp-train teacher`, or from any ONNX classifier.

    Classes that `metadata` leaves out are those the source names. Raises ExportError where it names none.
    """
    if not source.is_file():
        raise ExportError(f"there is no classifier {source}: make one with hieramp-train teacher")
    if source.suffix == ".onnx":
        return _with_metadata(source, out, metadata)
    plain = TeacherMetadata()
    if (metadata.mean, metadata.std) != (plain.mean, plain.std):
        raise ExportError(f"{source} holds the statistics of its pixels: leave out --mean and --std")
    model, about = load_classifier(source)
    named = about.get(CLASS_NAMES)
    classes = metadata.classes or (tuple(map(str, named)) if isinstance(named, list) else None)
    return export_teacher(_OfUnitPixels(model), out, model.spec.image_side, replace(metadata, classes=classes))


def export_teacher(module: nn.Module, out: Path, image_side: int, metadata: TeacherMetadata) -> TeacherFacts:
    """Write any PyTorch classifier as a teacher; its input is (pixels / 255 − mean) / std of the metadata.

    Ends by comparing ONNX Runtime with the module; raises ParityError, and writes nothing, where they differ.
    """
    generator = torch.Generator().manual_seed(0)
    image_B3SS = torch.rand(_COMPARED, 3, image_side, image_side, generator=generator)
    module = module.eval()
    with torch.no_grad():
        wanted_BC = module(image_B3SS).numpy()
    classes = _checked(metadata.classes, wanted_BC.shape[-1], str(out))
    model = _traced(module, image_B3SS)
    _write_metadata(model, metadata)
    difference = _difference(_run(model, image_B3SS.numpy()), wanted_BC)
    if not difference <= _MOST_DIFFERENCE:
        raise ParityError(f"ONNX Runtime's logits of {out} differ from PyTorch's by {difference:.1e} of their spread, "
                          f"allowed are {_MOST_DIFFERENCE}")
    _save(model, out)
    return TeacherFacts(classes, difference)


def _with_metadata(source: Path, out: Path, metadata: TeacherMetadata) -> TeacherFacts:
    try:
        model = onnx.load(source)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and ONNX's errors share no base but Exception
        raise ExportError(f"{source} is no ONNX classifier: {str(error).splitlines()[0]}") from error
    metadata = _over_stored(model, metadata, source)
    dimensions = model.graph.output[0].type.tensor_type.shape.dim
    count = dimensions[-1].dim_value if dimensions else 0
    classes = _checked(metadata.classes, count, str(source))
    _write_metadata(model, metadata)
    _save(model, out)
    return TeacherFacts(classes, None)


def _over_stored(model: onnx.ModelProto, asked: TeacherMetadata, source: Path) -> TeacherMetadata:
    """What the file says already, where nothing else is asked for."""
    stored = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    said, plain = TeacherMetadata.from_json(stored, source) if stored else asked, TeacherMetadata()
    scaled = said if (asked.mean, asked.std) == (plain.mean, plain.std) else asked
    return TeacherMetadata(asked.classes or said.classes, scaled.mean, scaled.std)


def _checked(classes: Sequence[str] | None, count: int, name: str) -> tuple[str, ...]:
    if not classes:
        raise ExportError(f"{name} needs the names of its classes: give --class-names FILE, one a line in the order of "
                          "its outputs")
    if count and count != len(classes):
        raise ExportError(f"{name} has {count} outputs, {len(classes)} class names were given")
    if len(set(classes)) < len(classes):
        double = next(name for name in classes if list(classes).count(name) > 1)
        raise ExportError(f"class name {double!r} is there twice: name classes by their folders")
    return tuple(classes)


def _traced(module: nn.Module, image_B3SS: Tensor) -> onnx.ModelProto:
    """The graph with a dynamic batch, without the exporter's notes, which hold paths of this machine."""
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                module, (image_B3SS,), dynamo=True, input_names=["image"], output_names=["logits"],
                opset_version=OPSET, dynamic_shapes=({0: torch.export.Dim("B")},), verbose=False,
            )
    except ImportError as error:
        raise ExportError(f"a teacher is exported with onnxscript ({error}): pip install 'hieramp[export]'") from error
    model: onnx.ModelProto = program.model_proto
    for noted in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer,
                  *model.graph.input, *model.graph.output):
        del noted.metadata_props[:]
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's remarks about its own parts and about packages that are not there."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write_metadata(model: onnx.ModelProto, metadata: TeacherMetadata) -> None:
    others = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, others | {METADATA_KEY: metadata.to_json()})


def _run(model: onnx.ModelProto, image_B3SS: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), session_options(1), ["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: image_B3SS})[0]
    return logits


def _difference(found_BC: NDArray[np.float32], wanted_BC: NDArray[np.float32]) -> float:
    return float(np.abs(found_BC - wanted_BC).max() / max(float(wanted_BC.std()), 1e-12))


def _save(model: onnx.ModelProto, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as stream:
        stream.write(model.SerializeToString())
