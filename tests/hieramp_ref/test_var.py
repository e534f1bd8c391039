"""One step after another against the teacher-forced pass, the masks by hand, and no state left behind."""

import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hieramp_ref.amplification import ScaleAmplification
from hieramp_ref.generate import generate
from hieramp_ref.settings import settings_from_dict
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import StepOutput, Var, class_token_mask
from hieramp_ref.vqvae import Vqvae

LABELS = torch.tensor([0, 3, 5])  # 5 is the unconditional label
MakeVar = Callable[..., Var]


def random_maps(spec: ModelSpec, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LABELS), spec.token_count - spec.scale_tokens[0], spec.vqvae.z_channels, generator=generator)


def stepped(var: Var, maps_BLz: Tensor, *, class_tokens: bool) -> list[StepOutput]:
    """Every scale in turn with forced maps, each given the caches of the one before."""
    modulation, caches, outputs = var.modulation(LABELS), None, []
    maps = maps_BLz.split(list(var.spec.scale_tokens[1:]), dim=1)
    for k in range(var.spec.scale_count):
        token_map = var.first_map(LABELS) if k == 0 else var.next_map(k, maps[k - 1])
        outputs.append(var.step(k, token_map, modulation, caches, class_tokens=class_tokens))
        caches = outputs[-1].caches
    return outputs


def joined_logits(outputs: list[StepOutput]) -> Tensor:
    return torch.cat([output.logits_RlV for output in outputs], dim=1)


@pytest.mark.parametrize("shared_adaln", [False, True])
@pytest.mark.parametrize("qk_l2_norm", [False, True])
def test_steps_with_caches_equal_the_teacher_forced_pass(
    small_var: MakeVar, shared_adaln: bool, qk_l2_norm: bool
) -> None:
    var = small_var(shared_adaln=shared_adaln, qk_l2_norm=qk_l2_norm)
    maps = random_maps(var.spec)
    actual = joined_logits(stepped(var, maps, class_tokens=False))
    torch.testing.assert_close(actual, var.forward_train(LABELS, maps), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [
    {}, {"class_token_scales": (1, 3)}, {"class_token_scales": (3, 1)}, {"shared_adaln": True, "qk_l2_norm": False},
    {"patch_sides": tuple(range(1, 13)), "class_token_scales": tuple(range(12)), "depth": 2},
], ids=["every scale", "some scales", "any order", "shared AdaLN, no L2 norm", "more than ten scales"])
def test_steps_with_class_tokens_equal_the_teacher_forced_pass(small_var: MakeVar, changes: dict[str, object]) -> None:
    var = small_var(**changes)
    maps = random_maps(var.spec)
    actual = joined_logits(stepped(var, maps, class_tokens=True))
    expected, features = var.forward_train_class_tokens(LABELS, maps)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert features.shape == (len(LABELS), len(var.spec.var.class_token_scales), 32)
    without = joined_logits(stepped(var, maps, class_tokens=False))
    assert (actual - without).abs().max() > 1e-2


def test_training_mask_by_hand() -> None:
    levels, scales = [0, 1, 1, 2, 2, 2], (2, 0)
    kinds = [("spatial", level) for level in levels] + [("token", level) for level in scales]

    def may_look(query: tuple[str, int], key: tuple[str, int]) -> bool:
        if query[0] == "spatial" and key[0] == "spatial":
            return key[1] <= query[1]
        return key[1] == query[1]

    expected = torch.tensor([[may_look(query, key) for key in kinds] for query in kinds])
    assert torch.equal(class_token_mask(torch.tensor(levels), scales), expected)


def affected_scales(var: Var, scale: int) -> tuple[list[bool], list[bool]]:
    """Which scales' logits, and which class-token features, change with the input of one scale."""
    begin, end = (position - 1 for position in var.spec.token_range(scale))
    maps = random_maps(var.spec)
    changed = maps.clone()
    changed[:, begin:end] += 1
    (logits, features), (new_logits, new_features) = (
        var.forward_train_class_tokens(LABELS, m) for m in (maps, changed)
    )
    by_scale = (new_logits - logits).abs().amax((0, 2)).split(list(var.spec.scale_tokens))
    by_feature = (new_features - features).abs().amax((0, 2))
    return [bool(part.max() > 0) for part in by_scale], [bool(part > 0) for part in by_feature]


def test_a_class_token_looks_at_its_own_scale_alone(small_var: MakeVar) -> None:
    """With one block nothing else reaches it; with more, earlier scales do through this scale's spatial tokens."""
    assert affected_scales(small_var(depth=1), 1) == ([False, True, True, True], [False, True, False, False])
    assert affected_scales(small_var(depth=2), 1) == ([False, True, True, True], [False, True, True, True])


def test_class_tokens_are_never_cached(small_var: MakeVar) -> None:
    var, other = small_var(depth=1), small_var(depth=1)
    for token in other.cls_tokens.values():
        token += 1
    maps = random_maps(var.spec)
    runs = [stepped(model, maps, class_tokens=True) for model in (var, other)]
    for k, (output, other_output) in enumerate(zip(*runs, strict=True)):
        (cache,), (other_cache,) = output.caches, other_output.caches
        assert cache.k_RHnD.shape == cache.v_RHnD.shape == (3, 4, sum(var.spec.scale_tokens[: k + 1]), 8)
        assert torch.equal(cache.k_RHnD, other_cache.k_RHnD) and torch.equal(cache.v_RHnD, other_cache.v_RHnD)
        assert not torch.allclose(output.logits_RlV, other_output.logits_RlV)


def test_amplification_is_a_bias_on_the_selected_keys_of_every_query(small_var: MakeVar) -> None:
    """One block, one scale: softmax(logits + beta a) by the formula of the method, in float64."""
    var, beta, count = small_var(depth=1), 3.0, 4
    maps = random_maps(var.spec)
    modulation, before = var.modulation(LABELS), stepped(var, maps, class_tokens=True)[1].caches
    token_map = var.next_map(2, maps[:, 4:13])
    output = var.step(2, token_map, modulation, before, {0: ScaleAmplification(beta, count)})

    block, adaln = var.blocks[0], modulation.blocks_Rd6C[:, 0]
    x = torch.cat([token_map, var.cls_tokens["2"].expand(3, 1, -1)], dim=1)
    q, (k, v) = block.attn.queries(block.normed(x, adaln))
    own = q.double() @ k.double().mT
    saliency = own[:, :, -1, :9].softmax(-1).mean(1)
    selected = torch.zeros(3, 9).scatter(1, saliency.topk(count).indices, 1.0)
    own[..., :9] += beta * selected[:, None, None]
    logits = torch.cat([q.double() @ before[0].k_RHnD.double().mT, own], dim=-1)
    logits[:, :, -1, : before[0].k_RHnD.shape[2]] = -math.inf
    attended = logits.softmax(-1) @ torch.cat([before[0].v_RHnD, v], dim=2).double()
    attended = block.attn.proj(attended.float().transpose(1, 2).flatten(2))
    expected = var.logits(block.residual(x, attended, adaln)[:, :9], modulation)

    torch.testing.assert_close(output.saliency[0], saliency.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(output.logits_RlV, expected, rtol=1e-4, atol=1e-4)
    plain = var.step(2, token_map, modulation, before)
    assert (plain.logits_RlV - expected).abs().max() > 1e-2 and plain.saliency == {}


def test_two_interleaved_runs_equal_two_in_a_row(small_var: MakeVar) -> None:
    var = small_var()
    maps = [random_maps(var.spec, seed) for seed in (1, 2)]
    expected = [joined_logits(stepped(var, m, class_tokens=True)) for m in maps]
    modulation, caches, logits = var.modulation(LABELS), [None, None], ([], [])
    for k in range(var.spec.scale_count):
        for run in (0, 1):
            begin, end = (position - 1 for position in var.spec.token_range(k))
            token_map = var.first_map(LABELS) if k == 0 else var.next_map(k, maps[run][:, begin:end])
            output = var.step(k, token_map, modulation, caches[run])
            caches[run] = output.caches
            logits[run].append(output.logits_RlV)
    for run in (0, 1):
        assert torch.equal(torch.cat(logits[run], dim=1), expected[run])


def test_generating_leaves_the_modules_as_they_were(small_var: MakeVar, small_vqvae: Callable[..., Vqvae]) -> None:
    var, vqvae = small_var(), small_vqvae()
    before = [pickle.dumps(model) for model in (var, vqvae)]
    uniform = torch.rand(2, var.spec.token_count, generator=torch.Generator().manual_seed(0))
    generate(var, vqvae, torch.tensor([1, 4]), uniform, settings_from_dict(var.spec, {"amplify": True}))
    assert [pickle.dumps(model) for model in (var, vqvae)] == before
    assert not list(var.buffers()) and not list(vqvae.buffers())
    var.blocks[0].attn.cached = True
    assert pickle.dumps(var) != before[0], "a module's state would not be noticed"


@pytest.mark.parametrize("shared_adaln", [False, True])
def test_initial_weights_are_finite_and_follow_the_seed(
    small_spec: Callable[..., ModelSpec], shared_adaln: bool
) -> None:
    def initial(seed: int) -> dict[str, Tensor]:
        var = Var(small_spec(shared_adaln=shared_adaln))
        for name, parameter in var.named_parameters():
            if not name.endswith("scale_mul_1H11"):
                nn.init.constant_(parameter, math.nan)  # so that one that is left out is seen
        var.init_weights(torch.Generator().manual_seed(seed))
        return var.state_dict()

    first, again, other = initial(0), initial(0), initial(1)
    assert all(value.isfinite().all() for value in first.values())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    std = math.sqrt(1 / 32 / 3)
    assert first["blocks.0.ffn.fc1.weight"].std().item() == pytest.approx(std, rel=0.05)
    assert first["blocks.0.ffn.fc2.weight"].std().item() == pytest.approx(std / math.sqrt(2 * 3), rel=0.05)
    assert first["blocks.0.attn.scale_mul_1H11"].flatten().tolist() == pytest.approx([math.log(4)] * 4)
