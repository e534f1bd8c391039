"""A model whose float16 plan overflows for one class at one scale: named, drawn again by the fp32 plan, or stopped."""

import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hieramp.export import latent_graph, operators
from hieramp.export.gate import with_whole_step
from hieramp.export.model_source import LoadedModel
from hieramp.runtime import (
    GeneratedDataset,
    NotFiniteError,
    OnnxRuntimeBackend,
    OutputError,
    Plan,
    ProviderError,
    Record,
    RunError,
    SettingsError,
    Shard,
    dataset,
    generate,
)
from hieramp.runtime.backend_choice import Choice, Needs
from hieramp.runtime.cli import main
from hieramp.runtime.contract import MANIFEST
from hieramp.runtime.distributed.pool import told_by
from hieramp.runtime.job import Job
from hieramp.runtime.manifest import manifest_json
from hieramp.runtime.run_job import run_job
from hieramp.runtime.workplace import safer_choice
from hieramp.runtime.writers.picture_folder import FolderSink

Models = Callable[..., LoadedModel]
Export = Callable[..., Plan]
BAD_CLASS, BAD_SCALE = 3, 2
OPTIONS: dict[str, Any] = {"ipc": 2, "batch_size": 4, "threads": 1}


def overflowing(model: LoadedModel) -> LoadedModel:
    """A gain of 20,000 on one channel for one class; layer norm gives that channel about 5.5 at one scale alone.

    Their product is beyond float16, within a float32 that nothing in the model notices.
    """
    var, width = model.var, model.var.spec.var.width
    with torch.no_grad():
        var.class_emb.weight[:, 0] = 0
        var.class_emb.weight[BAD_CLASS, 0] = 200
        var.blocks[0].ada_lin[1].weight[2 * width + 1] = 0
        var.blocks[0].ada_lin[1].weight[2 * width + 1, 0] = 100
        var.lvl_embed.weight[BAD_SCALE, 1] = 200
    return model


@pytest.fixture(scope="module")
def plans(make_model: Models, export: Export, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Plan]:
    """The fp16 plan and the fp32 one; not to be changed."""
    model, folder = overflowing(make_model()), tmp_path_factory.mktemp("overflowing")
    fp16, fp32 = (export(model, folder / f"{precision}.plan", precision=precision) for precision in ("fp16", "fp32"))
    return fp16, fp32


def job(plan: Plan, out: Path, **options: Any) -> Job:
    return Job(out, plan.folder, **OPTIONS | options)


def pictures(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("class*/*.png"))}


def test_the_picture_is_stopped_and_named_and_the_others_are_written(plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    """Pictures 4 to 7 are the second batch: two of class 2, then two of class 3. The third batch is not begun."""
    with pytest.raises(NotFiniteError) as error:
        run_job(job(plans[0], tmp_path))
    assert str(error.value).startswith(
        "picture 0 of class 3 'class 3' (seed 0) is not finite: NaN or infinity in the logits of scale 2, precision "
        "fp16; so is 1 more of its batch; with --safer-plan PLAN")
    assert error.value.exit_code == 1
    assert list(pictures(tmp_path)) == [f"class_{label}/{index:05d}.png" for label in range(3) for index in range(2)]
    assert json.loads((tmp_path / "dataset.json").read_text())["complete"] is False


def test_the_safer_plan_draws_what_it_would_draw_in_a_run_of_its_own(plans: tuple[Plan, Plan], tmp_path: Path,
                                                                     caplog: pytest.LogCaptureFixture) -> None:
    fp16, fp32 = plans
    report = run_job(job(fp16, tmp_path / "both", safer_plan=fp32.folder))
    run_job(job(fp32, tmp_path / "safe"))
    run_job(job(fp16, tmp_path / "rest", classes="0-2,4", batch_size=2))
    both, safe, rest = (pictures(tmp_path / name) for name in ("both", "safe", "rest"))
    assert report.redrawn == 2 and len(both) == 10
    for name, picture in both.items():
        assert picture == (safe if name.startswith("class_3") else rest)[name], name
    assert both != safe  # float16 and float32 draw other pictures of the other classes
    lines = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2 and lines[1].endswith("precision fp16; drawn again by tiny, precision fp32")


def test_the_record_and_the_card_list_what_was_drawn_again(plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    fp16, fp32 = plans
    run_job(job(fp16, tmp_path, safer_plan=fp32.folder))
    listed = json.loads((tmp_path / "dataset.json").read_text())["redrawn"]
    assert [(one["number"], one["class_index"], one["index"]) for one in listed] == [(6, 3, 0), (7, 3, 1)]
    assert listed[0] == {
        "number": 6, "class_index": 3, "index": 0, "place": "logits", "scale": 2, "precision": "fp16",
        "safer_plan": "tiny", "safer_plan_sha256": fp32.digest, "safer_precision": "fp32",
        "safer_backend": "onnxruntime (cpu)"}
    card = (tmp_path / "README.md").read_text()
    assert f"| class 3 | 1 | fp16 | `tiny` | fp32 | `{fp32.digest}` |" in card
    run_job(job(fp32, tmp_path / "safe"))
    assert "redrawn" not in json.loads((tmp_path / "safe/dataset.json").read_text())
    assert "safer" not in (tmp_path / "safe/README.md").read_text()


@pytest.mark.parametrize("layout", ["folder", "webdataset", "parquet", "rded"])
def test_a_stopped_run_goes_on_with_a_safer_plan(plans: tuple[Plan, Plan], tmp_path: Path, layout: str) -> None:
    """What is there stays as it is, and the dataset ends as one that had the safer plan from the start."""
    fp16, fp32 = plans
    whole, part = (job(fp16, tmp_path / name, layout=layout, shard_size=4) for name in ("whole", "part"))
    run_job(replace(whole, safer_plan=fp32.folder))
    with pytest.raises(NotFiniteError):
        run_job(part)
    before = times(part.out)
    with pytest.raises(NotFiniteError):
        run_job(part)  # tried again, and in vain
    assert times(part.out) == before
    report = run_job(replace(part, safer_plan=fp32.folder))
    assert report.redrawn == 2 and before.items() <= times(part.out).items()
    assert contents(part.out) == contents(whole.out)
    again = run_job(part)  # complete: no plan is needed to leave it alone
    assert (again.drawn, again.redrawn) == (0, 2)


def times(out: Path) -> dict[Path, int]:
    """When every picture, tar or Parquet file was written."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".png", ".tar", ".parquet")}


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*"))
            if path.is_file() and not path.name.startswith(".")}


def test_shards_together_list_what_was_drawn_again(plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    fp16, fp32 = plans
    whole, union = (job(fp16, tmp_path / name, safer_plan=fp32.folder) for name in ("whole", "union"))
    run_job(whole)
    reports = [run_job(replace(union, shard=Shard(index, 2))) for index in range(2)]
    assert [report.redrawn for report in reports] == [0, 2]
    assert run_job(union).redrawn == 2
    assert contents(union.out) == contents(whole.out)


def test_a_run_killed_after_a_second_try_still_lists_it(plans: tuple[Plan, Plan], tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """The record names a picture before the picture is there, and forgets it where the plan itself can draw it."""
    fp16, fp32 = plans

    def kill(self: FolderSink) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killing, pytest.raises(KeyboardInterrupt):
        killing.setattr(FolderSink, "commit", kill)
        run_job(job(fp16, tmp_path, classes="3,", safer_plan=fp32.folder))
    record = json.loads((tmp_path / "dataset.json").read_text())
    assert len(record["redrawn"]) == 2 and not pictures(tmp_path)
    record["redrawn"].append(record["redrawn"][0] | {"number": 0, "index": 0, "scale": 1})
    (tmp_path / "dataset.json").write_text(json.dumps(record))
    run_job(job(fp16, tmp_path, classes="3,", safer_plan=fp32.folder))
    listed = json.loads((tmp_path / "dataset.json").read_text())["redrawn"]
    assert [(one["number"], one["scale"]) for one in listed] == [(0, 2), (1, 2)]


def test_a_picture_that_the_plan_can_draw_is_no_longer_listed(plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    fp16, fp32 = plans
    run_job(job(fp16, tmp_path, safer_plan=fp32.folder))
    record = json.loads((tmp_path / "dataset.json").read_text())
    record["redrawn"].append(record["redrawn"][0] | {"number": 0, "class_index": 0})
    (tmp_path / "dataset.json").write_text(json.dumps(record))
    (tmp_path / "class_0/00000.png").unlink()
    assert run_job(job(fp16, tmp_path, safer_plan=fp32.folder)).redrawn == 2


def test_what_is_there_stays_and_so_does_its_entry(plans: tuple[Plan, Plan], make_model: Models, export: Export,
                                                   tmp_path: Path) -> None:
    """Of a batch that is drawn again by another safer plan only the picture that was lost is from that one."""
    fp16, fp32 = plans
    other = export(overflowing(make_model()), tmp_path / "other.plan", trace_outputs=True)
    run_job(job(fp16, tmp_path / "out", safer_plan=fp32.folder))
    (tmp_path / "out/class_3/00001.png").unlink()
    run_job(job(fp16, tmp_path / "out", safer_plan=other.folder))
    listed = json.loads((tmp_path / "out/dataset.json").read_text())["redrawn"]
    assert [one["safer_plan_sha256"] for one in listed] == [fp32.digest, other.digest]


def test_a_picture_that_lost_its_tokens_is_of_one_safer_plan(plans: tuple[Plan, Plan], make_model: Models,
                                                             export: Export, tmp_path: Path) -> None:
    """As after a kill between the two names: the picture is not left beside tokens that another plan drew."""
    fp16, fp32 = plans
    other = export(overflowing(make_model()), tmp_path / "other.plan", trace_outputs=True)
    run_job(job(fp16, tmp_path / "out", safer_plan=fp32.folder, save_tokens=True))
    there, lost = (tmp_path / f"out/class_3/{index:05d}.png" for index in range(2))
    drawn, since = lost.read_bytes(), there.stat().st_mtime_ns
    lost.write_bytes(b"of the first")
    lost.with_suffix(".npz").unlink()
    run_job(job(fp16, tmp_path / "out", safer_plan=other.folder, save_tokens=True))
    assert lost.read_bytes() == drawn and lost.with_suffix(".npz").exists() and there.stat().st_mtime_ns == since
    listed = json.loads((tmp_path / "out/dataset.json").read_text())["redrawn"]
    assert [one["safer_plan_sha256"] for one in listed] == [fp32.digest, other.digest]


def test_more_pictures_than_a_record_may_list_stop_the_run(plans: tuple[Plan, Plan], tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written stays readable: nothing is written that the record does not name."""
    fp16, fp32 = plans
    run_job(job(fp16, tmp_path, classes="0,"))
    before = (tmp_path / "dataset.json").stat().st_size
    monkeypatch.setattr(dataset, "RECORD_BYTES", before + 600)  # of about 300 bytes a picture
    with pytest.raises(RunError, match=r"2 pictures needed the safer plan, more than dataset\.json may") as error:
        run_job(job(fp16, tmp_path / "all", safer_plan=fp32.folder))
    assert error.value.exit_code == 1
    assert "redrawn" not in json.loads((tmp_path / "all/dataset.json").read_text())
    assert list(pictures(tmp_path / "all")) == [f"class_{label}/{i:05d}.png" for label in range(2) for i in range(2)]


def test_a_record_that_was_damaged_is_named(plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    run_job(job(plans[0], tmp_path, classes="0,"))
    record = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(record | {"redrawn": [{"number": "six"}]}))
    with pytest.raises(OutputError, match=r"dataset.json is damaged \(redrawn\[0\]"):
        run_job(job(plans[0], tmp_path, classes="0,"))


def test_a_second_fault_stops_the_picture_and_names_both(plans: tuple[Plan, Plan], make_model: Models, export: Export,
                                                         tmp_path: Path) -> None:
    """A gain beyond float32 as well: bf16 and fp32 reach no further."""
    model = overflowing(make_model())
    with torch.no_grad():
        model.var.blocks[0].ada_lin[1].weight[2 * model.var.spec.var.width + 1, 0] = 3e36
    fp32 = export(model, tmp_path / "worse.plan")
    with pytest.raises(NotFiniteError, match=r"scale 2, precision fp16, and again in the logits of scale \d, precision "
                                             r"fp32; so is 1 more of its batch; try smaller --cfg and --beta"):
        run_job(job(plans[0], tmp_path / "out", safer_plan=fp32.folder))
    assert len(pictures(tmp_path / "out")) == 6


def test_the_command_says_it_on_one_line_and_in_events(plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    fp16, fp32 = plans
    words = ["--engine", str(fp16.folder), "--out", str(tmp_path), "--ipc", "2", "--batch-size", "4", "--threads", "1",
             "--json"]
    stopped = CliRunner().invoke(main, words)
    assert stopped.exit_code == 1
    choice, threads, error = stopped.stderr.splitlines()
    assert choice.startswith("back end") and threads == "threads: 1, as asked"
    assert error.startswith("hieramp-run: error: picture 0 of class 3 'class 3'")
    drawn = CliRunner().invoke(main, [*words, "--safer-plan", str(fp32.folder)])
    assert drawn.exit_code == 0, drawn.stderr
    events = [json.loads(line) for line in drawn.stdout.splitlines()]
    assert [(event["event"], event["redrawn"]) for event in events] == [("batch", 2), ("batch", 2), ("report", 2)]
    assert [[(one["class_index"], one["scale"]) for one in event["again"]] for event in events[:2]] == [
        [(3, 2), (3, 2)], []]


def test_from_python(plans: tuple[Plan, Plan]) -> None:
    fp16, fp32 = plans
    drawn: list[Record] = []
    with pytest.raises(NotFiniteError, match="logits of scale 2, precision fp16"):
        for record in generate(fp16, **OPTIONS):
            drawn.append(record)
    assert [record.number for record in drawn] == [0, 1, 2, 3, 4, 5]
    safe = list(generate(fp32, **OPTIONS))
    both = list(generate(fp16, safer_plan=fp32.folder, **OPTIONS))
    assert [record.number for record in both if record.redrawn] == [6, 7]
    for number in (6, 7):
        np.testing.assert_array_equal(both[number].image_SS3, safe[number].image_SS3)
        np.testing.assert_array_equal(both[number].tokens_L, safe[number].tokens_L)


def test_positions_of_a_dataset(plans: tuple[Plan, Plan]) -> None:
    fp16, fp32 = plans
    with GeneratedDataset[Record](fp16, **OPTIONS) as dataset:
        for position in (4, 6, 5, 7):
            if position > 5:
                with pytest.raises(NotFiniteError, match="picture 0 of class 3"):
                    dataset[position]
            else:
                assert dataset[position].number == position
    with GeneratedDataset[Record](fp16, safer_plan=fp32.folder, **OPTIONS) as dataset:
        assert [bool(dataset[position].redrawn) for position in (4, 5, 6, 7, 8)] == [False, False, True, True, False]


def test_the_safer_plan_is_loaded_only_when_it_is_needed(plans: tuple[Plan, Plan], tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    fp16, fp32 = plans
    opened: list[str] = []
    start = OnnxRuntimeBackend.open

    def note(plan: Plan, *arguments: Any) -> OnnxRuntimeBackend:
        opened.append(plan.manifest.precision)
        return start(plan, *arguments)

    monkeypatch.setattr(OnnxRuntimeBackend, "open", note)
    run_job(job(fp16, tmp_path / "few", classes="0,1", safer_plan=fp32.folder))
    assert opened == ["fp16"]
    run_job(job(fp16, tmp_path / "all", safer_plan=fp32.folder))
    assert opened == ["fp16", "fp16", "fp32"]


def test_a_safer_plan_that_does_not_load_fails_on_the_way(plans: tuple[Plan, Plan], tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    fp16, fp32 = plans
    start = OnnxRuntimeBackend.open

    def fail(plan: Plan, *arguments: Any) -> OnnxRuntimeBackend:
        if plan.manifest.precision == "fp32":
            raise ProviderError("no memory")
        return start(plan, *arguments)

    monkeypatch.setattr(OnnxRuntimeBackend, "open", fail)
    with pytest.raises(RunError, match="the safer plan cannot draw it: no memory") as error:
        run_job(job(fp16, tmp_path, safer_plan=fp32.folder))
    assert error.value.exit_code == 1


def test_engines_have_a_safer_plan_with_a_back_end_of_its_own(plans: tuple[Plan, Plan]) -> None:
    """The safer plan has no engines, so it is drawn by ONNX Runtime."""
    engines = Choice("tensorrt", "tensorrt-11.4-sm90", "its engines fit", Path("engines"))
    assert safer_choice(plans[1], engines, Needs(4, 20)).backend == "onnxruntime"


def test_marks_change_no_bit_of_what_is_finite(make_model: Models, export: Export, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model of which classes 0 to 2 are finite, with and without a token −1 for what is not."""
    with monkeypatch.context() as before:
        before.setattr(operators, "_SAMPLE_TOP_K_TOP_P", without_marks(operators._SAMPLE_TOP_K_TOP_P))
        before.setattr(latent_graph, "_entries", lambda g, tokens_Bl: tokens_Bl)
        unmarked = export(overflowing(make_model()), tmp_path / "unmarked.plan", precision="fp16")
    marked = export(overflowing(make_model()), tmp_path / "marked.plan", precision="fp16")
    for plan in (unmarked, marked):
        write_whole_step(plan)
        run_job(job(plan, tmp_path / plan.folder.stem, classes="0-2"))
    assert pictures(tmp_path / "unmarked") == pictures(tmp_path / "marked")


def write_whole_step(plan: Plan) -> None:
    """Take the cut step out of the plan."""
    (plan.folder / MANIFEST).write_text(manifest_json(with_whole_step(plan).manifest))


def without_marks(body: str) -> str:
    """The sampler's body without its last nodes: its result is what was drawn, whatever the logits are."""
    drawn, rest = body.split("  drawn = ")
    return f"{drawn}  token = {rest.splitlines()[0]}\n}}\n"


def test_the_others_of_a_batch_come_from_another_process_too(plans: tuple[Plan, Plan]) -> None:
    """The error is pickled on its way from a worker of a cluster."""
    with GeneratedDataset[Record](plans[0], **OPTIONS) as dataset, pytest.raises(NotFiniteError) as error:
        dataset[6]
    found = told_by("a worker on 10.0.0.2", pickle.loads(pickle.dumps(error.value)))
    assert isinstance(found, NotFiniteError) and str(found).startswith("a worker on 10.0.0.2: picture 0 of class 3")
    assert [record.number for record in found.others] == [4, 5]


def test_a_safer_plan_does_not_go_with_a_cluster(plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--safer-plan does not go with --ray"):
        run_job(job(plans[0], tmp_path, safer_plan=plans[1].folder, ray="auto"))
