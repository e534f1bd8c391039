"""The weight file: a safetensors file that any reader understands, in the types that lose nothing they should keep."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hieramp.export.errors import ExportError
from hieramp.export.weight_file import read_layout, storage_type, write_weights

BLOCK = "var.blocks.3.attn.proj.weight"


def some_tensors() -> dict[str, torch.Tensor]:
    return {
        "var.head.weight": torch.randn(6, 5), "var.head.bias": torch.randn(6), BLOCK: torch.randn(3, 7),
        "var.exact": torch.randn(4, 3).half().float(), "vae.decoder.conv_in.weight": torch.randn(2, 3, 3, 3),
        "scale.00.phi_select": torch.tensor([1.0, 0.0]), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4),
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_any_reader_of_safetensors_reads_it(tmp_path: Path, precision: str) -> None:
    tensors = some_tensors()
    write_weights(tmp_path / "w.safetensors", tensors, precision)
    loaded = load_file(tmp_path / "w.safetensors")
    assert loaded.keys() == tensors.keys()
    for key, tensor in loaded.items():
        assert torch.equal(tensor, tensors[key].to(tensor.dtype))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_layout_points_at_the_tensors_bytes(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "w.safetensors"
    stored = write_weights(path, some_tensors(), precision)
    assert stored == read_layout(path)
    data, loaded = path.read_bytes(), load_file(path)
    for key, entry in stored.items():
        part = data[entry.offset:entry.offset + entry.length]
        assert part == loaded[key].reshape(-1).view(torch.uint8).numpy().tobytes()
        assert tuple(loaded[key].shape) == entry.shape
        assert str(loaded[key].dtype) == f"torch.{entry.type_name}"
        assert entry.offset % loaded[key].element_size() == 0
        assert entry.file == "w.safetensors"


def test_a_tensor_that_is_not_contiguous_is_stored_in_its_order(tmp_path: Path) -> None:
    tensor = torch.randn(4, 6).T
    write_weights(tmp_path / "w.safetensors", {"t": tensor}, "fp32")
    assert torch.equal(load_file(tmp_path / "w.safetensors")["t"], tensor)


def test_float16_values_in_float32_are_stored_as_float16_and_lose_nothing(tmp_path: Path) -> None:
    exact, inexact = torch.randn(8, 8).half().float(), torch.tensor([[0.5, 1 / 3]])
    stored = write_weights(tmp_path / "w.safetensors", {"exact": exact, "inexact": inexact}, "fp32")
    assert stored["exact"].type_name == "float16"
    assert stored["inexact"].type_name == "float32"
    assert torch.equal(load_file(tmp_path / "w.safetensors")["exact"].float(), exact)


@pytest.mark.parametrize(("key", "shape", "fp16", "bf16"), [
    ("var.blocks.0.attn.mat_qkv.weight", (6, 2), "float16", "bfloat16"),
    ("var.blocks.0.ffn.fc1.weight", (8, 2), "float16", "bfloat16"),
    ("var.blocks.0.ada_lin.1.weight", (12, 2), "float16", "bfloat16"),
    ("var.shared_ada_lin.1.weight", (12, 2), "float16", "bfloat16"),
    ("var.head_nm.ada_lin.1.weight", (4, 2), "float16", "bfloat16"),
    ("vae.decoder.conv_in.weight", (2, 2, 3, 3), "float16", "float32"),
    ("vae.post_quant_conv.weight", (2, 2, 3, 3), "float16", "float32"),
    ("var.blocks.0.attn.q_bias", (2,), "float32", "float32"),
    ("var.head.weight", (4, 2), "float32", "float32"),
    ("var.word_embed.weight", (2, 2), "float32", "float32"),
    ("var.pos_1LC", (1, 3, 2), "float32", "float32"),
    ("vae.quantize.embedding.weight", (4, 2), "float32", "float32"),
    ("vae.quantize.quant_resi.qresi_ls.0.weight", (2, 2, 3, 3), "float32", "float32"),
    ("scale.00.upsample", (4, 1), "float32", "float32"),
])
def test_what_is_stored_in_16_bits(key: str, shape: tuple[int, ...], fp16: str, bf16: str) -> None:
    tensor = torch.full(shape, 1 / 3)
    assert storage_type(key, tensor, "fp32") == "float32"
    assert (storage_type(key, tensor, "fp16"), storage_type(key, tensor, "bf16")) == (fp16, bf16)


def test_scale_constants_are_float32_even_where_float16_would_do() -> None:
    assert storage_type("scale.00.upsample", torch.ones(4, 1), "fp32") == "float32"


def test_values_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    tensors = {BLOCK: torch.tensor([[1.0, 70000.0]])}
    with pytest.raises(ExportError, match=rf"{BLOCK} has values that float16 cannot hold: .*--precision bf16"):
        write_weights(tmp_path / "w.safetensors", tensors, "fp16")
    for precision in ("fp32", "bf16"):
        write_weights(tmp_path / "w.safetensors", tensors, precision)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused_in_every_precision(tmp_path: Path, value: float) -> None:
    for precision in ("fp32", "fp16", "bf16"):
        with pytest.raises(ExportError, match="not finite"):
            write_weights(tmp_path / "w.safetensors", {BLOCK: torch.tensor([[value, 1.0]])}, precision)
