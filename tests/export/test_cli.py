"""`hieramp-export` and `hieramp-parity` as commands: what they write and print, and one line for every bad input."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hieramp.export import cli
from hieramp.export.model_source import LoadedModel
from hieramp.export.parity import cli as parity_cli
from hieramp.runtime import Plan
from hieramp_ref.checkpoint import save_weights

Outcome = tuple[int, str, str]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command as its console script does: exit code, stdout, stderr."""
    def run(command: Any, *arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as stopped:
            command.main([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return int(stopped.value.code or 0), streams.out, streams.err

    return run


@pytest.fixture
def files(tmp_path: Path, tiny: LoadedModel) -> dict[str, Path]:
    """A tiny model in files, a folder to write to, and files that are broken in one way each."""
    files = {name: tmp_path / name for name in (
        "config.json", "deeper.json", "settings.json", "broken.json", "both.safetensors", "var.pth", "cut.pth",
        "trace.npz", "garbage.npz", "other.npz", "out")}
    files["config.json"].write_text(json.dumps(tiny.var.spec.to_dict()))
    files["deeper.json"].write_text(json.dumps(tiny.var.spec.to_dict() | {"depth": 5}))
    files["settings.json"].write_text(json.dumps({"amplify": True, "layers": [1], "top_k": 20, "cfg": 2}))
    files["broken.json"].write_text("{")
    save_weights(files["both.safetensors"], vqvae=tiny.vqvae, var=tiny.var)
    torch.save(tiny.var.state_dict(), files["var.pth"])
    files["cut.pth"].write_bytes(files["var.pth"].read_bytes()[:5000])
    tokens = {f"idx_{k}": np.zeros((2, n), np.int32) for k, n in enumerate((1, 4, 9))}
    np.savez(files["trace.npz"], labels=np.array([0, 1]), **tokens)
    np.savez(files["other.npz"], labels=np.array([0, 1]), **tokens | {"idx_1": np.zeros((2, 5), np.int32)})
    files["garbage.npz"].write_bytes(b"garbage")
    files["out"].mkdir()
    return files


def model_arguments(files: dict[str, Path], **changes: object) -> list[object]:
    """Options of the tiny model; a change to None leaves one out."""
    options = {"config": files["config.json"], "var": files["var.pth"], "vae": files["both.safetensors"],
               "settings": files["settings.json"]} | changes
    return [part for name, value in options.items() if value is not None for part in (f"--{name}", value)]


def test_export_of_weights_rounded_to_fp16(call: Callable[..., Outcome], files: dict[str, Path],
                                           tiny: LoadedModel) -> None:
    """Matrices are stored as float16 in an fp32 plan, vectors as they were; the gate compares with rounded ones."""
    out = files["out"] / "x.plan"
    arguments = (*model_arguments(files), "--out", out, "--store-fp16", "--keep-training-weights")
    assert call(cli.main, *arguments)[0] == 0
    stored = load_file(out / "weights.safetensors")
    for name, parameter in tiny.var.named_parameters():
        expected = parameter.half() if parameter.ndim > 1 else parameter
        assert torch.equal(stored[f"var.{name}"], expected), name
    assert call(cli.main, "--config", files["config.json"], "--var", out / "weights.safetensors",
                "--vae", out / "weights.safetensors", "--out", files["out"] / "again.plan")[0] == 0


def test_export(call: Callable[..., Outcome], files: dict[str, Path]) -> None:
    out = files["out"] / "x.plan"
    code, stdout, stderr = call(cli.main, *model_arguments(files), "--out", out, "--static-scales", "--static-batch", 2)
    assert (code, stderr) == (0, "")
    assert stdout.startswith(f"plan: {out} (fp32)\nparity: logits within ")
    plan = Plan.open(out)
    assert plan.manifest.name == "config" and "encoder" not in plan.manifest.graphs
    assert plan.manifest.static_scales is not None and plan.manifest.static_scales.batch == 2
    assert [path.name for path in files["out"].iterdir()] == ["x.plan"]


def test_export_with_an_encoder(call: Callable[..., Outcome], files: dict[str, Path]) -> None:
    out = files["out"] / "x.plan"
    code, stdout, stderr = call(cli.main, *model_arguments(files), "--out", out, "--with-encoder")
    assert (code, stderr) == (0, "") and "encoder: 100.00% of its tokens are those of the reference" in stdout
    assert "encoder" in Plan.open(out).manifest.graphs


def test_export_in_json(call: Callable[..., Outcome], files: dict[str, Path]) -> None:
    out = files["out"] / "x.plan"
    code, stdout, _ = call(cli.main, *model_arguments(files), "--out", out, "--precision", "fp16", "--json")
    figures = json.loads(stdout)
    assert code == 0 and figures["plan"] == str(out) and figures["passed"] is True
    assert len(figures["logits_max_abs"]) == 3 and max(figures["logits_max_abs"]) <= figures["threshold"]


def test_export_in_8_bits(call: Callable[..., Outcome], files: dict[str, Path]) -> None:
    out = files["out"] / "x.plan"
    options = ("--precision", "int8", "--base-precision", "fp32", "--calibration-images", 5)
    code, stdout, stderr = call(cli.main, *model_arguments(files), "--out", out, *options)
    assert (code, stderr) == (0, "")
    assert stdout.startswith(f"plan: {out} (int8)\nparity: logits within ")
    assert "block layers in int8, the rest in fp32" in stdout and "calibrated on 5 images" in stdout
    found = Plan.open(out).manifest.quantization
    assert found is not None and (found.base_precision, found.images) == ("fp32", 5)


@pytest.mark.parametrize(("options", "narrow"), [
    (("--decoder", "float"), None), (("--decoder-psnr", "0"), "25 of 25"), (("--decoder-psnr", "200"), "0 of 25"),
    (("--decoder", "int8", "--base-precision", "fp16", "--decoder-psnr", "0"), "25 of 25"),
    (("--base-precision", "fp16"), None),
])
def test_how_much_of_the_decoder_is_in_8_bits(call: Callable[..., Outcome], files: dict[str, Path],
                                              options: tuple[str, ...], narrow: str | None) -> None:
    base = () if "--base-precision" in options else ("--base-precision", "fp32")
    arguments = ("--precision", "int8", *base, *options, "--calibration-images", 32, "--out", files["out"] / "x.plan")
    code, stdout, stderr = call(cli.main, *model_arguments(files), *arguments)
    assert (code, stderr) == (0, "")
    said = [line for line in stdout.splitlines() if line.startswith("decoder: ")]
    assert [line.partition(" convolutions")[0] for line in said] == ([f"decoder: {narrow}"] if narrow else [])


def test_a_plain_var_exports_and_says_what_is_missing(
    call: Callable[..., Outcome], files: dict[str, Path], make_model: Callable[..., LoadedModel]
) -> None:
    torch.save(make_model({"class_token_scales": ()}, {"amplify": False}).var.state_dict(), files["var.pth"])
    code, _, stderr = call(cli.main, *model_arguments(files, settings=None), "--out", files["out"] / "x.plan")
    assert code == 0
    assert stderr == "no class tokens: the plan is a plain VAR, amplification is unavailable\n"
    assert Plan.open(files["out"] / "x.plan").manifest.amplification is None


def test_replay(call: Callable[..., Outcome], files: dict[str, Path]) -> None:
    """Through the reference and a plan of it, with the same tokens forced."""
    plan, traces = files["out"] / "x.plan", [files["out"] / name for name in ("reference.npz", "plan.npz")]
    call(cli.main, *model_arguments(files), "--out", plan, "--trace-outputs")
    code, _, stderr = call(parity_cli.main, "replay", *model_arguments(files), "--trace", files["trace.npz"], "--out",
                           traces[0])
    assert (code, stderr) == (0, "")
    code, stdout, stderr = call(parity_cli.main, "replay", "--plan", plan, "--trace", traces[0], "--out", traces[1])
    assert (code, stderr) == (0, "")
    assert [line.split()[0] for line in stdout.splitlines()] == ["logits_0", "logits_1", "logits_2", "f_hat", "image",
                                                                 "written:"]
    reference, replayed = (dict(np.load(path)) for path in traces)
    for name in reference:
        np.testing.assert_allclose(replayed[name], reference[name], atol=1e-4)
    assert reference["logits_2"].std() > 0.1


def assert_one_line(outcome: Outcome, message: str) -> None:
    code, stdout, stderr = outcome
    assert code == 2
    assert stdout == ""
    assert stderr.count("\n") == 1 and stderr.startswith("hieramp-") and "error: " in stderr
    assert message in stderr


@pytest.mark.parametrize(("changes", "message"), [
    ({"config": "deeper.json"}, "the checkpoint has depth 3, the model depth 5"),
    ({"var": "cut.pth"}, "cut.pth is damaged"),
    ({"var": "none.pth"}, "no checkpoint at"),
    ({"var": "config.json"}, "cannot be read"),
    ({"vae": "var.pth"}, "does not fit the model"),
    ({"config": None, "preset": "var_d16", "var": None}, "--var must name a checkpoint of var_d16"),
    ({"config": None, "preset": "var_d17"}, "preset must be one of"),
    ({"preset": "var_d16"}, "give --preset or --config, not both"),
    ({"config": "none.json"}, "none.json is no model configuration"),
    ({"config": "broken.json"}, "broken.json is no model configuration"),
    ({"settings": "broken.json"}, "broken.json is no settings file"),
    ({"settings": "none.json"}, "none.json is no settings file"),
    ({"precision": "fp61"}, "precision must be one of fp32, fp16, bf16, int8, fp8, got 'fp61'"),
    ({"precision": "int8", "base-precision": "bf16"}, "base precision must be one of fp32, fp16, got 'bf16'"),
    ({"precision": "int8", "cache-precision": "fp32"}, "cache precision must be one of fp16, bf16, got 'fp32'"),
    ({"cache-precision": "bf16"}, "cache precision bf16 is for int8 and fp8: leave it out with fp32"),
    ({"base-precision": "fp16"}, "base precision fp16 is for int8 and fp8: leave it out with fp32"),
    ({"precision": "fp8", "calibration-images": "0"}, "calibration-images"),
    ({"decoder": "int8"}, "decoder int8 is for int8 plans: leave it out with fp32"),
    ({"precision": "int8", "decoder": "fp8"}, "decoder must be one of int8, float, got 'fp8'"),
    ({"precision": "int8", "decoder-psnr": "-1"}, "decoder-psnr"),
    ({"class-names": "none.txt"}, "none.txt cannot be read as class names"),
    ({"static-batch": "0"}, "static-batch"),
    ({"colour": "red"}, "--colour"),
])
def test_bad_exports(call: Callable[..., Outcome], files: dict[str, Path], changes: dict[str, str | None],
                     message: str) -> None:
    folder = files["out"].parent
    inputs = ("config", "var", "vae", "settings", "class-names")
    changed = {name: folder / value if value and name in inputs else value for name, value in changes.items()}
    assert_one_line(call(cli.main, *model_arguments(files, **changed), "--out", files["out"] / "x.plan"), message)
    assert not list(files["out"].iterdir())


@pytest.mark.parametrize(("options", "message"), [
    (["--tf32", "--max-batch", 4], "of engines, which --target builds: leave out --max-batch, --tf32"),
    (["--static-batch", 4], "that --static-scales writes: leave out --static-batch"),
    (["--precision", "fp16", "--calibration-images", 5], "of int8 and fp8 plans: leave out --calibration-images"),
    (["--precision", "fp8", "--decoder-psnr", 10], "of int8 decoders, which int8 plans with --base-precision fp32"),
    (["--precision", "int8", "--decoder-psnr", 10], "leave out --decoder-psnr"),
])
def test_options_that_would_do_nothing(call: Callable[..., Outcome], files: dict[str, Path], options: list[object],
                                       message: str) -> None:
    assert_one_line(call(cli.main, *model_arguments(files), "--out", files["out"] / "x.plan", *options), message)
    assert not list(files["out"].iterdir())


@pytest.mark.parametrize(("options", "message"), [
    (["--target", "tensort"], "tensort"), (["--target", "tensorrt_rtx", "--compute-capability", "8x"], "got '8x'"),
    (["--target", "tensorrt_rtx", "--max-batch", 2, "--opt-batch", 3], "3"),
    (["--target", "tensorrt_rtx", "--timing-cache", "t"], "leave out --timing-cache"),
])
def test_engines_that_cannot_be_are_refused_before_the_export(
    call: Callable[..., Outcome], files: dict[str, Path], options: list[object], message: str,
) -> None:
    """A plan that is there already is left alone, with its engines."""
    (files["out"] / "x.plan" / "tensorrt").mkdir(parents=True)
    (files["out"] / "x.plan" / "manifest.json").write_text("old")
    assert_one_line(call(cli.main, *model_arguments(files), "--out", files["out"] / "x.plan", *options), message)
    assert (files["out"] / "x.plan" / "tensorrt").exists()
    code, _, stderr = call(cli.main, *model_arguments(files), "--out", files["out"] / "x.plan")
    assert code == 0 and "the engines of the plan that was there are gone" in stderr


def test_an_out_that_cannot_be_written(call: Callable[..., Outcome], files: dict[str, Path]) -> None:
    before = sorted(files["out"].parent.iterdir())
    for out, message in ((files["broken.json"] / "x.plan", "cannot be written"),
                         (files["broken.json"], "is a file, not a folder"),
                         (files["out"].parent, "is not empty and no plan")):
        assert_one_line(call(cli.main, *model_arguments(files), "--out", out), message)
    assert sorted(files["out"].parent.iterdir()) == before


@pytest.mark.parametrize(("changes", "message"), [
    ({"trace": "garbage.npz"}, "garbage.npz is no trace"),
    ({"trace": "none.npz"}, "none.npz is no trace"),
    ({"trace": "other.npz"}, "idx_1 of the trace must have the model's shape (2, 4), got (2, 5)"),
    ({"plan": "out"}, "--plan brings its own model and settings: leave out --config, --var, --vae, --settings"),
    ({"config": "deeper.json"}, "the checkpoint has depth 3, the model depth 5"),
    ({"settings": "broken.json"}, "broken.json is no settings file"),
    ({"trace": None}, "Missing option '--trace'"),
])
def test_bad_replays_through_the_reference(call: Callable[..., Outcome], files: dict[str, Path],
                                           changes: dict[str, str | None], message: str) -> None:
    changed = {"trace": "trace.npz"} | changes
    paths = {name: files["out"].parent / value if value else None for name, value in changed.items()}
    arguments = model_arguments(files, **paths)
    assert_one_line(call(parity_cli.main, "replay", *arguments, "--out", files["out"] / "o.npz"), message)
    assert not list(files["out"].iterdir())


def test_bad_replays_through_a_plan(call: Callable[..., Outcome], files: dict[str, Path], tiny: LoadedModel,
                                    tiny_plan: Plan, export: Callable[..., Plan], tmp_path: Path) -> None:
    silent, changed = export(tiny, tmp_path / "silent.plan").folder, tmp_path / "changed.plan"
    shutil.copytree(tiny_plan.folder, changed)
    with (changed / "weights.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    for plan, trace, message in ((silent, "trace.npz", "no trace outputs"), (files["out"], "trace.npz", "is no plan"),
                                 (tmp_path / "none", "trace.npz", "no plan folder at"),
                                 (changed, "trace.npz", "has changed since the export"),
                                 (tiny_plan.folder, "other.npz", "idx_1 of the trace"),
                                 (tiny_plan.folder, "garbage.npz", "is no trace")):
        outcome = call(parity_cli.main, "replay", "--plan", plan, "--trace", files[trace], "--out",
                       files["out"] / "o.npz")
        assert_one_line(outcome, message)
    outcome = call(parity_cli.main, "replay", "--plan", tiny_plan.folder, "--trace", files["trace.npz"], "--out",
                   files["broken.json"] / "o.npz")
    assert_one_line(outcome, "cannot be written")
    assert not list(files["out"].iterdir())


@pytest.mark.parametrize("arguments", [(), ("reply",), ("replay", "--out", "x")])
def test_hieramp_parity_names_what_is_missing_on_one_line(call: Callable[..., Outcome], arguments: tuple[str]) -> None:
    assert_one_line(call(parity_cli.main, *arguments), "")


@pytest.mark.parametrize("command", [(cli.main,), (parity_cli.main,), (parity_cli.main, "replay")])
def test_help(call: Callable[..., Outcome], command: tuple[Any, ...]) -> None:
    code, stdout, stderr = call(*command, "-h")
    assert (code, stderr) == (0, "") and stdout.startswith("Usage:")


def test_console_scripts(golden_dir: Path, tmp_path: Path) -> None:
    """As installed, on a golden run: export, replay through the plan and through the reference."""
    scripts, plan = Path(sys.executable).parent, tmp_path / "stagewise.plan"
    model = ["--config", golden_dir / "config.json", "--var", golden_dir / "ar-ckpt-last.pth",
             "--vae", golden_dir / "vae.pth", "--settings", golden_dir / "stagewise.json"]
    subprocess.run([scripts / "hieramp-export", *model, "--out", plan, "--trace-outputs"], check=True)
    recorded = dict(np.load(golden_dir / "stagewise.npz"))
    for source in (["--plan", plan], model):
        out = tmp_path / "o.npz"
        subprocess.run([scripts / "hieramp-parity", "replay", *source, "--trace", golden_dir / "stagewise.npz",
                        "--out", out], check=True)
        replayed = dict(np.load(out))
        assert replayed.keys() == recorded.keys()
        for name in recorded:
            np.testing.assert_allclose(replayed[name], recorded[name], atol=1e-4, err_msg=name)
