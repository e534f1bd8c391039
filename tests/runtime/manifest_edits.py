"""Manifests with something in them changed, as text."""

import json
from collections.abc import Callable
from typing import Any

from hieramp.runtime.manifest import Manifest, manifest_json

MakeManifest = Callable[..., Manifest]
Change = Callable[[dict[str, Any]], None]
QUANTIZATION = {"base_precision": "fp32", "images": 32, "seed": 7, "layers": {"var.blocks.0.attn.proj": {
    "eight_bits": True, "input_largest": 12.7, "input_scale": 0.1, "input_error": 0.02, "weight_error": 0.01,
    "logits_error": 0.003}}}
INT8_DECODER = {"layers": {
    name: {"eight_bits": eight_bits, "input_largest": 2.0, "input_scale": 0.015, "output_largest": 3.0,
           "output_scale": 0.023, "image_error": error}
    for name, eight_bits, error in (("a", True, 0.003), ("b", True, 0.004), ("c", False, 1.0))}}


def edited(manifest: Manifest, change: Change) -> str:
    values = json.loads(manifest_json(manifest))
    change(values)
    return json.dumps(values)


def setter(path: str, value: Any) -> Change:
    """Sets the field at a dotted path."""
    def change(values: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            values = values[parent]
        values[last] = value

    return change


def remover(path: str) -> Change:
    def change(values: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            values = values[parent]
        del values[last]

    return change


def in_8_bits(*changes: Change) -> Change:
    """An int8 plan over fp32, changed."""
    def change(values: dict[str, Any]) -> None:
        values |= {"precision": "int8", "cache_type": "float32", "quantization": json.loads(json.dumps(QUANTIZATION))}
        for each in changes:
            each(values)

    return change
