"""Profiles have the shapes of the scales, counted here by hand."""

from dataclasses import replace

import pytest

from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.export.tensorrt_build.profiles import Batches, graph_profiles, scale_sizes
from hieramp.runtime import Plan
from hieramp.runtime.manifest import GraphSpec, Manifest, TensorSpec
from hieramp.runtime.tensorrt.sidecar import Profile, Range

# The mixed plan: sides 1, 2, 3, class tokens from scale 1 on, width 32, 4 heads of 8, P² = 9.
BY_HAND = [{"l": 1, "past": 0, "c": 0, "l_next": 4}, {"l": 4, "past": 1, "c": 1, "l_next": 9},
           {"l": 9, "past": 5, "c": 1, "l_next": 1}]


def with_vocabulary(manifest: Manifest, size: int) -> Manifest:
    return replace(manifest, model=replace(manifest.model, vocab_size=size))


@pytest.mark.parametrize(("scale", "sizes"), list(enumerate(BY_HAND)))
def test_sizes_of_a_scale(mixed_plan: Plan, scale: int, sizes: dict[str, int]) -> None:
    assert scale_sizes(mixed_plan.manifest.model, scale) == sizes


@pytest.mark.parametrize(("scale", "sizes"), list(enumerate(BY_HAND)))
def test_only_the_batch_of_a_step_varies(mixed_plan: Plan, scale: int, sizes: dict[str, int]) -> None:
    profile = graph_profiles(mixed_plan.manifest, "scale_step", Batches(max=16, opt=4))[scale]
    l, past, c, l_next = sizes.values()
    assert profile.scale == scale
    assert profile.shapes["token_map"] == Range((2, l, 32), (8, l, 32), (32, l, 32))
    assert profile.shapes["past_keys_02"] == Range((past, 2, 4, 8), (past, 8, 4, 8), (past, 32, 4, 8))
    assert profile.shapes["uniform"] == Range((1, l), (4, l), (16, l))
    assert profile.shapes["class_token"] == Range(*[(c, 32)] * 3)
    assert profile.shapes["upsample"] == Range(*[(9, l)] * 3)
    assert profile.shapes["position_next"] == Range(*[(l_next, 32)] * 3)
    assert profile.shapes["top_k"] == Range(*[(1,)] * 3)


def test_a_step_has_one_profile_a_scale_and_every_input_in_each(mixed_plan: Plan) -> None:
    profiles = graph_profiles(mixed_plan.manifest, "scale_step", Batches())
    names = {tensor.name for tensor in mixed_plan.manifest.graphs["scale_step"].inputs}
    assert [profile.scale for profile in profiles] == [0, 1, 2]
    assert all(set(profile.shapes) == names for profile in profiles)


def test_the_other_graphs_have_one_profile(mixed_plan: Plan) -> None:
    assert graph_profiles(mixed_plan.manifest, "condition", Batches(8, 1)) == (
        Profile(None, {"labels": Range((1,), (1,), (8,))}, {}),)
    assert graph_profiles(mixed_plan.manifest, "decoder", Batches(8, 8)) == (
        Profile(None, {"f_hat": Range((1, 8, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3))}, {}),)


@pytest.mark.parametrize(("vocab_size", "top_k", "limits"), [
    (48, 20, (1, 20, 48)), (4096, 900, (1, 900, 3840)), (4096, 4096, (1, 3840, 3840)),
])
def test_top_k_ends_where_the_library_does(
    mixed_plan: Plan, vocab_size: int, top_k: int, limits: tuple[int, int, int]
) -> None:
    manifest = with_vocabulary(mixed_plan.manifest, vocab_size)
    manifest = replace(manifest, sampling=replace(manifest.sampling, top_k=top_k))
    profile = graph_profiles(manifest, "scale_step", Batches())[0]
    assert profile.values == {"top_k": Range(*((limit,) for limit in limits))}


@pytest.mark.parametrize(("largest", "usual"), [(4, 5), (4, 0), (0, 0)])
def test_batches_that_cannot_be(largest: int, usual: int) -> None:
    with pytest.raises(BuildError, match=f"from 1 to the largest, {largest}, got {usual}"):
        Batches(largest, usual)


def test_an_unknown_symbol_is_named(mixed_plan: Plan) -> None:
    graph = GraphSpec("decoder.onnx", (TensorSpec("f_hat", "float32", ("B", "height")),), ())
    manifest = mixed_plan.manifest
    object.__setattr__(manifest := replace(manifest), "graphs", manifest.graphs | {"decoder": graph})
    with pytest.raises(BuildError, match=r"decoder\.onnx has a dimension 'height'"):
        graph_profiles(manifest, "decoder", Batches())


def test_with_plugins_no_value_decides_a_shape(mixed_plan: Plan) -> None:
    bodies, plugins = (graph_profiles(mixed_plan.manifest, "scale_step", Batches(), use) for use in (False, True))
    assert all(profile.values == {} for profile in plugins)
    assert [profile.shapes for profile in plugins] == [profile.shapes for profile in bodies]
