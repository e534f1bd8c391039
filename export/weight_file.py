"""The weight file of a plan: a safetensors file whose byte ranges the graphs' external initializers point at."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hieramp.export.errors import ExportError

TORCH_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
COMPUTE_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_SAFETENSORS_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the weight file."""

    key: str
    type_name: str
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int


def storage_type(key: str, tensor: Tensor, precision: str) -> str:
    """The type a tensor is stored in.

    Matrices and kernels take the plan's precision; vectors, tables, the head and the codebook step stay float32, as they
    feed float32 islands. A float32 tensor whose values all are float16 numbers is stored as float16, which loses
    nothing: that is how a checkpoint kept in fp16 stays small in an fp32 plan.
    """
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


def write_weights(path: Path, tensors: dict[str, Tensor], precision: str) -> dict[str, StoredTensor]:
    """Write the tensors, each in its storage type, and say where each one lies."""
    stored = {k: v.to(TORCH_TYPES[storage_type(k, v, precision)]).contiguous() for k, v in tensors.items()}
    for key, tensor in stored.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ExportError(f"{key} has values that {precision} cannot hold (or that are not finite): "
                              "export with --precision bf16 or fp32")
    save_file(stored, path)
    path.chmod(0o644)  # safetensors makes files that only their owner can read
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
