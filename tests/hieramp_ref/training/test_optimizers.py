"""Which optimizer a parameter gets."""

import torch

from hieramp_ref.spec import ModelSpec
from hieramp_ref.training.optimizers import optimizers
from hieramp_ref.training.var import fresh_var


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest(tiny_spec: ModelSpec) -> None:
    model = fresh_var(tiny_spec, 0)
    muon, adamw = optimizers(model, "muon")
    names = {id(p): name for name, p in model.named_parameters()}
    taken = [{names[id(p)] for group in o.param_groups for p in group["params"]} for o in (muon, adamw)]
    kinds = ("attn.mat_qkv.weight", "attn.proj.weight", "ffn.fc1.weight", "ffn.fc2.weight")
    assert taken[0] == {f"blocks.{i}.{kind}" for i in range(tiny_spec.var.depth) for kind in kinds}
    assert taken[0] | taken[1] == set(names.values()) and not taken[0] & taken[1]


def test_vectors_and_embeddings_do_not_decay(tiny_spec: ModelSpec) -> None:
    model = fresh_var(tiny_spec, 0)
    names = {id(p): name for name, p in model.named_parameters()}
    (adamw,) = optimizers(model, "adamw")
    groups = {bool(g["weight_decay"]): {names[id(p)] for p in g["params"]} for g in adamw.param_groups}
    assert {"head.weight", "word_embed.weight", "blocks.0.ada_lin.1.weight", "blocks.1.ffn.fc1.weight"} <= groups[True]
    assert {"head.bias", "class_emb.weight", "lvl_embed.weight", "pos_1LC", "pos_start",
            "blocks.0.attn.scale_mul_1H11", "blocks.0.attn.q_bias"} <= groups[False]


def test_muon_moves_by_adamws_size(tiny_spec: ModelSpec) -> None:
    model = fresh_var(tiny_spec, 0)
    muon = optimizers(model, "muon")[0]
    weight = model.blocks[0].attn.mat_qkv.weight
    before = weight.detach().clone()
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    for group in muon.param_groups:
        group["lr"], group["weight_decay"] = 0.01, 0.0
    muon.step()
    assert 0.1 < (weight.detach() - before).square().mean().sqrt().item() / 0.01 < 0.4, "RMS 0.2 to 0.4 of the rate"
