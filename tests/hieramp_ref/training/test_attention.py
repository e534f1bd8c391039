"""Attention written out equals the model's own."""

import copy

import torch

from hieramp_ref.spec import ModelSpec
from hieramp_ref.training.attention import use_plain_attention
from hieramp_ref.training.hieramp import with_new_class_tokens
from hieramp_ref.training.var import fresh_var


def test_outputs_and_gradients_equal_the_models_own(tiny_spec: ModelSpec) -> None:
    own = with_new_class_tokens(fresh_var(tiny_spec, 0), tiny_spec, seed=0)
    plain = use_plain_attention(copy.deepcopy(own))
    labels = torch.tensor([0, 3])
    maps = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    outputs = [model.forward_train_class_tokens(labels, maps) for model in (own, plain)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    for logits, features in outputs:
        (logits.square().mean() + features.square().mean()).backward()
    for expected, parameter in zip(own.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-6)


def test_a_copy_attends_with_its_own_weights(tiny_spec: ModelSpec) -> None:
    model = use_plain_attention(fresh_var(tiny_spec, 0))
    twin = copy.deepcopy(model)
    labels, maps = torch.tensor([1]), torch.zeros(1, 20, 8)
    before = twin.forward_train(labels, maps)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin.forward_train(labels, maps), before) and before.any()
    assert model.state_dict().keys() == fresh_var(tiny_spec, 0).state_dict().keys()
