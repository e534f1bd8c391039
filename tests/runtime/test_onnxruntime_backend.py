"""The ONNX Runtime back end on a tiny plan whose arithmetic is recomputed here with NumPy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hieramp.runtime import (
    HierampError,
    OnnxRuntimeBackend,
    Plan,
    PlanError,
    draw_batch,
    onnxruntime_backend,
    resolve_settings,
)
from hieramp.runtime.backend import StepInputs
from hieramp.runtime.errors import ProviderError
from hieramp.runtime.providers import find_provider

LABELS_B = np.array([2, 0], np.int64)
L = 30


def uniforms() -> np.ndarray:
    return np.random.default_rng(7).random((2, L), np.float32)


def expected_tokens(uniforms_BL: np.ndarray, top_k: int) -> np.ndarray:
    return np.minimum((uniforms_BL * 8).astype(np.int64), top_k - 1)


def expected_run(tokens_BL: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Latent value of each image after all scales, and the sum of the caches [R] before each scale.

    The tiny graphs hold one value t a token map and row: block b caches keys t+b and values 2(t+b), C = 16 of each.
    """
    value_B, row_R = np.zeros(2), np.array([2.0, 0.0, 4.0, 4.0])
    past_R, pasts = np.zeros(4), []
    for begin, end in ((0, 1), (1, 5), (5, 14), (14, 30)):
        pasts.append(past_R)
        value_B = value_B + tokens_BL[:, begin:end].sum(1) + past_R[:2]
        past_R = past_R + (end - begin) * sum(3 * 16 * (row_R + block) for block in (0, 1))
        row_R = np.concatenate([value_B, value_B])
    return value_B, pasts


@pytest.mark.parametrize("provider", ["cpu", "openvino", "cuda"])
def test_a_batch_is_the_arithmetic_of_the_graphs(plan: Plan, provider: str) -> None:
    try:
        find_provider(provider)
    except ProviderError as error:
        pytest.skip(str(error))
    settings = resolve_settings(plan.manifest)
    with OnnxRuntimeBackend.open(plan, provider, threads=1) as backend:
        drawing = draw_batch(backend, plan, settings, LABELS_B, uniforms())
    tokens_BL = expected_tokens(uniforms(), top_k=6)
    np.testing.assert_array_equal(np.concatenate(drawing.tokens, 1), tokens_BL)
    value_B, _ = expected_run(tokens_BL)
    expected = np.broadcast_to(value_B[:, None, None, None], (2, 2, 4, 4))
    np.testing.assert_allclose(drawing.f_hat_BzPP, expected, rtol=1e-6)
    assert drawing.image_B3SS.shape == (2, 3, 8, 8)
    assert drawing.logits == drawing.saliency == ()


@pytest.mark.parametrize("cache_type", ["float32", "float16", "bfloat16"])
def test_caches_of_every_type_hold_what_earlier_scales_wrote(make_plan: Callable[..., Path], cache_type: str) -> None:
    plan = Plan.open(make_plan(cache_type=cache_type, trace=True))
    forced_BL = np.zeros((2, L), np.int64)
    forced_BL[:, 0] = 1
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        settings = resolve_settings(plan.manifest)
        drawing = draw_batch(backend, plan, settings, LABELS_B, uniforms(), forced_BL=forced_BL, trace=True)
    _, pasts = expected_run(forced_BL)
    exact = {"float32": 4, "float16": 3, "bfloat16": 2}[cache_type]  # scales whose values that type can hold
    for logits_RlV, past_R in list(zip(drawing.logits, pasts, strict=True))[:exact]:
        expected = np.broadcast_to(past_R[:, None], logits_RlV.shape[:2])
        np.testing.assert_allclose(logits_RlV[:, :, 7], expected, rtol=1e-6)


def test_the_step_is_given_every_control(make_plan: Callable[..., Path]) -> None:
    plan = Plan.open(make_plan(trace=True))
    settings = replace(resolve_settings(plan.manifest), cfg=(3.0, 3.0, 6.0, 1.5), rho=(1.0, 0.5, 0.25, 0.5), top_p=0.5)
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        drawing = draw_batch(backend, plan, settings, LABELS_B, uniforms(), trace=True)
    # guidance cfg·k/3, top_k, top_p, beta, max(1, round(rho·l)), class token k+1 over C = 16; adaln is 2·6·16 times the
    # row
    expected = [[0, 6, 0.5, 0, 1, 0], [1, 6, 0.5, 5, 2, 32], [4, 6, 0.5, 5, 2, 48], [1.5, 6, 0.5, 5, 8, 64]]
    for logits_RlV, row in zip(drawing.logits, expected, strict=True):
        np.testing.assert_allclose(logits_RlV[..., :6], np.broadcast_to(np.float32(row), (*logits_RlV.shape[:2], 6)))
        np.testing.assert_array_equal(logits_RlV[:, 0, 6], 192 * np.array([2, 0, 4, 4]))


def test_a_model_without_class_tokens_has_none_of_their_inputs(make_plan: Callable[..., Path], plan: Plan) -> None:
    plain = Plan.open(make_plan(model=replace(plan.manifest.model, class_token_scales=()), trace=True))
    with OnnxRuntimeBackend.open(plain, threads=1) as backend:
        drawing = draw_batch(backend, plain, resolve_settings(plain.manifest), LABELS_B, uniforms(), trace=True)
    assert all((logits_RlV[..., 3:6] == 0).all() for logits_RlV in drawing.logits)


def test_a_cache_is_reused_and_written_in_place(plan: Plan) -> None:
    settings = resolve_settings(plan.manifest)
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        cache = backend.new_cache(2)
        pointers = [buffer.data_ptr() for buffer in cache.each[0].buffers.values()]
        used = [draw_batch(backend, plan, settings, LABELS_B, uniforms(), cache=cache) for _ in range(2)]
    np.testing.assert_array_equal(used[0].f_hat_BzPP, used[1].f_hat_BzPP)
    assert [buffer.data_ptr() for buffer in cache.each[0].buffers.values()] == pointers
    keys, values = (cache.each[0].buffers[half, 1].numpy() for half in ("keys", "values"))
    assert keys[0, 0, 0, 0] == 2 + 1  # label 2, block 1
    assert values[0, 2, 1, 3] == 2 * (4 + 1)  # of the first unconditional row


def test_free_and_forced_tokens_may_be_mixed(plan: Plan) -> None:
    forced_BL = np.full((2, L), -1, np.int64)
    forced_BL[1, 5:14] = 7
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        drawing = draw_batch(backend, plan, resolve_settings(plan.manifest), LABELS_B, uniforms(), forced_BL=forced_BL)
    tokens_BL = expected_tokens(uniforms(), top_k=6)
    tokens_BL[1, 5:14] = 7
    np.testing.assert_array_equal(np.concatenate(drawing.tokens, 1), tokens_BL)


def test_images_decoded_in_parts_are_those_decoded_together(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    f_hat_BzPP = np.random.default_rng(3).random((5, 2, 4, 4), np.float32)
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        together = backend.decode(f_hat_BzPP)
        monkeypatch.setattr(onnxruntime_backend, "decoder_batch", lambda side: 2)
        np.testing.assert_array_equal(backend.decode(f_hat_BzPP), together)


def test_a_graph_that_does_not_load_is_named(make_plan: Callable[..., Path]) -> None:
    folder = make_plan()
    (folder / "scale_step.onnx").write_bytes(b"no graph")
    with pytest.raises(PlanError, match=r"scale_step\.onnx"):
        OnnxRuntimeBackend.open(Plan.open(folder, verify=False))


def test_a_failing_step_is_an_error_of_ours(plan: Plan) -> None:
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        conditioning = backend.condition(LABELS_B)
        latent = np.zeros((3, 2, 4, 4), np.float32)  # of another batch
        controls = resolve_settings(plan.manifest).controls(0, 1)
        inputs = StepInputs(conditioning.token_map_RlC, latent, uniforms()[:, :1].copy(),
                            np.full((2, 1), -1, np.int64), controls)
        with pytest.raises(HierampError, match="ONNX Runtime failed"):
            backend.step(backend.step_cache(2), 0, conditioning, inputs)


@pytest.mark.parametrize(("threads", "lanes", "samplers"), [(8, 4, 8), (6, 3, 6), (4, 1, 4), (2, 2, None)])
def test_all_threads_draw_tokens(plan: Plan, threads: int, lanes: int, samplers: int | None) -> None:
    """Lanes that wait for their tokens compute nothing; those that have a thread each draw their own."""
    with OnnxRuntimeBackend.open(plan, threads=threads, lanes=lanes) as backend:
        assert samplers == (backend._samplers and backend._samplers._max_workers)


def test_a_closed_back_end_says_so(plan: Plan) -> None:
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        backend.condition(LABELS_B)
