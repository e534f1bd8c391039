"""Plans and output folders from elsewhere: no escape, no code, one line; each case was wrong once or must never be."""

import ast
import json
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from PIL import Image

from hieramp.runtime.catalogue import ClassEntry, folder_names, load_catalogue
from hieramp.runtime.class_spec import select_classes
from hieramp.runtime.cli import main
from hieramp.runtime.contact_sheet import draw_contact_sheet
from hieramp.runtime.drawing import default_batch_size
from hieramp.runtime.edit_files import read_edit, read_tokens, tokens_npz
from hieramp.runtime.errors import ClassSpecError, OutputError, PlanError, RunError, SettingsError, TeacherError
from hieramp.runtime.job import Job
from hieramp.runtime.manifest import Manifest, manifest_json, parse_manifest
from hieramp.runtime.onnxruntime_backend import OnnxRuntimeBackend
from hieramp.runtime.plan import Plan, describe_member
from hieramp.runtime.run_job import run_job
from hieramp.runtime.scales import load_scale_constants
from hieramp.runtime.soft_labels import from_npy, npy_bytes
from hieramp.runtime.teacher import TeacherMetadata
from hieramp.runtime.verified import read_verdicts
from hieramp.runtime.writers.parquet import unique_names

MakePlan = Callable[..., Path]
RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
LOADERS_OF_CODE = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml", "torch"}
posix = pytest.mark.skipif(os.name == "nt", reason="needs symbolic links and pipes")


@pytest.fixture
def job(plan: Plan, tmp_path: Path) -> Job:
    return Job(tmp_path / "out", plan.folder, ipc=1, batch_size=2, threads=1)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that no run may change."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("canary", "00000.png", "train-00000-of-00001.parquet"):
        (folder / name).write_bytes(b"precious")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_runtime_loads_no_code_from_data() -> None:
    """No pickle by any name, no np.load, no eval."""
    files = sorted(RUNTIME.rglob("*.py"))
    assert len(files) > 50
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in (*names, *module)} & LOADERS_OF_CODE, file
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "compile", "np.load", "numpy.load"), (file, called)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\ud800", "\u202egnp", "a\x00"])
def test_control_characters_in_a_manifest_are_refused(name: str, make_manifest: Callable[..., Manifest]) -> None:
    values = json.loads(manifest_json(make_manifest()))
    values["classes"]["names"][1] = name
    with pytest.raises(PlanError, match=r"classes\.names\[1\] must not hold control characters") as raised:
        parse_manifest(json.dumps(values))
    assert str(raised.value).isprintable()


def test_a_key_of_a_manifest_is_short_and_printable(make_manifest: Callable[..., Manifest]) -> None:
    for key in ("\x1b", "k" * 10_000):
        values = json.loads(manifest_json(make_manifest()))
        values["producer"][key] = "0"
        with pytest.raises(PlanError, match="too long or holds control characters") as raised:
            parse_manifest(json.dumps(values))
        assert len(str(raised.value)) < 300


def test_a_message_does_not_repeat_a_whole_manifest(make_manifest: Callable[..., Manifest]) -> None:
    values = json.loads(manifest_json(make_manifest()))
    values["model"]["patch_sides"] = [9, *range(100_000)]
    with pytest.raises(PlanError, match="must grow") as raised:
        parse_manifest(json.dumps(values))
    assert len(str(raised.value)) < 1200


@posix
@pytest.mark.parametrize("kind", ["pipe", "zeros", "large"])
def test_a_manifest_that_never_ends_is_refused(kind: str, make_plan: MakePlan) -> None:
    path = make_plan() / "manifest.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zeros":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    with pytest.raises(PlanError, match=r"cannot read its manifest\.json"):
        Plan.open(path.parent)


def test_a_member_of_a_name_too_long_for_a_file_is_refused(make_plan: MakePlan,
                                                           edit_manifest: Callable[..., None]) -> None:
    folder = make_plan()
    edit_manifest(folder, lambda values: values["members"].update({"é" * 150: {"bytes": 1, "sha256": ""}}))
    with pytest.raises(PlanError, match="members must be file names"):
        Plan.open(folder)


@pytest.mark.parametrize(("header", "why"), [
    ({"dtype": "BF16", "shape": [4, 2], "data_offsets": [0, 16]}, "must be float32"),
    ({"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}, "weights"),
    ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "weights"),
])
def test_a_weight_file_that_lies_is_refused(header: dict[str, Any], why: str, make_plan: MakePlan) -> None:
    plan = Plan.open(make_plan())
    text = json.dumps({"scale.00.phi_select": header}).encode()
    plan.path("weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(PlanError, match=why):
        load_scale_constants(plan)


@pytest.mark.parametrize("names", [
    ("0001_ant", "ant", "ant"), ("0000_a", "A", "a"), ("e\u0301", "\u00e9"), ("dataset.json", "README.md", "CON"),
    ("\U0001f600猫" * 80, "猫" * 300), ("猫" * 80, "猫" * 80), ("..", ".", "", "/"),
    ("shard-00000-of-00002.json", "Classes.JSON", "nul.txt"), ("soft-000000.npy", "Soft-000001.npy"),
])
def test_no_two_classes_share_a_folder_or_take_a_file_s_name(names: tuple[str, ...]) -> None:
    folders = folder_names(names)
    taken = {"dataset.json", "classes.json", "readme.md", "contact_sheet.png", "con", "nul.txt", "soft-000000.npy",
             "soft-000001.npy"}
    assert len({folder.casefold() for folder in folders}) == len(names)
    assert not taken & {folder.casefold() for folder in folders} and folders[0] != "shard-00000-of-00002.json"
    assert all(0 < len(folder.encode()) <= 200 and folder[0] != "." and "/" not in folder for folder in folders)


def test_labels_of_parquet_differ_whatever_the_names() -> None:
    classes = [ClassEntry(i, folder, name) for i, (folder, name) in
               enumerate([("x", "a"), ("y", "a"), ("z", "a (y)")])]
    assert len(set(unique_names(classes))) == 3


def test_a_default_batch_of_large_pictures_is_small(make_manifest: Callable[..., Manifest]) -> None:
    model = replace(make_manifest().model, image_side=8192)
    assert default_batch_size(model) * 3 * 4 * 8192**2 <= 1 << 30


@posix
def test_a_class_list_that_never_ends_is_refused(plan: Plan) -> None:
    for spec in ("@/dev/zero", "@a\0b", "@\ud800"):
        with pytest.raises(ClassSpecError, match="cannot read the class list"):
            select_classes(spec, load_catalogue(plan.manifest.classes))


def test_a_long_word_is_no_long_message(plan: Plan) -> None:
    with pytest.raises(ClassSpecError, match="does not exist") as raised:
        select_classes("x" * 100_000, load_catalogue(plan.manifest.classes))
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1, "a": 2}', '{"a": 5}'])
def test_a_damaged_memory_vouches_for_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "verified.json").write_text(text)
    assert read_verdicts(tmp_path / "verified.json") == {}


@posix
@pytest.mark.parametrize(("layout", "inner"), [("folder", "ant"), ("rded", "00000"), ("parquet", "data")])
def test_a_run_does_not_write_through_a_linked_folder(layout: str, inner: str, job: Job, elsewhere: Path) -> None:
    pytest.importorskip("pyarrow")
    before = contents(elsewhere)
    job.out.mkdir()
    (job.out / inner).symlink_to(elsewhere)
    (job.out / "dataset.json").write_text('{"format": "hieramp-dataset"}')
    with pytest.raises(OutputError, match="is a link"):
        run_job(replace(job, layout=layout, overwrite=True))
    assert contents(elsewhere) == before


@posix
@pytest.mark.parametrize("kind", ["link", "hard link"])
@pytest.mark.parametrize("name", ["ant/.00000.png.partial", ".dataset.json.partial", ".README.md.partial", "README.md",
                                  "contact_sheet.png", "classes.json"])
def test_a_run_does_not_write_through_a_linked_file(name: str, kind: str, job: Job, elsewhere: Path) -> None:
    """The place where a file is written before it has its name is known to others."""
    path = job.out / name
    path.parent.mkdir(parents=True)
    (job.out / "dataset.json").write_text('{"format": "hieramp-dataset"}')
    path.symlink_to(elsewhere / "canary") if kind == "link" else path.hardlink_to(elsewhere / "canary")
    before = contents(elsewhere)
    assert run_job(replace(job, overwrite=True)).drawn == 4
    assert contents(elsewhere) == before
    assert not path.is_symlink()


@posix
def test_replacing_deletes_nothing_behind_a_linked_folder(job: Job, elsewhere: Path) -> None:
    run_job(job)
    (job.out / "data").symlink_to(elsewhere)
    before = contents(elsewhere)
    run_job(replace(job, seed=1, overwrite=True))
    assert contents(elsewhere) == before


@posix
def test_an_output_folder_that_is_a_link_is_the_user_s_choice(job: Job, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    job.out.symlink_to(tmp_path / "disk")
    run_job(replace(job, layout="webdataset"))
    assert run_job(replace(job, layout="webdataset", seed=1, overwrite=True)).drawn == 4


@pytest.mark.parametrize("text", [
    "[" * 100_000, '{"format": "hieramp-dataset", "versions": {"a": "\\ud800\\u001b[2J"}}',
    json.dumps({"format": "hieramp-dataset", "plan": "p" * 10**6, "versions": {str(n): None for n in range(10_000)}}),
])
def test_a_hostile_record_is_refused_in_one_short_line(text: str, job: Job) -> None:
    job.out.mkdir()
    (job.out / "dataset.json").write_text(text)
    with pytest.raises(OutputError) as raised:
        run_job(job)
    assert len(str(raised.value)) < 1200


def test_a_hostile_class_list_names_no_folder_outside(job: Job, elsewhere: Path) -> None:
    run_job(job)
    names = ["../elsewhere", str(elsewhere), "\ud800", "a\0", "x" * 1000, "..", 5, None, ["a"]]
    (job.out / "classes.json").write_text(json.dumps([{"folder": name} for name in names] + [3]))
    before = contents(elsewhere)
    assert run_job(replace(job, seed=1, overwrite=True)).drawn == 4
    assert contents(elsewhere) == before


def bomb() -> bytes:
    """A PNG of 9000 × 9000 pixels in few bytes."""
    stream = BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("data", [b"no picture", b"\x89PNG\r\n\x1a\n", bomb(), b"GIF89a" + bytes(100)])
def test_a_stored_picture_that_is_none_is_named(data: bytes, job: Job) -> None:
    run_job(job)
    (job.out / "ant" / "00000.png").write_bytes(data)
    (job.out / "README.md").unlink()
    with pytest.raises(OutputError, match="a stored picture is not as a run writes it") as raised:
        run_job(job)
    assert raised.value.exit_code == 1 and OutputError("").exit_code == 2  # it did not refuse: it had written


@pytest.mark.parametrize("kind", ["no tar", "empty", "sparse", "link", "gzip"])
def test_a_tar_that_lies_is_named(kind: str, job: Job) -> None:
    job = replace(job, layout="webdataset")
    run_job(job)
    path = job.out / "data-000000.tar"
    if kind in ("no tar", "gzip"):
        path.write_bytes(b"no tar" * 1000 if kind == "no tar" else b"\x1f\x8b" + bytes(1000))
    else:
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo("other.png" if kind == "empty" else "000000.png")
            if kind == "link":
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            member.size = 0 if kind != "sparse" else 1 << 45
            tar.addfile(member)
    (job.out / "README.md").unlink()
    with pytest.raises(OutputError, match=r"data-000000\.tar is not as a run writes it"):
        run_job(job)


def test_a_parquet_file_that_is_none_is_named(job: Job) -> None:
    pytest.importorskip("pyarrow")
    job = replace(job, layout="parquet")
    run_job(job)
    next((job.out / "data").iterdir()).write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    (job.out / "README.md").unlink()
    with pytest.raises(OutputError, match=r"train-00000-of-00001\.parquet is not as a run writes it"):
        run_job(job)


@pytest.mark.parametrize("data", [
    b"", npy_bytes(np.zeros((1, 4), np.float32)), npy_bytes(np.zeros((2, 4), np.float32))[:-1],
    npy_bytes(np.zeros((2, 4), np.float32)).replace(b"(2, 4), }      ", b"(2, 1099511627776"),
    npy_bytes(np.zeros((2, 4), np.float32)).replace(b"<f4", b"|O8"),
])
def test_soft_labels_that_are_others_are_refused_unread(data: bytes) -> None:
    assert from_npy(npy_bytes(np.full((2, 4), 3, np.float32)), (2, 4)).tolist() == [[3] * 4] * 2
    with pytest.raises(ValueError, match=r"no \.npy file of float32"):
        from_npy(data, (2, 4))


def zipped(**members: bytes) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


@pytest.mark.parametrize("data", [
    zipped(scale_00=bytes(100 << 20)), zipped(scale_00=npy_bytes(np.zeros((1, 1), np.float32)).replace(
        b"(1, 1), }            ", b"(1099511627776, 1), }")), zipped(**{f"scale_{k:02d}": b"" for k in range(65)}),
    zipped(scale_00=b"\x93NUMPY\x09\x00"),
    zipped(scale_00=npy_bytes(np.zeros((1, 1), np.float32)).replace(b"<f4", b"|O8")),
])
def test_tokens_that_claim_too_much_are_refused_unread(data: bytes, plan: Plan, tmp_path: Path) -> None:
    """A hundred megabytes of zeros are a hundred kilobytes in a zip."""
    (tmp_path / "a.npz").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(SettingsError, match=r"a\.npz is no \.npz file of tokens"):
        read_tokens(tmp_path / "a.npz", plan.manifest.model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20  # a read of at most 16 MiB reserves as much


def test_a_picture_to_edit_is_of_a_plain_format_and_size(plan: Plan, tmp_path: Path) -> None:
    for name, data in (("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), ("b.png", bomb())):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SettingsError, match="cannot read the picture"):
            read_edit(plan, save_tokens(plan, tmp_path), tmp_path / name)


def save_tokens(plan: Plan, folder: Path) -> Path:
    model = plan.manifest.model
    (folder / "tokens.npz").write_bytes(tokens_npz(np.zeros(model.token_count, np.int64), model.patch_sides))
    return folder / "tokens.npz"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"mean": [1e999, 0, 0], "std": [1, 1, 1], "std": [1, 1, 1]}',
                                  f'{{"mean": [{10**400}, 0, 0], "std": [1, 1, 1]}}', '{"mean": 0, "std": "abc"}'])
def test_damaged_metadata_of_a_teacher_is_one_line(text: str) -> None:
    with pytest.raises(TeacherError, match="damaged metadata") as raised:
        TeacherMetadata.from_json(text, Path("teacher.onnx"))
    assert len(str(raised.value)) < 300


def test_a_cache_that_no_memory_holds_is_one_line(plan: Plan) -> None:
    with OnnxRuntimeBackend.open(plan, threads=1) as backend, pytest.raises(RunError, match="smaller --batch-size"):
        backend.step_cache(1 << 40)


def write_graph(folder: Path, location: str) -> None:
    """A condition graph whose only weight lies in that file."""
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    output = helper.make_tensor_value_info("y", TensorProto.UINT8, ["n"])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [tensor])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    (folder / "condition.onnx").write_bytes(data)


@posix
@pytest.mark.parametrize("location", ["../elsewhere/canary", "/etc/passwd", "../../../../../../../../etc/passwd",
                                      "link", "linked/canary", "/dev/zero", "sub/../../elsewhere/canary"])
def test_a_graph_takes_no_weights_from_outside_the_plan(location: str, make_plan: MakePlan, elsewhere: Path,
                                                        edit_manifest: Callable[..., None]) -> None:
    """It is ONNX Runtime that refuses; this would fail with a version that does not."""
    folder = make_plan()
    (folder / "link").symlink_to(elsewhere / "canary")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "sub").mkdir()
    write_graph(folder, location)
    found = describe_member(folder / "condition.onnx")
    edit_manifest(folder, lambda values: values["members"].update(
        {"condition.onnx": {"bytes": found.bytes, "sha256": found.sha256}}))
    with pytest.raises(PlanError, match="ONNX Runtime cannot load"):
        OnnxRuntimeBackend.open(Plan.open(folder), threads=1)


def test_a_graph_takes_weights_from_inside_the_plan(make_plan: MakePlan) -> None:
    """The other test could not fail if no such graph loaded."""
    import onnxruntime

    folder = make_plan()
    write_graph(folder, "weights.safetensors")
    session = onnxruntime.InferenceSession(str(folder / "condition.onnx"), providers=["CPUExecutionProvider"])
    assert bytes(session.run(None, {})[0]) == (folder / "weights.safetensors").read_bytes()[:4]


def test_what_fails_in_a_graph_with_hostile_names_is_said_without_them(make_plan: MakePlan, tmp_path: Path,
                                                                       capfd: pytest.CaptureFixture[str],
                                                                       edit_manifest: Callable[..., None]) -> None:
    """Neither ONNX Runtime's own log nor the command's line passes an escape sequence on."""
    folder = make_plan()
    model = onnx.load(folder / "decoder.onnx")
    model.graph.node[-1].output[0] = "drawn"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1000, np.float32), "far"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    model.graph.node.extend([
        helper.make_node("ReduceMax", ["f_hat"], ["largest"], keepdims=0),
        helper.make_node("Max", ["largest", "far"], ["place"]),
        helper.make_node("Cast", ["place"], ["index"], to=TensorProto.INT64),
        helper.make_node("Expand", ["index", "one"], ["shape"]),
        helper.make_node("Reshape", ["f_hat", "shape"], ["beyond"], name="\x1b[2Jred"),
        helper.make_node("ReduceMax", ["beyond"], ["value"], keepdims=0),
        helper.make_node("Add", ["drawn", "value"], ["image"]),
    ])
    onnx.save(model, folder / "decoder.onnx")
    found = describe_member(folder / "decoder.onnx")
    edit_manifest(folder, lambda values: values["members"].update(
        {"decoder.onnx": {"bytes": found.bytes, "sha256": found.sha256}}))
    result = CliRunner().invoke(main, ["--engine", str(folder), "--out", str(tmp_path / "out"), "--ipc", "1"])
    assert result.exit_code == 1 and "\\x1b[2Jred" in result.stderr and result.stderr.count("ONNX Runtime failed") == 1
    assert "\x1b" not in result.output + "".join(capfd.readouterr())


def test_names_of_every_kind_are_drawn_as_text() -> None:
    stream = BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    names = ("<script>", "%s%n", "\u05d0\u05d1", "👩\u200d🔬", "x" * 200)
    files = [(ClassEntry(i, str(i), name), [BytesIO(stream.getvalue())]) for i, name in enumerate(names)]
    assert draw_contact_sheet(files).height > 5 * 64
