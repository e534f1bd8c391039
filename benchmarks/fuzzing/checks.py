"""What the runtime must do with a hostile case: refuse it with a HierampError, or take it and stay within bounds."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from click.testing import CliRunner
from fuzzing.place import Place
from fuzzing.plan import CONSTANTS, MODEL, drawn_by_stand_in

from hieramp.runtime.bounds import NAME_LENGTH, PICTURE_BYTES, picture_bytes
from hieramp.runtime.catalogue import Catalogue, ClassEntry, folder_names
from hieramp.runtime.class_spec import select_classes
from hieramp.runtime.cli import main as run_command
from hieramp.runtime.contact_sheet import draw_contact_sheet
from hieramp.runtime.contract import WEIGHTS
from hieramp.runtime.edit_files import read_tokens
from hieramp.runtime.errors import OutputError
from hieramp.runtime.job import Job
from hieramp.runtime.manifest import manifest_json, parse_manifest
from hieramp.runtime.manifest_rules import is_plain_name
from hieramp.runtime.plan import Plan
from hieramp.runtime.recipe import resolve_recipe
from hieramp.runtime.run_job import run_job
from hieramp.runtime.scales import load_scale_constants
from hieramp.runtime.schedule import Overrides
from hieramp.runtime.soft_labels import from_npy
from hieramp.runtime.teacher import TeacherMetadata
from hieramp.runtime.tensorrt.limits import limits_of
from hieramp.runtime.tensorrt.sidecar import check_sidecar, read_sidecar, sidecar_path
from hieramp.runtime.verified import read_verdicts
from hieramp.runtime.writers.layouts import LAYOUTS

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
ENGINE = b"engine"


def check_manifest(place: Place, text: str) -> None:
    """A manifest that is taken is written and read as the same, and all that follows from it is small and safe."""
    manifest = parse_manifest(text)
    assert parse_manifest(manifest_json(manifest)) == manifest
    assert picture_bytes(manifest.model) <= PICTURE_BYTES
    recipe, classes = resolve_recipe(Plan(place.plan, manifest, "0"))
    assert recipe.batch_size <= 20 and len(classes) == manifest.model.num_classes
    _check_folders([entry.folder for entry in classes])
    assert all(is_plain_name(name) for name in manifest.members)


def check_plan(place: Place, case: tuple[bytes, list[tuple[str, str]]]) -> None:
    """A folder whose manifest and members are anything: what opens has nothing but files of its own."""
    manifest, changes = case
    folder = place.scratch / "hostile.plan"
    folder.mkdir()
    for path in place.plan.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "manifest.json").write_bytes(manifest)
    for name, change in changes:
        _plant(folder / name, change, place)
    plan = Plan.open(folder)
    for name in plan.manifest.members:
        assert plan.path(name).resolve().parent == folder.resolve()
    load_scale_constants(plan)


def check_sidecar_file(place: Place, data: bytes) -> None:
    """A sidecar is refused, or its limits can be told."""
    engine = place.scratch / "scale_step.engine"
    engine.write_bytes(ENGINE)
    sidecar_path(engine).write_bytes(data)
    limits_of([read_sidecar(engine)]).check(1, 1)
    plan = _plan(place.plan)
    check_sidecar(engine, flavour="tensorrt_rtx", version="1.7.1", compute_capability="89", plan=plan)


def check_classes(place: Place, case: tuple[list[str], str | bytes]) -> None:
    """Words of a user, or a file of them, among classes of any names."""
    names, spec = case
    names = [name[:NAME_LENGTH] for name in names]
    if isinstance(spec, bytes):
        (place.scratch / "classes.txt").write_bytes(spec)
        spec = f"@{place.scratch / 'classes.txt'}"
    entries = tuple(ClassEntry(i, folder, name) for i, (folder, name) in
                    enumerate(zip(folder_names(tuple(names)), names, strict=True)))
    _check_folders([entry.folder for entry in entries])
    chosen = select_classes(spec, Catalogue("names", entries, {}))
    assert chosen and len(set(chosen)) == len(chosen)


def check_weights(place: Place, data: bytes) -> None:
    """Constants have the shapes of the model, or are refused."""
    folder = place.scratch / "weights.plan"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(data)
    constants = load_scale_constants(Plan(folder, _plan(place.plan).manifest, "0"))
    assert constants[1].upsample_Nl.shape == CONSTANTS["scale.01.upsample"]


def check_settings(place: Place, overrides: Overrides) -> None:
    """Settings are refused, or fit the plan."""
    recipe, _ = resolve_recipe(_plan(place.plan), overrides=overrides)
    settings = recipe.settings
    assert 0 < settings.top_p <= 1 and 1 <= settings.top_k <= 8
    assert all(abs(value) < float("inf") for value in (*settings.cfg, *settings.beta)) and settings.controls(1, 4)


def check_memory(place: Place, data: bytes) -> None:
    """A damaged memory is an empty one, or texts by texts."""
    (place.scratch / "verified.json").write_bytes(data)
    verdicts = read_verdicts(place.scratch / "verified.json")
    assert all(isinstance(text, str) for pair in verdicts.items() for text in pair)


def check_teacher(place: Place, text: str) -> None:
    """What a teacher says of its input is refused, or three finite numbers twice and perhaps names."""
    metadata = TeacherMetadata.from_json(text, place.scratch / "teacher.onnx")
    assert len(metadata.mean) == len(metadata.std) == 3 and all(map(isfinite, metadata.std))


def check_soft_labels(place: Place, data: bytes) -> None:
    """A file of soft labels has the shape that the dataset gives it; writers name the file of a ValueError."""
    try:
        logits_bV = from_npy(data, (2, 3))
    except ValueError as error:
        raise OutputError(str(error)) from None
    assert logits_bV.shape == (2, 3)


def check_tokens(place: Place, data: bytes) -> None:
    """A file of tokens to edit has those of the model's scales."""
    (place.scratch / "tokens.npz").write_bytes(data)
    assert len(read_tokens(place.scratch / "tokens.npz", MODEL)) == MODEL.token_count


def check_picture(place: Place, data: bytes) -> None:
    """A stored picture that is none ends the contact sheet with one line."""
    sheet = draw_contact_sheet([(ClassEntry(0, "ant", "ant"), [BytesIO(data)])])
    assert sheet.width < 10_000


def check_names(place: Place, case: tuple[list[str], str]) -> None:
    """Classes of any names in every layout: written whole, each into a folder of its own, and found complete."""
    names, layout = case
    changes = {"classes": {"scheme": "names", "names": names},
               "model": place.manifest["model"] | {"num_classes": len(names)}}
    folder = place.scratch / "names.plan"
    folder.mkdir()
    for path in place.plan.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "manifest.json").write_text(json.dumps(place.manifest | changes))
    job = Job(place.out, folder, ipc=1, batch_size=2, layout=layout, verify=True)
    with drawn_by_stand_in():
        assert run_job(job).drawn == len(names)
        assert run_job(job).drawn == 0
    written = [entry["folder"] for entry in json.loads((place.out / "classes.json").read_text())]
    _check_folders(written)
    if LAYOUTS[layout].by_class:
        assert len({path.parent.name for path in place.out.glob("*/*.png")}) == len(names)


def check_folder(place: Place, case: tuple[str, dict[str, str | bytes], bool]) -> None:
    """A dataset that others have tampered with is continued, replaced or refused, and nothing beside it is touched."""
    layout, changes, overwrite = case
    for name, data in dataset_files(place.plan, layout).items():
        (place.out / name).parent.mkdir(parents=True, exist_ok=True)
        (place.out / name).write_bytes(data)
    for name in sorted(changes, key=lambda name: -name.count("/")):  # never through a link that was planted before
        _plant(place.out / name, changes[name], place)
    with drawn_by_stand_in():
        run_job(_job(place, layout, overwrite))


def check_command(place: Place, case: tuple[bytes, str | None, bool]) -> None:
    """The command answers with one line that no terminal obeys, and exit code 0, 1 or 2."""
    manifest, classes, as_json = case
    folder = place.scratch / "hostile.plan"
    folder.mkdir()
    for path in place.plan.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "manifest.json").write_bytes(manifest)
    words = ["--engine", str(folder), "--out", str(place.out), "--ipc", "1", "--verify",
             *(["--json"] if as_json else []), *([] if classes is None else [f"--classes={classes}"])]
    with drawn_by_stand_in(), mock.patch("hieramp.runtime.workplace.survey", _no_survey):
        result = CliRunner().invoke(run_command, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2), result.exit_code
    assert not CONTROL.search(result.output), repr(result.output)
    assert result.exit_code != 2 or (result.stderr.count("\n") == 1 and len(result.stderr) < 5000)


def check_graph(place: Place, case: tuple[str, int, int]) -> None:
    """A graph whose weights lie in another file loads only where that file is in the plan's folder."""
    from onnxruntime import InferenceSession

    location, offset, length = case
    folder = place.scratch / "graph.plan"
    (folder / "sub").mkdir(parents=True)
    (folder / "inside").write_bytes(b"inside!!")
    for name, target in (("link", place.elsewhere / "canary"), ("sub/up", place.elsewhere)):
        (folder / name).symlink_to(target)
    (folder / "condition.onnx").write_bytes(_graph(location, offset, length))
    from hieramp.runtime.graphs import load_graph
    from hieramp.runtime.providers import find_provider

    session: InferenceSession = load_graph(folder / "condition.onnx", find_provider("cpu"), 1, "f32")
    assert bytes(session.run(None, {})[0]) in b"inside!!"


def _graph(location: str, offset: int, length: int) -> bytes:
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[max(0, min(length, 1 << 40))],
                         data_location=TensorProto.EXTERNAL)
    where = {"location": location.encode(errors="replace"), "offset": str(offset), "length": str(length)}
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)
    output = helper.make_tensor_value_info("y", TensorProto.UINT8, ["n"])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def _no_survey(plan: Plan) -> Any:
    from hieramp.runtime.backend_choice import Surroundings

    return Surroundings(providers=("cpu",))


def _check_folders(folders: Sequence[str]) -> None:
    assert len({folder.casefold() for folder in folders}) == len(folders), folders
    assert all(is_plain_name(folder) and not CONTROL.search(folder) for folder in folders), folders
    assert all(len(folder.encode()) <= 255 and folder[0] != "." for folder in folders), folders


@cache
def _plan(folder: Path) -> Plan:
    return Plan.open(folder)


def _job(place: Place, layout: str, overwrite: bool = False) -> Job:
    return Job(place.out, place.plan, ipc=1, batch_size=2, layout=layout, overwrite=overwrite, verify=True)


@cache
def dataset_files(plan: Path, layout: str) -> dict[str, bytes]:
    """The files of a whole dataset."""
    with TemporaryDirectory() as folder, drawn_by_stand_in():
        out = Path(folder) / "out"
        run_job(Job(out, plan, ipc=1, batch_size=2, layout=layout, verify=True))
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def _plant(path: Path, change: str | bytes, place: Place) -> None:
    """Put bytes, or something that is no file, in a place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if not path.parent.is_dir():
        path.parent.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(change, bytes):
        path.write_bytes(change)
    elif change == "pipe":
        os.mkfifo(path)
    elif change == "folder":
        path.mkdir()
    elif change == "hard link":
        path.hardlink_to(place.elsewhere / "canary")
    elif change != "gone":
        path.symlink_to({"link": place.elsewhere / "canary", "link to folder": place.elsewhere, "loop": path,
                         "dangling": place.elsewhere / "new", "zeros": Path("/dev/zero")}[change])
