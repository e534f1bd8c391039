"""Tiny models of many shapes, the golden model, and plans exported from both."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hieramp.export.graph import GraphBuilder
from hieramp.export.model_source import LoadedModel, ModelSource, load_model
from hieramp.export.plan import ExportOptions, export_plan
from hieramp.export.weight_file import write_weights
from hieramp.runtime import Plan
from hieramp.runtime.manifest import ClassList
from hieramp_ref.settings import settings_from_dict
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

TINY = {
    "vocab_size": 48, "z_channels": 8, "channels": 8, "channel_multipliers": (1, 2, 2), "residual_blocks": 1,
    "norm_groups": 4, "patch_sides": (1, 2, 3), "depth": 3, "width": 32, "heads": 4, "num_classes": 5,
    "class_token_scales": (0, 1, 2),
}
TINY_SETTINGS = {"amplify": True, "layers": [1], "cfg": 2.0, "top_k": 20, "top_p": 0.9}


def tiny_model(seed: int, changes: dict[str, Any], settings: dict[str, Any]) -> LoadedModel:
    """A model of random weights, large enough that every path (amplification too) moves the logits."""
    spec = ModelSpec.from_dict(TINY | changes)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        var, vqvae = Var(spec), Vqvae(spec.vqvae)
        var.init_weights(torch.Generator().manual_seed(seed))
        for name, parameter in var.named_parameters():
            if name.endswith("scale_mul_1H11"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(2).add_(0.1 * torch.randn_like(parameter))
        for token in var.cls_tokens.values():
            token.normal_()
    models = [model.eval().requires_grad_(False) for model in (var, vqvae)]
    names = ClassList("names", tuple(f"class {i}" for i in range(spec.var.num_classes)))
    return LoadedModel(*models, settings_from_dict(spec, TINY_SETTINGS | settings), names)


def noisy_slopes(side: int) -> torch.Tensor:
    """Noise over slopes, [4, 3, S, S] in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    slope = torch.linspace(0, 1, side)
    steep, wide = (torch.rand(4, 3, 1, 1, generator=generator) for _ in range(2))
    noise = 0.3 * torch.randn(4, 3, side, side, generator=generator)
    return ((slope[:, None] * steep + slope * wide) / 2 + noise).clamp(0, 1)


@torch.no_grad()
def lively(model: LoadedModel) -> LoadedModel:
    """The model with features as large as the entries of its codebook, so that tokens are of many kinds."""
    vqvae = model.vqvae
    features_BzPP = vqvae.encode(noisy_slopes(vqvae.spec.image_side) * 2 - 1)
    size_z, centre_z = features_BzPP.std((0, 2, 3)), features_BzPP.mean((0, 2, 3))
    vqvae.quant_conv.weight.div_(size_z[:, None, None, None])
    vqvae.quant_conv.bias.sub_(centre_z).div_(size_z)
    return model


def export_model(model: LoadedModel, out: Path, **options: Any) -> Plan:
    export_plan(model.var, model.vqvae, model.settings, model.classes, ExportOptions("tiny", **options), out)
    return Plan.open(out)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., LoadedModel]:
    """Makes a tiny model; the first argument changes its sizes, the second its settings."""
    return lambda changes=None, settings=None, seed=0: tiny_model(seed, changes or {}, settings or {})


@pytest.fixture(scope="session")
def pictures() -> Callable[[int], torch.Tensor]:
    """Makes four pictures of a side."""
    return noisy_slopes


@pytest.fixture(scope="session")
def make_lively(make_model: Callable[..., LoadedModel]) -> Callable[..., LoadedModel]:
    """Makes a tiny model whose encoder gives tokens of many kinds."""
    return lambda *changes: lively(make_model(*changes))


@pytest.fixture(scope="session")
def export() -> Callable[..., Plan]:
    """Exports a model into a folder; keyword arguments as of `ExportOptions`."""
    return export_model


@pytest.fixture(scope="session")
def tiny(make_model: Callable[..., LoadedModel]) -> LoadedModel:
    """A tiny model with class tokens at every scale."""
    return make_model()


@pytest.fixture(scope="session")
def tiny_plan(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Its fp32 plan with trace outputs and fixed-shape graphs; not to be changed."""
    return export_model(tiny, tmp_path_factory.mktemp("tiny") / "tiny.plan", trace_outputs=True, static_scales=True)


@dataclass(frozen=True)
class Golden:
    """The golden model under the settings of each run, and its plans, exported once each."""

    model: Callable[[str], LoadedModel]
    plan: Callable[[str, str], Plan]
    source: Callable[[str], ModelSource]


@pytest.fixture(scope="session")
def golden(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    def source(run: str) -> ModelSource:
        var = "var.pth" if run == "plain_var" else "ar-ckpt-last.pth"
        return ModelSource(config=golden_dir / "config.json", var=golden_dir / var, vae=golden_dir / "vae.pth",
                           settings=golden_dir / f"{run}.json")

    @cache
    def model(run: str) -> LoadedModel:
        return load_model(source(run))

    @cache
    def plan(run: str, precision: str) -> Plan:
        folder = tmp_path_factory.mktemp("golden") / f"{run}.plan"
        return export_model(model(run), folder, precision=precision, trace_outputs=True)

    return Golden(model, plan, source)


@pytest.fixture
def builder(tmp_path: Path) -> Callable[..., GraphBuilder]:
    """Makes a graph builder over a weight file of these tensors, in fp32."""
    def make(**tensors: torch.Tensor) -> GraphBuilder:
        return GraphBuilder("test", write_weights(tmp_path / "weights.safetensors", tensors, "fp32"))

    return make


@pytest.fixture
def run_model(tmp_path: Path) -> Callable[..., list[np.ndarray]]:
    """Checks a model and runs it in ONNX Runtime beside the weight file of `builder`."""
    def run(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(path), full_check=True)
        return session(path).run(None, feeds)

    return run


@pytest.fixture(scope="session")
def open_session() -> Callable[[Path], onnxruntime.InferenceSession]:
    """Opens an ONNX file in ONNX Runtime on one thread."""
    return session


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
