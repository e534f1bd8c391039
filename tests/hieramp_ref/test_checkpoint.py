"""Every published layout loads, and what does not fit is named in one line."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hieramp_ref.checkpoint import load_var, load_vqvae, read_state, save_weights, without_class_tokens
from hieramp_ref.errors import CheckpointError, SpecError
from hieramp_ref.generate import generate
from hieramp_ref.settings import default_settings, settings_from_dict
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

MakeSpec, MakeVar, MakeVqvae = Callable[..., ModelSpec], Callable[..., Var], Callable[..., Vqvae]


def assert_same_weights(model: nn.Module, expected: dict[str, Tensor]) -> None:
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def refusal(load: Callable[[Path, ModelSpec], nn.Module], path: Path, spec: ModelSpec) -> str:
    """The message of the error, which is one line and begins with the file."""
    with pytest.raises(CheckpointError) as error:
        load(path, spec)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def test_a_plain_var_works_and_cannot_amplify(tmp_path: Path, small_var: MakeVar, small_vqvae: MakeVqvae) -> None:
    plain, vqvae = small_var(class_token_scales=()), small_vqvae()
    torch.save(plain.state_dict(), tmp_path / "var.pth")
    var = load_var(tmp_path / "var.pth", small_var().spec)
    assert var.spec.var.class_token_scales == ()
    assert_same_weights(var, plain.state_dict())
    uniform = torch.rand(1, var.spec.token_count, generator=torch.Generator().manual_seed(0))
    image = generate(var, vqvae, torch.tensor([2]), uniform, default_settings(var.spec)).image_B3hw
    assert image.shape == (1, 3, 10, 10) and image.isfinite().all()
    with pytest.raises(SpecError, match="amplification needs class tokens"):
        settings_from_dict(var.spec, {"amplify": True})


def test_a_trainer_checkpoint_with_the_published_buffers(
    tmp_path: Path, small_spec: MakeSpec, small_var: MakeVar
) -> None:
    source = small_var(class_token_scales=(1, 3))
    state = source.state_dict() | {"lvl_1L": torch.zeros(1, 39), "attn_bias_for_masking": torch.zeros(1, 1, 39, 39),
                                   "blocks.0.attn.zero_k_bias": torch.zeros(32)}
    torch.save({"epoch": 3, "trainer": {"config": {"depth": 3}, "var_wo_ddp": state}}, tmp_path / "ar-ckpt-last.pth")
    var = load_var(tmp_path / "ar-ckpt-last.pth", small_spec())
    assert var.spec.var.class_token_scales == (1, 3)
    assert_same_weights(var, source.state_dict())
    assert not var.training and not any(parameter.requires_grad for parameter in var.parameters())


def test_a_trainer_checkpoint_of_both_models(
    tmp_path: Path, small_spec: MakeSpec, small_var: MakeVar, small_vqvae: MakeVqvae
) -> None:
    var, vqvae = small_var(), small_vqvae()
    torch.save({"trainer": {"var_wo_ddp": var.state_dict(), "vae_local": vqvae.state_dict()}}, tmp_path / "both.pth")
    assert_same_weights(load_var(tmp_path / "both.pth", small_spec()), var.state_dict())
    assert_same_weights(load_vqvae(tmp_path / "both.pth", small_spec()), vqvae.state_dict())
    torch.save({"trainer": {"vae_local": vqvae.state_dict()}}, tmp_path / "vae.pth")
    assert "this is no VAR checkpoint" in refusal(load_var, tmp_path / "vae.pth", small_spec())


def test_the_golden_checkpoints(golden_dir: Path) -> None:
    spec = ModelSpec.from_json(golden_dir / "config.json")
    assert load_var(golden_dir / "var.pth", spec).spec.var.class_token_scales == ()
    assert load_var(golden_dir / "ar-ckpt-last.pth", spec).spec.var.class_token_scales == (0, 1, 2, 3)
    state = torch.load(golden_dir / "vae.pth", weights_only=True)
    dropped = state.keys() - load_vqvae(golden_dir / "vae.pth", spec).state_dict().keys()
    assert dropped <= {"quantize.ema_vocab_hit_SV"}


def test_a_checkpoint_in_the_older_file_format(tmp_path: Path, small_var: MakeVar) -> None:
    torch.save(small_var().state_dict(), tmp_path / "var.pth", _use_new_zipfile_serialization=False)
    assert_same_weights(load_var(tmp_path / "var.pth", small_var().spec), small_var().state_dict())


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_safetensors_of_both_models_round_trip(
    tmp_path: Path, small_var: MakeVar, small_vqvae: MakeVqvae, dtype: torch.dtype | None
) -> None:
    path, var, vqvae = tmp_path / "model.safetensors", small_var(), small_vqvae()
    save_weights(path, var=var, vqvae=vqvae, dtype=dtype)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    stored = load_file(path)
    assert {value.dtype for value in stored.values()} == {dtype or torch.float32}
    assert stored.keys() == {f"var.{k}" for k in var.state_dict()} | {f"vae.{k}" for k in vqvae.state_dict()}
    for source, loaded in ((var, load_var(path, var.spec)), (vqvae, load_vqvae(path, var.spec))):
        expected = {k: v.to(dtype or v.dtype).float() for k, v in source.state_dict().items()}
        assert_same_weights(loaded, expected)


def test_safetensors_without_prefixes(tmp_path: Path, small_vqvae: MakeVqvae, small_spec: MakeSpec) -> None:
    save_file(small_vqvae().state_dict(), tmp_path / "vae.safetensors")
    assert_same_weights(load_vqvae(tmp_path / "vae.safetensors", small_spec()), small_vqvae().state_dict())


def test_a_file_of_one_model_is_not_the_other(tmp_path: Path, small_var: MakeVar, small_vqvae: MakeVqvae) -> None:
    spec = small_var().spec
    torch.save(small_vqvae().state_dict(), tmp_path / "vae.pth")
    assert refusal(load_var, tmp_path / "vae.pth", spec).endswith("Likely cause: this is no VAR checkpoint (a VQVAE?)")
    torch.save(small_var().state_dict(), tmp_path / "var.pth")
    assert refusal(load_vqvae, tmp_path / "var.pth", spec).endswith("this is a VAR checkpoint, not a VQVAE")


@pytest.mark.parametrize(("changes", "cause"), [
    ({"depth": 5}, "the checkpoint has depth 5, the model depth 3"),
    ({"depth": 2}, "the checkpoint has depth 2, the model depth 3"),
    ({"num_classes": 7}, "another number of classes"),
    ({"patch_sides": (1, 2, 3, 4)}, "other patch sides"),
    ({"width": 48}, "another width or z_channels"),
    ({"z_channels": 7}, "another width or z_channels"),
    ({"shared_adaln": True}, "one shares AdaLN over the blocks and the other does not (shared_adaln)"),
])
def test_the_cause_of_a_misfit_is_named(
    tmp_path: Path, small_spec: MakeSpec, small_var: MakeVar, changes: dict[str, object], cause: str
) -> None:
    torch.save(small_var(**changes).state_dict(), tmp_path / "var.pth")
    assert cause in refusal(load_var, tmp_path / "var.pth", small_spec())


def test_missing_unexpected_and_misshapen_weights_are_named(
    tmp_path: Path, small_spec: MakeSpec, small_var: MakeVar
) -> None:
    state = small_var().state_dict()
    del state["head.bias"]
    torch.save(state | {"extra.weight": torch.zeros(2), "head.weight": torch.zeros(3, 32)}, tmp_path / "var.pth")
    message = refusal(load_var, tmp_path / "var.pth", small_spec())
    assert "1 missing (head.bias); 1 unexpected (extra.weight)" in message
    assert "1 of wrong shape (head.weight is [3, 32], expected [24, 32])" in message


def test_another_codebook_is_named(tmp_path: Path, small_spec: MakeSpec, small_vqvae: MakeVqvae) -> None:
    torch.save(small_vqvae(vocab_size=30).state_dict(), tmp_path / "vae.pth")
    assert "another codebook" in refusal(load_vqvae, tmp_path / "vae.pth", small_spec())


def test_class_tokens_beyond_the_models_scales(tmp_path: Path, small_spec: MakeSpec, small_var: MakeVar) -> None:
    longer = small_var(patch_sides=(1, 2, 3, 4, 5), class_token_scales=(0, 4))
    torch.save(longer.state_dict(), tmp_path / "var.pth")
    message = refusal(load_var, tmp_path / "var.pth", small_spec())
    assert "class tokens at scales 0, 4" in message and "scales 0..3" in message


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file(tmp_path: Path, small_spec: MakeSpec, small_var: MakeVar, zipped: bool) -> None:
    path = tmp_path / "var.pth"
    torch.save(small_var().state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(load_var, path, small_spec())


@pytest.mark.parametrize("name", ["var.pth", "var.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 but no archive"])
def test_what_is_no_checkpoint(tmp_path: Path, small_spec: MakeSpec, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(load_var, tmp_path / name, small_spec())
    assert "is damaged or no checkpoint" in message or "cannot be read as weights only" in message


@pytest.mark.parametrize(("content", "message"), [
    ([1, 2], "holds a list, expected a state dict"), ({"epoch": 3}, "holds no weights"), ({}, "holds no weights"),
])
def test_a_file_without_a_state_dict(tmp_path: Path, small_spec: MakeSpec, content: object, message: str) -> None:
    torch.save(content, tmp_path / "var.pth")
    assert message in refusal(load_var, tmp_path / "var.pth", small_spec())


def test_no_file_and_a_folder(tmp_path: Path, small_spec: MakeSpec) -> None:
    assert refusal(load_var, tmp_path / "var.pth", small_spec()).startswith("no checkpoint at ")
    assert refusal(load_var, tmp_path, small_spec()).startswith("no checkpoint at ")


class _Malicious:
    """Runs code where it is unpickled without care."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))],
                         ids=["torch", "plain pickle"])
def test_code_in_a_checkpoint_is_not_run(
    tmp_path: Path, small_spec: MakeSpec, write: Callable[[object, Path], object]
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "var.pth"
    write({"word_embed.weight": torch.zeros(2), "payload": _Malicious(victim)}, path)
    assert "cannot be read as weights only" in refusal(load_var, path, small_spec())
    assert not victim.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert victim.exists(), "the payload does nothing anywhere"


def test_a_model_stripped_of_its_class_tokens_is_the_plain_one(small_var: MakeVar) -> None:
    var = small_var()
    plain = without_class_tokens(var)
    assert plain.spec.var.class_token_scales == () and plain.spec.vqvae == var.spec.vqvae
    expected = {k: v for k, v in var.state_dict().items() if not k.startswith(("cls_tokens", "class_head"))}
    assert_same_weights(plain, expected)
    assert len(var.cls_tokens) == 4


def test_a_prefix_picks_one_model_of_a_file(tmp_path: Path) -> None:
    both = {"var.a": torch.zeros(1), "vae.b": torch.ones(1)}
    save_file(both, tmp_path / "both.safetensors")
    assert read_state(tmp_path / "both.safetensors", "var.").keys() == {"a"}
    assert read_state(tmp_path / "both.safetensors", "vae.").keys() == {"b"}
