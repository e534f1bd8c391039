"""The manifest: what is written is read back, and a field that is missing or of another form is named."""

import json
from dataclasses import replace

import pytest

from hieramp.runtime.errors import PlanError
from hieramp.runtime.manifest import (
    ClassList,
    ModelShape,
    Parity,
    StaticScales,
    manifest_json,
    parse_manifest,
)
from tests.runtime.manifest_edits import INT8_DECODER, Change, MakeManifest, edited, in_8_bits, remover, setter


def var_d16() -> ModelShape:
    return ModelShape((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 4096, 32, 256, 16, 1024, 16, 1000, 4, tuple(range(10)))


def test_what_is_written_is_read_back(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(trace=True, cache_type="bfloat16")
    full = replace(
        manifest, parity=Parity((1e-5, 2e-5), 71.5, 1e-3, True),
        static_scales=StaticScales(1, ("scale_00.onnx",)),
        members=manifest.members | {"scale_00.onnx": manifest.members["decoder.onnx"]},
    )
    assert parse_manifest(manifest_json(full)) == full
    assert parse_manifest(manifest_json(manifest)) == manifest


def test_the_file_has_the_documented_form(make_manifest: MakeManifest) -> None:
    values = json.loads(manifest_json(make_manifest()))
    assert values["amplification"] == {"blocks": [1], "beta": [0, 5, 5, 5], "top_ratio": [0.5] * 4}
    assert values["graphs"]["condition"]["inputs"] == [{"name": "labels", "type": "int64", "shape": ["B"]}]
    assert values["static_scales"] is None


def test_an_imagenet_class_list_has_no_names(make_manifest: MakeManifest) -> None:
    manifest = make_manifest()
    imagenet = replace(manifest, classes=ClassList("imagenet"), model=replace(manifest.model, num_classes=1000))
    assert json.loads(manifest_json(imagenet))["classes"] == {"scheme": "imagenet"}
    assert parse_manifest(manifest_json(imagenet)) == imagenet


def test_sizes_that_follow_from_the_model() -> None:
    model = var_d16()
    assert model.scale_tokens == (1, 4, 9, 16, 25, 36, 64, 100, 169, 256)
    assert (model.token_count, model.scale_count, model.latent_side) == (680, 10, 16)
    assert [model.token_range(k) for k in (0, 1, 9)] == [(0, 1), (1, 5), (424, 680)]
    assert (model.head_width, model.downsampling) == (64, 16)


def test_a_newer_schema_asks_for_an_upgrade() -> None:
    with pytest.raises(PlanError, match=r"schema_version is 3, newer than the 2 .*pip install -U hieramp"):
        parse_manifest('{"schema_version": 3, "graphs": "whatever they are by then"}')


@pytest.mark.parametrize(("change", "message"), [
    (remover("model.width"), "model.width is missing"),
    (remover("schema_version"), "schema_version is missing"),
    (remover("amplification.top_ratio"), "amplification.top_ratio is missing"),
    (setter("model.width", "8"), "model.width must be a whole number, got '8'"),
    (setter("model.width", True), "model.width must be a whole number, got True"),
    (setter("model.width", 8.0), "model.width must be a whole number, got 8.0"),
    (setter("model.patch_sides", [1, "2"]), r"model.patch_sides\[1\] must be a whole number, got '2'"),
    (setter("sampling.cfg", "4"), "sampling.cfg must be a finite number, got '4'"),
    (setter("sampling.cfg", float("inf")), "Infinity is no number of JSON"),
    (setter("trace_outputs", 0), "trace_outputs must be true or false, got 0"),
    (setter("graphs.decoder.inputs", None), "graphs.decoder.inputs must be a list, got None"),
    (setter("members", []), r"members must be an object, got \[\]"),
    (setter("sampling.temperature", 1), "sampling.temperature is not a known field"),
    (setter("schema_version", 1), "schema_version must be 2, got 1; export the plan again"),
])
def test_a_field_of_another_form_is_named(make_manifest: MakeManifest, change: Change, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_manifest(edited(make_manifest(), change))


def test_an_8_bit_plan_says_how_it_was_quantized(make_manifest: MakeManifest) -> None:
    manifest = parse_manifest(edited(make_manifest(), in_8_bits()))
    assert manifest.quantization is not None
    assert manifest.quantization.layers["var.blocks.0.attn.proj"].input_scale == 0.1
    assert parse_manifest(manifest_json(manifest)) == manifest


def test_a_manifest_says_whether_the_decoder_is_int8(make_manifest: MakeManifest) -> None:
    """Plans written before decoders were quantized do not have the field, and it is not written for a float one."""
    older = parse_manifest(edited(make_manifest(), in_8_bits()))
    assert older.quantization is not None and older.quantization.decoder is None
    assert older.quantization.decoder_error == 0
    assert "decoder" not in json.loads(manifest_json(older))["quantization"]
    newer = parse_manifest(edited(make_manifest(), in_8_bits(setter("quantization.decoder", INT8_DECODER))))
    assert newer.quantization is not None and newer.quantization.decoder is not None
    assert newer.quantization.decoder_error == pytest.approx(0.005)
    assert newer.quantization.decoder.layers["b"].output_scale == 0.023
    assert parse_manifest(manifest_json(newer)) == newer


def test_plans_without_the_newer_fields_load_and_write_none(make_manifest: MakeManifest) -> None:
    """The shipped plan is older than the fields of 8-bit plans."""
    parity = {"logits_max_abs": [0.1], "image_psnr_db": 60.0, "threshold": 0.5, "passed": True}
    text = edited(make_manifest(), setter("parity", parity))
    manifest = parse_manifest(text)
    assert manifest.quantization is None and manifest.parity is not None and manifest.parity.kl == ()
    assert json.loads(manifest_json(manifest)) == json.loads(text)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "nonsense"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="somewhere is not valid JSON"):
        parse_manifest(text, "somewhere")


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_json_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="the file must be an object"):
        parse_manifest(text)
