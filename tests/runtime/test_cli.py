"""hieramp-run from options to files, and every bad input: one line, exit code 2, nothing written."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hieramp.runtime import cli
from hieramp.runtime.cli import main
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.errors import HierampError
from hieramp.runtime.plan import Plan, shipped_plan

Run = Callable[..., Result]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(plan: Plan, out: Path) -> Run:
    """Runs the command on the tiny plan with one thread; later options win."""
    def invoke(*options: str | Path) -> Result:
        arguments = ["--engine", plan.folder, "--out", out, "--threads", "1", "--ipc", "2", *options]
        return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="hieramp-run")

    return invoke


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dataset_is_written_and_reported(run: Run, out: Path, plan: Plan) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert f"8 pictures of 4 classes in {out} (" in result.stdout and "images/s)" in result.stdout
    assert f"contact sheet: {out / 'contact_sheet.png'}" in result.stdout
    pictures = {f"{folder}/0000{i}.png" for folder in ("ant", "bee", "big_cat", "dog") for i in (0, 1)}
    assert set(files(out)) == pictures | {"classes.json", "dataset.json", "contact_sheet.png", "README.md"}
    with Image.open(out / "ant" / "00000.png") as picture:
        assert (picture.size, picture.mode) == ((8, 8), "RGB")
    assert json.loads((out / "classes.json").read_text())[2] == {
        "label": 2, "folder": "big_cat", "index": 2, "name": "big cat"}
    record = json.loads((out / "dataset.json").read_text())
    expected = {
        "format": "hieramp-dataset", "complete": True, "plan": "tiny", "plan_sha256": plan.digest, "seed": 0, "ipc": 2,
        "classes": [0, 1, 2, 3], "batch_size": 20, "image_side": 8, "provider": "cpu", "pictures": 8,
        "settings": {"cfg": [4] * 4, "beta": [0, 5, 5, 5], "rho": [0.5] * 4, "top_k": 6, "top_p": 0.95},
    }
    assert {key: record[key] for key in expected} == expected
    assert record["versions"]["numpy"] == np.__version__


def test_a_teacher_s_agreement_is_said_and_recorded(run: Run, out: Path, make_teacher: Callable[..., Path],
                                                    teacher_says: Callable[..., np.ndarray]) -> None:
    """By chance a quarter: the linear teacher knows nothing, hence the warning."""
    result = run("--teacher", make_teacher())
    assert result.exit_code == 0, result.output
    classes = ("ant", "bee", "big_cat", "dog")
    pictures = [np.asarray(Image.open(out / name / f"0000{i}.png")) for name in classes for i in (0, 1)]
    share = float(np.mean(teacher_says(np.stack(pictures), 4).argmax(1) == np.arange(8) // 2))
    assert f"soft labels: the teacher calls {share:.1%} of the pictures by their class\n" in result.stdout
    assert json.loads((out / "dataset.json").read_text())["teacher_agreement"] == pytest.approx(share)
    assert ("warning: the teacher calls" in result.stderr) == (share < 0.5)
    again = json.loads(run("--teacher", make_teacher(), "--json").stdout)
    assert again["drawn"] == 0 and again["teacher_agreement"] == pytest.approx(share)


@pytest.mark.parametrize(("classes", "message"), [
    (None, "has no list of its classes"),
    (("bee", "ant", "big cat", "dog"), "its class 0 is 'bee', that of the plan 'ant' (ant)"),
    (("ant", "bee", "cat", "dog"), "its class 2 is 'cat', that of the plan 'big_cat' (big cat)"),
    (("ant", "bee", "x", "dog", "y"), "knows class 'big_cat' (big cat) not at all among its 5"),
])
def test_a_teacher_of_other_classes_is_refused(classes: tuple[str, ...] | None, message: str, run: Run, out: Path,
                                               make_teacher: Callable[..., Path]) -> None:
    result = run("--teacher", make_teacher(classes, outputs=len(classes or "four")))
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and not out.exists()
    assert result.stderr.startswith("hieramp-run: error: teacher ") and message in result.stderr


def test_classes_without_a_teacher_are_refused(run: Run, out: Path) -> None:
    result = run("--teacher-classes", "names.txt")
    assert result.exit_code == 2 and "give --teacher as well" in result.stderr and not out.exists()


def test_json_is_a_line_a_batch_and_a_report(run: Run, out: Path) -> None:
    result = run("--json", "--classes", "bee,dog", "--batch-size", "3")
    *batches, report = map(json.loads, result.stdout.splitlines())
    assert result.stderr == report["backend_choice"] + "\nthreads: 1, as asked\n"
    assert [(event["event"], event["batch"], event["done"], event["total"]) for event in batches] == [
        ("batch", 0, 3, 4), ("batch", 1, 4, 4)]
    assert batches[-1]["seconds_left"] == 0 and batches[0]["images_per_second"] > 0
    assert report["event"] == "report" and report["drawn"] == 4
    assert (report["pictures"], report["classes"], report["out"]) == (4, 2, str(out))
    assert report["images_per_second"] > 0


def test_the_back_end_and_why_are_said_and_recorded(run: Run, out: Path) -> None:
    result = run("--json", "--provider", "cpu", "--threads", "1")
    sentence = "back end onnxruntime (cpu): the provider that was asked for"
    assert result.stderr == sentence + "\nthreads: 1, as asked\n"
    report, record = json.loads(result.stdout.splitlines()[-1]), json.loads((out / "dataset.json").read_text())
    for said in (report, record):
        assert (said["backend"], said["backend_choice"]) == ("onnxruntime", sentence)


def test_threads_are_the_cores_unless_asked_for(plan: Plan, out: Path) -> None:
    result = CliRunner().invoke(main, ["--engine", str(plan.folder), "--out", str(out), "--ipc", "1"])
    assert f"\nthreads: {usable_cores()}, the physical cores that this process may use" in result.stderr


@pytest.mark.parametrize(("threads", "batch", "said"), [
    ("2", "4", "; 2 parts of a batch are drawn at a time"), ("3", "2", "; 2 parts of a batch are drawn at a time"),
    ("2", "1", ""), ("1", "4", ""),
])
def test_parts_of_a_batch_at_a_time_are_said(plan: Plan, out: Path, threads: str, batch: str, said: str) -> None:
    result = CliRunner().invoke(main, ["--engine", str(plan.folder), "--out", str(out), "--ipc", "1",
                                       "--threads", threads, "--batch-size", batch])
    assert f"\nthreads: {threads}, as asked{said}\n" in result.stderr


def test_the_reason_alone_makes_no_other_dataset(run: Run, out: Path) -> None:
    assert run("--backend", "onnxruntime", "--provider", "cpu").exit_code == 0
    (out / "ant" / "00000.png").unlink()
    again = run("--backend", "onnxruntime")
    assert again.exit_code == 0, again.output
    assert "which needs no GPU" in json.loads((out / "dataset.json").read_text())["backend_choice"]


def test_pictures_do_not_depend_on_order_or_company(run: Run, tmp_path: Path) -> None:
    options = ("--batch-size", "3", "--seed", "7")
    run(*options, "--out", tmp_path / "a", "--classes", "dog,ant,bee", "--ipc", "3")
    run(*options, "--out", tmp_path / "b", "--classes", "2-3")
    both = [files(tmp_path / name) for name in "ab"]
    assert both[0]["dog/00000.png"] == both[1]["dog/00000.png"]
    assert both[0]["dog/00001.png"] == both[1]["dog/00001.png"]
    assert both[0]["dog/00000.png"] != both[0]["dog/00001.png"]
    run(*options, "--out", tmp_path / "c", "--classes", "bee,ant,dog", "--ipc", "3")
    assert files(tmp_path / "c") == both[0]


def test_options_reach_the_settings(run: Run, out: Path) -> None:
    result = run("--cfg", "1,2,3,4", "--beta", "1,2,3", "--rho", "0.25", "--top-k", "3", "--top-p", "0.5",
                 "--save-size", "16", "--batch-size", "2", "--seed", "9")
    assert result.exit_code == 0, result.output
    record = json.loads((out / "dataset.json").read_text())
    expected = {"cfg": [1, 2, 3, 4], "beta": [0, 1, 2, 3], "rho": [0.25] * 4, "top_k": 3, "top_p": 0.5}
    assert record["settings"] == expected
    assert (record["seed"], record["batch_size"], record["image_side"]) == (9, 2, 16)
    with Image.open(out / "dog" / "00001.png") as picture:
        assert picture.size == (16, 16)
    assert json.loads((out / "classes.json").read_text())[3]["folder"] == "dog"


def test_no_amplify_turns_every_beta_off(run: Run, out: Path) -> None:
    assert run("--no-amplify").exit_code == 0
    assert json.loads((out / "dataset.json").read_text())["settings"]["beta"] == [0, 0, 0, 0]


def assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("hieramp-run: error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.parametrize(("options", "message"), [
    (["--engine", "/no/such.plan"], "no plan folder at /no/such.plan"),
    (["--plan", "/no/such.plan"], "no plan folder at /no/such.plan"),
    (["--classes", "ant,bea"], "class 'bea' does not exist; did you mean 'bee'"),
    (["--classes", "9,"], "class 9 does not exist"),
    (["--ipc", "0"], "Invalid value for '--ipc': 0 is not in the range"),
    (["--ipc", "many"], "'many' is not a valid integer"),
    (["--seed", "-1"], "Invalid value for '--seed'"),
    (["--batch-size", "0"], "Invalid value for '--batch-size'"),
    (["--provider", "abacus"], "'abacus' is not one of 'cpu'"),
    (["--provider", "tensorrt"], "provider 'tensorrt' is not available here"),
    (["--backend", "abacus"], "'abacus' is not one of 'auto', 'tensorrt', 'tensorrt_rtx', 'onnxruntime'"),
    (["--backend", "tensorrt", "--provider", "cpu"], "contradicts backend 'tensorrt'"),
    (["--cfg", "1,x"], "Invalid value for '--cfg': '1,x' is not a number"),
    (["--cfg", "1,2"], "cfg takes one value, three (coarse, middle, fine) or 4 (one a scale), got 2: 1,2"),
    (["--cfg", "nan"], "cfg must be finite, got nan"),
    (["--beta", "1,1,1,1"], "beta must be 0 at scale 0"),
    (["--beta", "5", "--no-amplify"], "contradicts --no-amplify"),
    (["--rho", "2"], "rho must lie in (0, 1], got 2"),
    (["--top-p", "0"], "top_p must lie in (0, 1], got 0"),
    (["--top-k", "99"], "top_k must be from 1 to 8"),
    (["--save-size", "0"], "Invalid value for '--save-size'"),
    (["--colour"], "No such option"),
    (["stray"], "unexpected extra argument"),
    (["--out", "/dev/null/x"], "cannot write to /dev/null/x: /dev/null is not a folder"),
    (["--out", "/proc/hieramp"], "cannot write to /proc/hieramp"),
])
def test_bad_input_is_one_line_and_leaves_nothing(run: Run, tmp_path: Path, options: list[str], message: str) -> None:
    if options[-1].startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    assert_refused(run(*options), message)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def broken(plan: Plan, tmp_path: Path) -> Path:
    """A copy of the tiny plan, to be damaged."""
    return Path(shutil.copytree(plan.folder, tmp_path / "broken.plan"))


def test_a_changed_byte_is_refused(run: Run, broken: Path, out: Path) -> None:
    data = bytearray((broken / "decoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (broken / "decoder.onnx").write_bytes(data)
    assert_refused(run("--engine", broken), "decoder.onnx has changed since the export")
    assert not out.exists()


def test_a_newer_schema_is_refused(run: Run, broken: Path, out: Path,
                                   edit_manifest: Callable[..., None]) -> None:
    edit_manifest(broken, lambda values: values.update(schema_version=3))
    assert_refused(run("--engine", broken), "schema_version is 3, newer than the 2 this hieramp reads; upgrade")
    assert not out.exists()


def test_an_error_of_the_system_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "out/dog/00000.png")

    monkeypatch.setattr(cli, "run_job", fail)
    assert_refused(run(), "No space left on device: out/dog/00000.png")


def test_a_message_of_several_lines_is_joined(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise HierampError("ONNX Runtime failed:\n  at node 3\n")

    monkeypatch.setattr(cli, "run_job", fail)
    assert_refused(run(), "ONNX Runtime failed: at node 3")


def test_an_interrupt_is_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_job", interrupt)
    result = run()
    assert (result.exit_code, result.stderr.strip()) == (130, "hieramp-run: interrupted")


def test_a_folder_of_something_else_is_left_alone(run: Run, out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for options in ([], ["--overwrite"]):
        assert_refused(run(*options), "is not empty and holds no dataset of this tool")
    assert files(out) == {"thesis.txt": b"years of work"}


def test_the_same_dataset_is_written_again(run: Run, out: Path) -> None:
    run()
    before = files(out)
    (out / "ant" / "00000.png").unlink()
    assert run().exit_code == 0
    assert files(out) == before


def test_another_dataset_is_replaced_only_when_told(run: Run, out: Path) -> None:
    run("--ipc", "3")
    (out / "ant" / "notes.txt").write_text("mine")
    before = files(out)
    assert_refused(run("--classes", "ant,dog", "--seed", "1"),
                   "holds a dataset made with --seed 0 (now 1) and --ipc 3 (now 2) "
                   "and --classes 0,1,2,3 (now 0,3); replace it with --overwrite, or choose another --out")
    assert files(out) == before
    assert run("--classes", "ant,dog", "--seed", "1", "--overwrite").exit_code == 0
    after = set(files(out)) - {"classes.json", "dataset.json", "contact_sheet.png", "README.md"}
    assert after == {"ant/00000.png", "ant/00001.png", "ant/notes.txt", "dog/00000.png", "dog/00001.png"}
    assert not (out / "bee").exists()


def test_overwriting_never_leaves_the_folder(run: Run, out: Path, tmp_path: Path) -> None:
    run()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "00000.png").write_bytes(b"precious")
    (out / "classes.json").write_text(json.dumps([{"folder": "../elsewhere"}, {"folder": ".."}, {"folder": 3}, 4]))
    assert run("--seed", "1", "--overwrite").exit_code == 0
    assert (tmp_path / "elsewhere" / "00000.png").read_bytes() == b"precious"


def test_an_interrupted_dataset_says_it_is_not_complete(run: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("hieramp.runtime.making.draw_contact_sheet", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run().exit_code == 130
    assert json.loads((out / "dataset.json").read_text())["complete"] is False
    assert run().exit_code == 0
    assert json.loads((out / "dataset.json").read_text())["complete"] is True


def test_help_shows_the_class_language() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for words in ("the first hundred classes", "3,17,40-49", "golden retriever", "n02102040", "imagewoof", "@FILE"):
        assert words in text


def test_the_shipped_plan_is_package_data() -> None:
    pytest.importorskip("hieramp.engines")
    assert shipped_plan().name == "var_cifar10.plan"


def test_the_command_loads_nothing_heavy() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "matplotlib", "scipy", "hieramp_ref", "hieramp.export"}
    code = f"import sys, hieramp.runtime, hieramp.runtime.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
