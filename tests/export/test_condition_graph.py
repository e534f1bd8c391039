"""The condition graph against the reference's modulation and first token map."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hieramp.export.condition_graph import condition_graph
from hieramp.export.dimensions import Dimensions
from hieramp.export.model_source import LoadedModel
from hieramp.export.plan import ExportOptions, plan_tensors
from hieramp.export.weight_file import write_weights


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"shared_adaln": True}, {"patch_sides": (2, 3), "class_token_scales": (0, 1)}],
                         ids=["separate", "shared", "two_patches_first"])
def test_vectors_and_first_map(
    tmp_path: Path, make_model: Callable[..., LoadedModel], run_model: Callable[..., list[np.ndarray]],
    changes: dict[str, Any], batch: int,
) -> None:
    model = make_model(changes)
    tensors = plan_tensors(model.var, model.vqvae, ExportOptions("tiny"))
    stored = write_weights(tmp_path / "weights.safetensors", tensors, "fp32")
    labels_B = torch.arange(batch) + 1
    graph = condition_graph(model.var.spec, stored, "fp32", Dimensions())
    adaln, head, first = run_model(graph, labels=labels_B.numpy())
    labels_R = torch.cat([labels_B, torch.full_like(labels_B, 5)])  # five classes: the sixth is unconditional
    modulation = model.var.modulation(labels_R)
    np.testing.assert_allclose(adaln, modulation.blocks_Rd6C, atol=1e-5)
    np.testing.assert_allclose(head, modulation.head_R2C, atol=1e-5)
    np.testing.assert_allclose(first, model.var.first_map(labels_R), atol=1e-5)
    assert np.abs(adaln[:batch] - adaln[batch:]).max() > 0.1
