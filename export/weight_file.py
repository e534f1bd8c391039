"""The weight file of a plan: a safetensors file whose byte ranges the graphs' external initializers point at."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from hieramp.export.errors import ExportError

TORCH_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8,
               "float8_e4m3fn": torch.float8_e4m3fn}
EIGHT_BIT_TYPES = ("int8", "float8_e4m3fn")
COMPUTE_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_SAFETENSORS_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8", "F8_E4M3": "float8_e4m3fn"}
_EIGHT_BITS = {TORCH_TYPES[name]: name for name in EIGHT_BIT_TYPES}
_HEADER_ALIGNMENT = 8


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the weight file; `offset` and `length` are bytes of the whole file."""

    key: str
    type_name: str
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int


def storage_type(key: str, tensor: Tensor, precision: str) -> str:
    """The type a tensor is stored in.

    Matrices and kernels take the plan's precision; vectors, tables, the head and the codebook step stay float32, as
    they feed float32 islands. A float32 tensor whose values all are float16 numbers is stored as float16, which loses
    nothing: that is how a checkpoint kept in fp16 stays small in an fp32 plan.
    8-bit tensors stay as they are; their scales have the type of the products they serve, as ONNX asks for.
    """
    if tensor.dtype in _EIGHT_BITS:
        return _EIGHT_BITS[tensor.dtype]
    if key.endswith((".weight_scale", ".input_scale", ".output_scale")):
        return COMPUTE_TYPES[precision]
    if key.startswith("scale."):
        return "float32"
    if precision != "fp32" and _computed_in_16_bits(key, tensor, precision):
        return COMPUTE_TYPES[precision]
    return "float16" if tensor.ndim > 1 and bool((tensor.half().float() == tensor).all()) else "float32"


def _computed_in_16_bits(key: str, tensor: Tensor, precision: str) -> bool:
    if key.startswith("vae.decoder.") or key.startswith("vae.post_quant_conv."):
        return tensor.ndim == 4 and precision == "fp16"
    in_block = key.startswith("var.blocks.") and tensor.ndim == 2
    return in_block or key.endswith("ada_lin.1.weight")


def write_weights(path: Path, tensors: Mapping[str, Tensor], precision: str) -> dict[str, StoredTensor]:
    """Write the tensors, each in its storage type, and say where each one lies.

    They are converted and written one at a time, so a large model needs no second copy in memory. Raises ExportError
    for a tensor whose values its storage type cannot hold.
    """
    types = {key: storage_type(key, tensor, precision) for key, tensor in tensors.items()}
    keys = sorted(tensors, key=lambda key: (-TORCH_TYPES[types[key]].itemsize, key))  # wide first: all stay aligned
    with path.open("wb") as file:
        file.write(_header({key: (types[key], tuple(tensors[key].shape)) for key in keys}))
        for key in keys:
            _bytes_of(_stored(key, tensors[key], types[key])).numpy().tofile(file)
    return read_layout(path)


def read_layout(path: Path) -> dict[str, StoredTensor]:
    """Where each tensor of a safetensors file lies."""
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_length))
    base = 8 + header_length
    return {
        key: StoredTensor(key, _SAFETENSORS_TYPES[entry["dtype"]], tuple(entry["shape"]), path.name,
                          base + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for key, entry in header.items() if key != "__metadata__"
    }


def _header(layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Length and JSON of a safetensors header; the tensors follow each other without gaps, in this order."""
    names = {type_name: name for name, type_name in _SAFETENSORS_TYPES.items()}
    lengths = [TORCH_TYPES[type_name].itemsize * torch.Size(shape).numel() for type_name, shape in layout.values()]
    ends = list(accumulate(lengths))
    entries = {key: {"dtype": names[type_name], "shape": shape, "data_offsets": [end - length, end]}
               for (key, (type_name, shape)), length, end in zip(layout.items(), lengths, ends, strict=True)}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _stored(key: str, tensor: Tensor, type_name: str) -> Tensor:
    stored = tensor.detach().to("cpu", TORCH_TYPES[type_name])
    if tensor.dtype in _EIGHT_BITS:
        return stored
    if not bool(torch.isfinite(tensor).all()):
        raise ExportError(f"{key} has values that are not finite: the checkpoint is damaged")
    if not bool(torch.isfinite(stored).all()):
        raise ExportError(f"{key} has values that {type_name} cannot hold: export with --precision bf16 or fp32")
    return stored


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
