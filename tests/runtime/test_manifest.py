"""The manifest: what is written is read back, and what does not fit is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hieramp.runtime.errors import PlanError
from hieramp.runtime.manifest import (
    ClassList,
    Manifest,
    ModelShape,
    Parity,
    StaticScales,
    is_plain_name,
    manifest_json,
    parse_manifest,
)

MakeManifest = Callable[..., Manifest]
QUANTIZATION = {"base_precision": "fp32", "images": 32, "seed": 7, "layers": {"var.blocks.0.attn.proj": {
    "eight_bits": True, "input_largest": 12.7, "input_scale": 0.1, "input_error": 0.02, "weight_error": 0.01,
    "logits_error": 0.003}}}
INT8_DECODER = {"layers": {
    name: {"eight_bits": eight_bits, "input_largest": 2.0, "input_scale": 0.015, "output_largest": 3.0,
           "output_scale": 0.023, "image_error": error}
    for name, eight_bits, error in (("a", True, 0.003), ("b", True, 0.004), ("c", False, 1.0))}}


def var_d16() -> ModelShape:
    return ModelShape((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 4096, 32, 256, 16, 1024, 16, 1000, 4, tuple(range(10)))


def edited(manifest: Manifest, change: Callable[[dict[str, Any]], None]) -> str:
    values = json.loads(manifest_json(manifest))
    change(values)
    return json.dumps(values)


def setter(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the field at a dotted path."""
    def change(values: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            values = values[parent]
        values[last] = value

    return change


def remover(path: str) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            values = values[parent]
        del values[last]

    return change


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
    (setter("precision", "fp61"), "precision must be one of fp32, fp16, bf16, int8, fp8, got 'fp61'"),
    (setter("cache_type", "int8"), "cache_type must be one of .*, got 'int8'"),
    (setter("name", "../up"), "name must be usable as a file name"),
    (setter("model.patch_sides", [1, 3, 2]), r"model.patch_sides must grow .*\[1, 3, 2\]"),
    (setter("model.patch_sides", []), "model.patch_sides must grow"),
    (setter("model.heads", 3), "model.width must be a multiple of model.heads, got 16 and 3"),
    (setter("model.heads", 0), "model.heads must be at least 1, got 0"),
    (setter("model.image_side", 9), "model.image_side must be a multiple of the last patch side 4, got 9"),
    (setter("model.class_token_scales", [1, 4]), "class_token_scales must be rising scales from 0 to 3"),
    (setter("amplification.beta", [0, 5]), "amplification.beta must have 4 values, one a scale, got 2"),
    (setter("amplification.beta", [5, 5, 5, 5]), r"amplification.beta\[0\] must be 0 as scale 0 has no class token"),
    (setter("amplification.blocks", [2]), "amplification.blocks must lie in 0 to 1"),
    (setter("amplification.top_ratio", [0, 1, 1, 1]), r"amplification.top_ratio must lie in \(0, 1\]"),
    (setter("sampling.top_k", 9), "sampling.top_k must be from 1 to 8, got 9"),
    (setter("sampling.top_p", 0), r"sampling.top_p must lie in \(0, 1\], got 0"),
    (setter("classes.scheme", "mnist"), "classes.scheme must be one of .*, got 'mnist'"),
    (setter("classes.names", ["ant"]), "classes names 1 classes where model.num_classes is 4"),
    (remover("graphs.decoder"), "graphs must be condition, scale_step, decoder and perhaps encoder, scale_logits, "
                                "scale_latent, scale_step_fused, decoder_fused, got condition"),
    (setter("graphs.scale_latent", {"file": "scale_step.onnx", "inputs": [], "outputs": []}),
     "graphs must have both of scale_logits and scale_latent or neither, got scale_latent alone"),
    (setter("graphs.decoder.inputs", []), "graphs.decoder lacks f_hat"),
    (setter("graphs.decoder.outputs", []), "graphs.decoder lacks image"),
    (setter("graphs.condition.inputs", [{"name": n, "type": "int64", "shape": []} for n in ("labels", "seed")]),
     "graphs.condition has inputs this runtime does not know: seed"),
    (setter("trace_outputs", True), "graphs.scale_step lacks logits"),
    (setter("graphs.decoder.file", "other.onnx"), "members must list 'other.onnx'"),
    (setter("static_scales", {"batch": 1, "files": ["scale_00.onnx"]}), "members must list 'scale_00.onnx'"),
    (lambda values: values["members"].pop("weights.safetensors"), "members must list 'weights.safetensors'"),
])
def test_what_does_not_fit_is_named(make_manifest: MakeManifest, change: Callable[[dict[str, Any]], None],
                                    message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_manifest(edited(make_manifest(), change))


def in_8_bits(*changes: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """An int8 plan over fp32, changed."""
    def change(values: dict[str, Any]) -> None:
        values |= {"precision": "int8", "cache_type": "float32", "quantization": json.loads(json.dumps(QUANTIZATION))}
        for each in changes:
            each(values)

    return change


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


@pytest.mark.parametrize(("change", "message"), [
    (in_8_bits(setter("precision", "fp16")), "quantization must be there in int8 and fp8 plans .*, got fp16"),
    (in_8_bits(remover("quantization")), "quantization must be there in int8 and fp8 plans and no others, got int8"),
    (in_8_bits(setter("quantization.base_precision", "bf16")), "base_precision must be fp32 or fp16, got 'bf16'"),
    (in_8_bits(setter("cache_type", "float32"), setter("quantization.base_precision", "fp16")),
     "cache_type must be float16, bfloat16 or that of fp16, got 'float32'"),
    (in_8_bits(setter("quantization.images", "32")), "quantization.images must be a whole number, got '32'"),
    (in_8_bits(lambda values: values["quantization"]["layers"]["var.blocks.0.attn.proj"].update(input_scale=0)),
     "quantization.layers.var.blocks.0.attn.proj.input_scale must be above 0, got 0"),
    (in_8_bits(setter("quantization.decoder", INT8_DECODER), setter("precision", "fp8")),
     "quantization.decoder must not be there in fp8 plans"),
    (in_8_bits(setter("quantization.decoder", INT8_DECODER), setter("quantization.decoder.layers.a.output_scale", 0)),
     "quantization.decoder.layers.a.output_scale must be above 0, got 0"),
    (in_8_bits(setter("quantization.decoder", {})), "quantization.decoder.layers is missing"),
])
def test_quantization_that_does_not_fit_is_named(make_manifest: MakeManifest,
                                                 change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_manifest(edited(make_manifest(), change))


@pytest.mark.parametrize("name", ["../weights", "/etc/passwd", "a/b", "a\\b", "..", "", "C:x"])
def test_a_member_outside_the_folder_is_refused(make_manifest: MakeManifest, name: str) -> None:
    text = edited(make_manifest(), setter("members", {name: {"bytes": 1, "sha256": ""}}))
    with pytest.raises(PlanError, match="members must be file names inside the plan folder"):
        parse_manifest(text)
    assert not is_plain_name(name)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "nonsense"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="somewhere is not valid JSON"):
        parse_manifest(text, "somewhere")


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_json_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="the file must be an object"):
        parse_manifest(text)
