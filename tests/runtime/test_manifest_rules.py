"""What a manifest must hold beyond the types of its fields; every rule is broken once, and named."""

import pytest

from hieramp.runtime.errors import PlanError
from hieramp.runtime.manifest import parse_manifest
from hieramp.runtime.manifest_rules import is_plain_name
from tests.runtime.manifest_edits import INT8_DECODER, Change, MakeManifest, edited, in_8_bits, remover, setter


@pytest.mark.parametrize(("change", "message"), [
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
def test_a_broken_rule_is_named(make_manifest: MakeManifest, change: Change, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_manifest(edited(make_manifest(), change))


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
                                                 change: Change, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_manifest(edited(make_manifest(), change))


@pytest.mark.parametrize("name", ["../weights", "/etc/passwd", "a/b", "a\\b", "..", "", "C:x"])
def test_a_member_outside_the_folder_is_refused(make_manifest: MakeManifest, name: str) -> None:
    text = edited(make_manifest(), setter("members", {name: {"bytes": 1, "sha256": ""}}))
    with pytest.raises(PlanError, match="members must be file names inside the plan folder"):
        parse_manifest(text)
    assert not is_plain_name(name)
