"""A tiny plan whose graphs do recognisable arithmetic, so that every tensor can be followed from input to output."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

from hieramp.runtime.manifest import (
    Amplification,
    ClassList,
    GraphSpec,
    Manifest,
    Member,
    ModelShape,
    Sampling,
    TensorSpec,
    manifest_json,
)
from hieramp.runtime.plan import Plan, describe_member, shipped_plan

MODEL = ModelShape(
    patch_sides=(1, 2, 3, 4), vocab_size=8, z_channels=2, image_side=8, depth=2, width=16, heads=2, num_classes=4,
    phi_count=2, class_token_scales=(1, 2, 3),
)
CLASSES = ClassList("names", ("ant", "bee", "big cat", "dog"))
MEMBERS = ("condition.onnx", "scale_step.onnx", "decoder.onnx", "weights.safetensors")
ELEMENT_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16,
                 "int64": TensorProto.INT64}


class GraphBuilder:
    """Collects nodes under readable names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, value: Sequence[float], type: str = "int64") -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.array(value, type), name))
        return name

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def save(self, path: Path, spec: GraphSpec) -> None:
        tensors = [[helper.make_tensor_value_info(t.name, ELEMENT_TYPES[t.type], t.shape) for t in side]
                   for side in (spec.inputs, spec.outputs)]
        graph = helper.make_graph(self.nodes, path.stem, *tensors, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def specs(*rows: tuple[str, str, tuple[int | str, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(*row) for row in rows)


def graph_specs(model: ModelShape, cache_type: str, trace: bool, encoder: bool = False) -> dict[str, GraphSpec]:
    """The tables of docs/plan-format.md."""
    C, P, F, N = model.width, model.latent_side, model.phi_count, model.latent_side**2
    adaln = specs(("adaln", "float32", ("R", model.depth, 6, C)), ("adaln_head", "float32", ("R", 2, C)))
    row = ("R", model.heads, C // model.heads)
    caches = [(half, b) for half in ("keys", "values") for b in range(model.depth)]
    f_hat = ("B", model.z_channels, P, P)
    amplified = [("class_token", "float32", ("c", C)), ("beta", "float32", (1,)), ("select_count", "int64", (1,))]
    step_inputs = specs(
        ("token_map", "float32", ("R", "l", C)), ("f_hat", "float32", f_hat),
        *((f"past_{half}_{b:02d}", cache_type, ("past", *row)) for half, b in caches),
        ("guidance", "float32", (1,)), ("top_k", "int64", (1,)), ("top_p", "float32", (1,)),
        ("uniform", "float32", ("B", "l")), ("forced", "int64", ("B", "l")),
        *(amplified if model.class_token_scales else []),
        ("phi_select", "float32", (F,)), ("upsample", "float32", (N, "l")), ("downsample_next", "float32", ("m", N)),
        ("position_next", "float32", ("m", C)),
    )
    step_outputs = specs(
        ("tokens", "int64", ("B", "l")), ("f_hat_next", "float32", f_hat),
        ("token_map_next", "float32", ("R", "m", C)),
        *((f"new_{half}_{b:02d}", cache_type, ("l", *row)) for half, b in caches),
        *([("logits", "float32", ("R", "l", model.vocab_size))] if trace else []),
    )
    image = specs(("image", "float32", ("B", 3, model.image_side, model.image_side)))
    encoder_spec = GraphSpec("encoder.onnx", image, specs(("tokens", "int64", ("B", model.token_count))))
    return {
        "condition": GraphSpec("condition.onnx", specs(("labels", "int64", ("B",))),
                               (*adaln, TensorSpec("token_map", "float32", ("R", 1, C)))),
        "scale_step": GraphSpec("scale_step.onnx", (*adaln, *step_inputs), step_outputs),
        "decoder": GraphSpec("decoder.onnx", specs(("f_hat", "float32", f_hat)), image),
    } | ({"encoder": encoder_spec} if encoder else {})


def build_condition(model: ModelShape, path: Path, spec: GraphSpec) -> None:
    """Rows hold the label, or the number of classes where unconditional."""
    g = GraphBuilder()
    label = g.node("Cast", "labels", to=TensorProto.FLOAT)
    none = g.node("Add", g.node("Mul", label, g.constant([0], "float32")), g.constant([model.num_classes], "float32"))
    rows = g.node("Concat", label, none, axis=0)
    for name, shape in (("adaln", (model.depth, 6, model.width)), ("adaln_head", (2, model.width)),
                        ("token_map", (1, model.width))):
        column = g.node("Reshape", rows, g.constant([-1] + [1] * len(shape)))
        g.node("Expand", column, g.constant([1, *shape]), name=name)
    g.save(path, spec)


def build_step(model: ModelShape, path: Path, spec: GraphSpec, cache_type: str, trace: bool) -> None:
    """Keys are token_map + block and values twice that; the caches' sums go into f_hat_next."""
    g = GraphBuilder()
    add_caches(g, model, cache_type)
    sampled = g.node("Floor", g.node("Mul", "uniform", g.constant([model.vocab_size], "float32")))
    capped = g.node("Min", g.node("Cast", sampled, to=TensorProto.INT64), g.node("Sub", "top_k", g.constant([1])))
    g.node("Where", g.node("Less", "forced", g.constant([0])), capped, "forced", name="tokens")
    column = g.node("Unsqueeze", g.node("Cast", "tokens", to=TensorProto.FLOAT), g.constant([2]))
    side = model.latent_side
    plane = g.node("Reshape", g.node("MatMul", "upsample", column), g.constant([-1, 1, side, side]))
    batch = g.node("Slice", g.node("Shape", "uniform"), g.constant([0]), g.constant([1]))
    past = g.node("Reshape", g.node("Slice", "past", g.constant([0]), batch), g.constant([-1, 1, 1, 1]))
    total = g.node("Add", g.node("Add", "f_hat", plane), past)
    g.node("Add", total, nothing_of_all(g, spec), name="f_hat_next")
    first = g.node("Slice", "f_hat_next", g.constant([0]), g.constant([1]), g.constant([1]))
    area = g.node("MatMul", "downsample_next", g.node("Reshape", first, g.constant([0, side * side, 1])))
    half = g.node("Add", area, "position_next")
    g.node("Concat", half, half, axis=0, name="token_map_next")
    if trace:
        add_probes(g, model)
    g.save(path, spec)


def nothing_of_all(g: GraphBuilder, spec: GraphSpec) -> str:
    """A zero that depends on every input, as in a real plan: OpenVINO 2025 mixes inputs up where one is not used."""
    sums = [g.node("ReduceSum", g.node("Cast", tensor.name, to=TensorProto.FLOAT), keepdims=0)
            for tensor in spec.inputs]
    return g.node("Mul", g.node("Sum", *sums), g.constant([0], "float32"))


def add_caches(g: GraphBuilder, model: ModelShape, cache_type: str) -> None:
    sums = []
    for block in range(model.depth):
        key = g.node("Add", "token_map", g.constant([block], "float32"))
        heads = g.node("Transpose", g.node("Reshape", key, g.constant([0, 0, model.heads, -1])), perm=[1, 0, 2, 3])
        for half, value in (("keys", heads), ("values", g.node("Mul", heads, g.constant([2], "float32")))):
            g.node("Cast", value, to=ELEMENT_TYPES[cache_type], name=f"new_{half}_{block:02d}")
            past = g.node("Cast", f"past_{half}_{block:02d}", to=TensorProto.FLOAT)
            sums.append(g.node("ReduceSum", past, g.constant([0, 2, 3]), keepdims=0))
    g.node("Sum", *sums, name="past")


def add_probes(g: GraphBuilder, model: ModelShape) -> None:
    """The eight logits of a token are eight figures that tell what the graph was given."""
    scalars = ["guidance", "top_k", "top_p", *(["beta", "select_count"] if model.class_token_scales else [])]
    probes = [g.node("Cast", name, to=TensorProto.FLOAT) for name in scalars]
    if model.class_token_scales:
        probes.append(g.node("Reshape", g.node("ReduceSum", "class_token", keepdims=0), g.constant([1])))
    probes += [g.constant([0], "float32")] * (6 - len(probes))
    rows = [g.node("Reshape", g.node("ReduceSum", "adaln", g.constant([1, 2, 3])), g.constant([-1, 1, 1])),
            g.node("Reshape", "past", g.constant([-1, 1, 1]))]
    shape = g.node("Shape", g.node("ReduceSum", "token_map", g.constant([2])))
    expanded = [g.node("Expand", probe, shape) for probe in (*probes, *rows)]
    g.node("Concat", *expanded, axis=2, name="logits")


def build_decoder(model: ModelShape, path: Path, spec: GraphSpec) -> None:
    """A sine of the latent's mean channel, each position a square of pixels, the same in all three colours."""
    g, side, factor = GraphBuilder(), model.latent_side, model.downsampling
    wave, half = g.node("Sin", g.node("ReduceMean", "f_hat", g.constant([1]), keepdims=1)), g.constant([0.5], "float32")
    grey = g.node("Add", g.node("Mul", wave, half), half)
    cells = g.node("Reshape", grey, g.constant([-1, 1, side, 1, side, 1]))
    pixels = g.node("Expand", cells, g.constant([1, 3, 1, factor, 1, factor]))
    g.node("Reshape", pixels, g.constant([0, 3, model.image_side, model.image_side]), name="image")
    g.save(path, spec)


def build_encoder(model: ModelShape, path: Path, spec: GraphSpec) -> None:
    """Token i is pixel i's red, from 0 to the largest token, rounded."""
    g = GraphBuilder()
    flat = g.node("Reshape", "image", g.constant([0, -1]))
    red = g.node("Slice", flat, g.constant([0]), g.constant([model.token_count]), g.constant([1]))
    levels = g.node("Round", g.node("Mul", red, g.constant([model.vocab_size - 1], "float32")))
    g.node("Cast", levels, to=TensorProto.INT64, name="tokens")
    g.save(path, spec)


def scale_constants(model: ModelShape) -> dict[str, np.ndarray]:
    """Constants of small whole numbers: class tokens hold k+1, upsample is ones, downsample_next picks position 0."""
    tensors = {}
    for k, tokens in enumerate(model.scale_tokens):
        following = model.scale_tokens[k + 1] if k + 1 < model.scale_count else 1
        if k in model.class_token_scales:
            tensors[f"scale.{k:02d}.class_token"] = np.full((1, model.width), k + 1, np.float32)
        tensors[f"scale.{k:02d}.phi_select"] = np.eye(model.phi_count, dtype=np.float32)[k % model.phi_count]
        tensors[f"scale.{k:02d}.upsample"] = np.ones((model.latent_side**2, tokens), np.float32)
        first = np.eye(1, model.latent_side**2, dtype=np.float32)
        tensors[f"scale.{k:02d}.downsample_next"] = first.repeat(following, 0)
        tensors[f"scale.{k:02d}.position_next"] = np.zeros((following, model.width), np.float32)
    return tensors


def tiny_manifest(model: ModelShape = MODEL, cache_type: str = "float32", trace: bool = False,
                  members: dict[str, Member] | None = None, classes: ClassList = CLASSES,
                  encoder: bool = False) -> Manifest:
    beta = tuple(5.0 if k in model.class_token_scales else 0.0 for k in range(model.scale_count))
    return Manifest(
        schema_version=2, name="tiny", precision="fp32", model=model, cache_type=cache_type,
        amplification=Amplification((1,), beta, (0.5,) * model.scale_count) if model.class_token_scales else None,
        sampling=Sampling(4.0, 6, 0.95), classes=classes,
        trace_outputs=trace, graphs=graph_specs(model, cache_type, trace, encoder), static_scales=None,
        members=members or dict.fromkeys((*MEMBERS, *(["encoder.onnx"] if encoder else [])), Member(0, "")),
        producer={"hieramp": "0"}, parity=None,
    )


def write_plan(folder: Path, manifest: Manifest) -> Path:
    """Build the members and write the manifest with their hashes."""
    model, graphs = manifest.model, manifest.graphs
    folder.mkdir(parents=True)
    build_condition(model, folder / "condition.onnx", graphs["condition"])
    build_step(model, folder / "scale_step.onnx", graphs["scale_step"], manifest.cache_type, manifest.trace_outputs)
    build_decoder(model, folder / "decoder.onnx", graphs["decoder"])
    if "encoder" in graphs:
        build_encoder(model, folder / "encoder.onnx", graphs["encoder"])
    save_file(scale_constants(model), folder / "weights.safetensors")
    members = {path.name: describe_member(path) for path in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(manifest_json(replace(manifest, members=members)))
    return folder


@pytest.fixture(scope="session")
def make_manifest() -> Callable[..., Manifest]:
    """Makes a manifest of the tiny model, whose members are made up."""
    return tiny_manifest


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Path]:
    """Writes a plan of the tiny model; keyword arguments as of `tiny_manifest`."""
    return lambda **changes: write_plan(tmp_path / "tiny.plan", tiny_manifest(**changes))


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The tiny plan as it is by default; not to be changed."""
    return Plan.open(write_plan(tmp_path_factory.mktemp("plans") / "tiny.plan", tiny_manifest()))


def teacher_weights(outputs: int, side: int) -> np.ndarray:
    """Weights [3·S·S, outputs] that tell every pixel and every output from all others."""
    return np.random.default_rng(outputs).normal(size=(3 * side * side, outputs)).astype(np.float32)


def write_teacher(path: Path, classes: Sequence[str] | None, outputs: int | None = None, side: int = 8,
                  batch: int | str = "B", about: dict[str, object] | str | None = None) -> Path:
    """A linear classifier of all pixels; `about` are entries of its metadata, or a text that takes their place."""
    outputs = outputs or len(classes or ())
    g = GraphBuilder()
    g.initializers.append(onnx.numpy_helper.from_array(teacher_weights(outputs, side), "weights"))
    g.node("MatMul", g.node("Flatten", "pixels"), "weights", name="scores")
    g.save(path, GraphSpec(path.name, specs(("pixels", "float32", (batch, 3, side, side))),
                           specs(("scores", "float32", (batch, outputs)))))
    model = onnx.load(path)
    said = {"classes": classes, "mean": [0, 0, 0], "std": [1, 1, 1]}
    text = about if isinstance(about, str) else json.dumps(said | (about or {}))
    if classes is not None or about is not None:
        helper.set_model_props(model, {"hieramp.teacher": text})
    onnx.save(model, path)
    return path


@pytest.fixture
def make_teacher(tmp_path: Path) -> Callable[..., Path]:
    """Writes a linear teacher; keyword arguments as of `write_teacher`, by default of the tiny plan's classes."""
    def make(classes: Sequence[str] | None = CLASSES.names, name: str = "teacher.onnx", **options: Any) -> Path:
        return write_teacher(tmp_path / name, classes, **options)

    return make


@pytest.fixture(scope="session")
def teacher_says() -> Callable[..., np.ndarray]:
    """What the linear teacher has to say of pictures uint8 [B, S, S, 3], by numpy."""
    def say(image_BSS3: np.ndarray, outputs: int) -> np.ndarray:
        flat = image_BSS3.transpose(0, 3, 1, 2).reshape(len(image_BSS3), -1).astype(np.float64) / 255
        return flat @ teacher_weights(outputs, image_BSS3.shape[1]).astype(np.float64)

    return say


@pytest.fixture(scope="session")
def encoder_plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The tiny plan with an encoder; not to be changed."""
    return Plan.open(write_plan(tmp_path_factory.mktemp("plans") / "tiny.plan", tiny_manifest(encoder=True)))


@pytest.fixture
def poisoned_plan(tmp_path: Path) -> Callable[[int, float], Plan]:
    """Copies the shipped plan and puts a value, such as NaN, into its embedding of a class."""
    def make(label: int, value: float) -> Plan:
        folder = shutil.copytree(shipped_plan(), tmp_path / f"poisoned_{value}.plan")
        weights = load_file(folder / "weights.safetensors")
        data, table = (folder / "weights.safetensors").read_bytes(), weights["var.class_emb.weight"]
        poisoned = table.copy()
        poisoned[label] = value
        assert data.count(table.tobytes()) == 1
        (folder / "weights.safetensors").write_bytes(data.replace(table.tobytes(), poisoned.tobytes()))
        manifest = Plan.open(folder, verify=False).manifest
        members = manifest.members | {"weights.safetensors": describe_member(folder / "weights.safetensors")}
        (folder / "manifest.json").write_text(manifest_json(replace(manifest, members=members)))
        return Plan.open(folder)

    return make


@pytest.fixture
def edit_manifest() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Changes the JSON of a plan's manifest in place."""
    def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
        values = json.loads((folder / "manifest.json").read_text())
        change(values)
        (folder / "manifest.json").write_text(json.dumps(values))

    return edit


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> ModuleType:
    """Ways to end a run, shared with benchmarks/faults.py."""
    monkeypatch.syspath_prepend(repo_root / "benchmarks")
    return import_module("fault_injection")
