"""A classifier in an ONNX file that is asked about every picture as it is written: the logits are its soft label."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hieramp.runtime.bounds import CLASS_FILE_BYTES, MESSAGE_LENGTH
from hieramp.runtime.catalogue import Catalogue, ClassEntry
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.errors import RunError, TeacherError
from hieramp.runtime.json_file import parse_json, read_bounded
from hieramp.runtime.sessions import session_options
from hieramp.runtime.teacher_classes import teacher_columns
from hieramp.runtime.terminal import shortened, shown

METADATA_KEY = "hieramp.teacher"
_WANTED = "a teacher takes one float32 input [B, 3, S, S] and gives one float32 output [B, classes]"


@dataclass(frozen=True)
class TeacherMetadata:
    """What a teacher's file says of it, as JSON under `hieramp.teacher`: class names in the order of its outputs.

    Its input is (pixels / 255 − mean) / std a channel, RGB. Without a statement the graph takes pixels / 255.
    """

    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(0 < value < inf for value in self.std):
            raise TeacherError("mean and std of a teacher's input must be three numbers each, std above 0, got "
                               f"{self.mean} and {self.std}")

    def to_json(self) -> str:
        return json.dumps({"classes": self.classes, "mean": self.mean, "std": self.std})

    @classmethod
    def from_json(cls, text: str, path: Path) -> "TeacherMetadata":
        try:
            values = parse_json(text)
            classes = values.get("classes")
            return cls(None if classes is None else tuple(map(str, classes)), tuple(map(float, values["mean"])),
                       tuple(map(float, values["std"])))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise TeacherError(f"teacher {path} has damaged metadata {METADATA_KEY!r} ({shown(error)}): write it "
                               "again with hieramp-export teacher") from error


class Teacher:
    """A loaded teacher; `column_V` are its outputs for the labels of the dataset, in their order."""

    def __init__(self, path: Path, session: Any, metadata: TeacherMetadata, column_V: Sequence[int], digest: str):
        self.path, self.column_V, self.digest = path, tuple(column_V), digest
        self._session, self._columns = session, np.array(column_V, np.int64)
        self._mean, self._std = np.array(metadata.mean, np.float32), np.array(metadata.std, np.float32)
        batch = session.get_inputs()[0].shape[0]
        self._fixed_batch = batch if isinstance(batch, int) else None

    def logits(self, image_BSS3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits [B, V] of pictures, in the order of the labels. Raises RunError where one is not finite."""
        scaled_BSS3 = np.asarray((image_BSS3.astype(np.float32) / 255 - self._mean) / self._std, np.float32)
        input_B3SS = scaled_BSS3.transpose(0, 3, 1, 2)
        size = self._fixed_batch or len(input_B3SS)
        chunks = [self._ask(input_B3SS[begin:begin + size], size) for begin in range(0, len(input_B3SS), size)]
        logits_BV = np.ascontiguousarray(np.concatenate(chunks)[:, self._columns])
        if not np.isfinite(logits_BV).all():
            raise RunError(f"teacher {self.path} gives NaN or infinity for a picture; use another one, or none")
        return logits_BV

    def _ask(self, input_B3SS: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """A chunk that is filled up with repeats where the graph has a fixed batch."""
        filled = input_B3SS[np.minimum(np.arange(size), len(input_B3SS) - 1)]
        name = self._session.get_inputs()[0].name
        try:
            logits: NDArray[np.float32] = self._session.run(None, {name: np.ascontiguousarray(filled)})[0]
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise RunError(f"teacher {self.path} failed: {shortened(str(error), MESSAGE_LENGTH)}") from error
        if logits.shape[0] != size or logits.ndim != 2 or logits.shape[1] <= self._columns.max():
            raise RunError(f"teacher {self.path} gave {logits.shape} for {size} pictures; {_WANTED}")
        return logits[:len(input_B3SS)]


def open_teacher(path: Path, class_file: Path | None, catalogue: Catalogue, chosen: Sequence[ClassEntry],
                 image_side: int, threads: int | None = None) -> Teacher:
    """A teacher whose outputs are proven to be the plan's classes, on ONNX Runtime's CPU provider.

    `class_file`, one name a line in the order of the outputs, takes the place of the list in the file. Raises
    TeacherError where the file is no classifier of such pictures, or where the first class differs.
    """
    session = _load(path, threads or usable_cores())
    _check_input(path, session, image_side)
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    metadata = TeacherMetadata.from_json(text, path) if text else TeacherMetadata()
    names = metadata.classes if class_file is None else read_class_names(class_file)
    if names is None:
        raise TeacherError(f"teacher {path} has no list of its classes, so their order cannot be proven: give it one "
                           "with hieramp-export teacher, or --teacher-classes FILE, one name a line")
    _check_output(path, session, len(names))
    columns = teacher_columns(str(path), names, catalogue, chosen)
    return Teacher(path, session, metadata, columns, hashlib.sha256(path.read_bytes()).hexdigest())


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names from a file, one a line; empty lines do not count."""
    try:
        lines = read_bounded(path, CLASS_FILE_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        raise TeacherError(f"cannot read the teacher's classes {path}: {getattr(error, 'strerror', error)}") from None
    return tuple(line.strip() for line in lines if line.strip())


def _load(path: Path, threads: int) -> Any:
    if not path.is_file():
        raise TeacherError(f"there is no teacher {path}: make one with hieramp-export teacher")
    try:
        import onnxruntime
    except ImportError as error:
        raise TeacherError(f"--teacher needs ONNX Runtime ({error}): pip install 'hieramp[cpu]'") from None
    try:
        return onnxruntime.InferenceSession(str(path), session_options(threads), ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise TeacherError(f"ONNX Runtime cannot load the teacher {path}: "
                           f"{shortened(str(error), MESSAGE_LENGTH)}") from error


def _check_input(path: Path, session: Any, image_side: int) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    tensors = [*inputs, *outputs]
    shapes = ", ".join(f"{tensor.name} {tensor.type} {tensor.shape}" for tensor in tensors)
    fits = (len(inputs) == len(outputs) == 1 and all(tensor.type == "tensor(float)" for tensor in tensors)
            and len(inputs[0].shape) == 4 and inputs[0].shape[1] == 3 and len(outputs[0].shape) == 2)
    if not fits:
        raise TeacherError(f"{_WANTED}; {path} has {shapes}")
    sides = {side for side in inputs[0].shape[2:] if isinstance(side, int)}
    if sides - {image_side}:
        raise TeacherError(f"teacher {path} takes pictures of {'×'.join(map(str, inputs[0].shape[2:]))} pixels, these "
                           f"have {image_side}: give --save-size, or another teacher")


def _check_output(path: Path, session: Any, names: int) -> None:
    count = session.get_outputs()[0].shape[1]
    if isinstance(count, int) and count != names:
        raise TeacherError(f"teacher {path} has {count} outputs, its class list {names} names")
