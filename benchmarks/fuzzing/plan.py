"""A plan of a tiny model whose pictures come from a stand-in, so that a whole run takes milliseconds."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

import numpy as np
from safetensors.numpy import save_file

from hieramp.runtime.backend import Drawing, Request
from hieramp.runtime.contract import GRAPH_NAMES, graph_inputs, graph_outputs, scale_key
from hieramp.runtime.manifest import (
    SCHEMA_VERSION,
    Amplification,
    ClassList,
    GraphSpec,
    Manifest,
    ModelShape,
    Sampling,
    TensorSpec,
    manifest_json,
)
from hieramp.runtime.plan import describe_member
from hieramp.runtime.scales import constant_shapes

MODEL = ModelShape(patch_sides=(1, 2), vocab_size=8, z_channels=2, image_side=8, depth=2, width=8, heads=2,
                   num_classes=3, phi_count=2, class_token_scales=(0, 1))
NAMES = ("ant", "bee", "cat")
GRAPHS = tuple(f"{name}.onnx" for name in GRAPH_NAMES)
CONSTANTS = {scale_key(scale, name): shape for scale in range(MODEL.scale_count)
             for name, shape in constant_shapes(MODEL, scale).items()}


def write_plan(folder: Path) -> dict[str, Any]:
    """Write the plan, whose graphs are no graphs, and return its manifest as JSON."""
    folder.mkdir(parents=True)
    for name in GRAPHS:
        (folder / name).write_bytes(name.encode())
    save_file({key: np.zeros(shape, np.float32) for key, shape in CONSTANTS.items()}, folder / "weights.safetensors")
    text = manifest_json(_manifest(folder))
    (folder / "manifest.json").write_text(text)
    values: dict[str, Any] = json.loads(text)
    return values


def _manifest(folder: Path) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION, name="tiny", precision="fp32", model=MODEL, cache_type="float32",
        amplification=Amplification((1,), (0.0, 1.0), (0.5, 0.5)), sampling=Sampling(4.0, 6, 0.95),
        classes=ClassList("names", NAMES), trace_outputs=False, static_scales=None,
        graphs={name: GraphSpec(f"{name}.onnx", _specs(graph_inputs(name, MODEL.depth, True, MODEL.scale_count)),
                                _specs(graph_outputs(name, MODEL.depth, False))) for name in GRAPH_NAMES},
        members={path.name: describe_member(path) for path in sorted(folder.iterdir())},
        producer={"hieramp": "0"}, parity=None,
    )


def _specs(names: set[str]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", ("B", 1)) for name in sorted(names))


class StandIn:
    """A back end whose pictures are grey, the shade by class."""

    def __init__(self, model: ModelShape):
        self._model = model

    def new_cache(self, batch: int) -> int:
        return batch

    def draw(self, cache: int, request: Request) -> Drawing:
        model, batch = self._model, len(request.labels_B)
        shades = request.labels_B.astype(np.float32) / model.num_classes
        image_B3SS = np.broadcast_to(shades[:, None, None, None], (batch, 3, model.image_side, model.image_side))
        f_hat_BzPP = np.zeros((batch, model.z_channels, model.latent_side, model.latent_side), np.float32)
        tokens = tuple(np.zeros((batch, tokens), np.int64) for tokens in model.scale_tokens)
        return Drawing(tokens, f_hat_BzPP, image_B3SS, tuple(np.ones(batch, bool) for _ in tokens))

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        pass


@contextmanager
def drawn_by_stand_in() -> Iterator[None]:
    """Runs draw with the stand-in, and sync nothing: a disk is not what is tested."""
    with mock.patch("hieramp.runtime.workplace.open_choice", lambda plan, *_: StandIn(plan.manifest.model)), \
            mock.patch("os.fsync", lambda descriptor: None):
        yield
