"""Continuing, repeating, refusing and sharding: the files are always those of one uninterrupted run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from hieramp.runtime import backends
from hieramp.runtime.batches import Shard
from hieramp.runtime.durable import write_text
from hieramp.runtime.errors import HierampError, OutputError, RunError, StoppedError
from hieramp.runtime.job import Job
from hieramp.runtime.lock import held, held_aside
from hieramp.runtime.painter import Painter
from hieramp.runtime.plan import Plan
from hieramp.runtime.run_job import run_job
from hieramp.runtime.schedule import Overrides
from hieramp.runtime.writers.layouts import LAYOUTS

by_layout = pytest.mark.parametrize("layout", list(LAYOUTS))


@pytest.fixture
def job(plan: Plan, tmp_path: Path) -> Job:
    """Twelve pictures in four batches; tar and Parquet files hold one batch each."""
    return Job(tmp_path / "out", plan.folder, ipc=3, batch_size=3, threads=1, shard_size=3)


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches drawn since the test began."""
    batches: list[int] = []
    paint = Painter.paint

    def note(self: Painter, batch: int) -> object:
        batches.append(batch)
        return paint(self, batch)

    monkeypatch.setattr(Painter, "paint", note)
    return batches


@by_layout
def test_a_finished_run_is_left_alone(layout: str, job: Job, painted: list[int], faults: ModuleType,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(job, layout=layout)
    run_job(job)
    before = {path: path.stat().st_mtime_ns for path in job.out.rglob("*")}
    painted.clear()
    monkeypatch.setattr("hieramp.runtime.workplace.open_choice", lambda *_: pytest.fail("the plan was loaded"))
    report = run_job(job)
    assert (report.drawn, report.pictures, report.images_per_second) == (0, 12, 0)
    assert painted == [] and before == {path: path.stat().st_mtime_ns for path in job.out.rglob("*")}


@by_layout
@pytest.mark.parametrize("broken", ["lost", "emptied"])
def test_only_the_batches_that_lack_a_picture_are_drawn_again(layout: str, broken: str, job: Job, painted: list[int],
                                                              faults: ModuleType) -> None:
    job = replace(job, layout=layout)
    run_job(job)
    whole = faults.contents(job.out)
    third = sorted(path for path in job.out.rglob("*") if path.suffix in (".png", ".tar", ".parquet")
                   and path.name != "contact_sheet.png")[8 if LAYOUTS[layout].by_class else 2]
    third.unlink() if broken == "lost" else third.write_bytes(b"")
    painted.clear()
    assert run_job(job).drawn == 3
    assert painted == [2]
    assert faults.contents(job.out) == whole


@pytest.mark.parametrize("name", ["README.md", "contact_sheet.png", "classes.json", "dataset.json"])
def test_what_is_beside_the_pictures_is_written_again(name: str, job: Job, painted: list[int],
                                                      faults: ModuleType) -> None:
    run_job(job)
    whole = faults.contents(job.out)
    (job.out / name).unlink()
    painted.clear()
    if name == "dataset.json":  # without it nothing says what the folder is
        with pytest.raises(OutputError, match="holds no dataset of this tool"):
            run_job(job)
        return
    run_job(job)
    assert painted == [] and faults.contents(job.out) == whole


@pytest.mark.parametrize(("change", "phrase"), [
    ({"seed": 1}, "--seed 0 (now 1)"),
    ({"ipc": 4}, "--ipc 3 (now 4)"),
    ({"batch_size": 2}, "--batch-size 3 (now 2)"),
    ({"classes": "ant,dog"}, "--classes 0,1,2,3 (now 0,3)"),
    ({"save_size": 4}, "--save-size 8 (now 4)"),
    ({"overrides": Overrides(cfg=(1.5,))}, "--cfg 4,4,4,4 (now 1.5,1.5,1.5,1.5)"),
    ({"overrides": Overrides(top_k=3)}, "--top-k 6 (now 3)"),
    ({"layout": "webdataset"}, "--format folder (now webdataset)"),
])
@pytest.mark.parametrize("state", ["complete", "incomplete"])
def test_other_settings_are_refused_and_named(change: dict[str, object], phrase: str, state: str, job: Job,
                                              faults: ModuleType) -> None:
    run_job(job)
    if state == "incomplete":
        (job.out / "README.md").unlink()
        (job.out / "dataset.json").write_text((job.out / "dataset.json").read_text().replace("true", "false"))
    before = faults.contents(job.out)
    with pytest.raises(OutputError) as refused:
        run_job(replace(job, **change))
    assert phrase in str(refused.value)
    assert "replace it with --overwrite, or choose another --out" in str(refused.value)
    assert faults.contents(job.out) == before
    run_job(replace(job, overwrite=True, **change))
    run_job(replace(job, out=job.out.parent / "fresh", **change))
    assert faults.contents(job.out) == faults.contents(job.out.parent / "fresh")


@by_layout
def test_another_teacher_is_refused_and_soft_labels_are_replaced(layout: str, job: Job, faults: ModuleType,
                                                                 make_teacher: Callable[..., Path]) -> None:
    plain = replace(job, layout=layout)
    first, second = (replace(plain, teacher=make_teacher(name=f"{name}.onnx", about={"mean": [mean] * 3}))
                     for name, mean in (("first", 0.0), ("second", 0.5)))
    run_job(plain)
    whole = faults.contents(plain.out)
    for made, asked, phrase in ((plain, first, "--teacher none (now first.onnx)"),
                                (first, second, "--teacher first.onnx (now second.onnx) and the contents of the"),
                                (second, plain, "--teacher second.onnx (now none)")):
        run_job(replace(made, overwrite=True))
        with pytest.raises(OutputError) as refused:
            run_job(asked)
        assert phrase in str(refused.value)
    run_job(replace(plain, overwrite=True))
    assert faults.contents(plain.out) == whole  # no soft label is left


def test_a_lost_soft_label_is_asked_for_again(job: Job, painted: list[int], faults: ModuleType,
                                              make_teacher: Callable[..., Path]) -> None:
    job = replace(job, teacher=make_teacher())
    run_job(job)
    whole = faults.contents(job.out)
    assert sorted(name for name in whole if name.endswith(".npy")) == [f"soft-00000{batch}.npy" for batch in range(4)]
    (job.out / "soft-000001.npy").unlink()
    painted.clear()
    run_job(job)
    assert painted == [1] and faults.contents(job.out) == whole


def test_one_and_two_threads_store_the_same(job: Job, faults: ModuleType, make_teacher: Callable[..., Path],
                                            tmp_path: Path) -> None:
    job = replace(job, teacher=make_teacher())
    run_job(job)
    other = replace(job, threads=2, out=tmp_path / "other")
    run_job(other)
    assert faults.contents(other.out) == faults.contents(job.out)


def test_another_plan_is_refused(job: Job, make_plan: Callable[..., Path]) -> None:
    run_job(job)
    with pytest.raises(OutputError, match=r"the plan's contents [0-9a-f]{39}… \(now [0-9a-f]{39}…\)"):
        run_job(replace(job, engine=make_plan(trace=True)))


def test_other_versions_may_not_continue_but_find_it_complete(job: Job) -> None:
    run_job(job)
    record = json.loads((job.out / "dataset.json").read_text())
    record["versions"]["onnxruntime"] = "1.0"
    (job.out / "dataset.json").write_text(json.dumps(record))
    assert run_job(job).drawn == 0
    (job.out / "ant" / "00000.png").unlink()
    with pytest.raises(OutputError, match=r"the version of onnxruntime 1.0 \(now "):
        run_job(job)


@by_layout
@pytest.mark.parametrize("soft", [False, True], ids=["", "teacher"])
@pytest.mark.parametrize("count", [2, 5])
def test_shards_together_are_the_whole(layout: str, count: int, soft: bool, job: Job,
                                       make_teacher: Callable[..., Path], painted: list[int], faults: ModuleType,
                                       tmp_path: Path) -> None:
    """Copied into one folder, the shards need no picture drawn; five are more than there are batches."""
    job = replace(job, layout=layout, teacher=make_teacher() if soft else None)
    whole, union = job, replace(job, out=tmp_path / "union")
    run_job(whole)
    files = []
    for index in range(count):
        part = replace(whole, out=tmp_path / f"part{index}", shard=Shard(index, count))
        report = run_job(part)
        assert report.contact_sheet is None and report.drawn == report.pictures
        assert run_job(part).drawn == 0  # and is complete
        files.append({name for name in faults.contents(part.out) if name != "classes.json"})
        shutil.copytree(part.out, union.out, dirs_exist_ok=True)
    assert sum(map(len, files)) == len(set().union(*files))  # no file twice
    painted.clear()
    run_job(union)
    assert painted == [] and faults.contents(union.out) == faults.contents(whole.out)


def test_shards_may_share_a_folder_and_a_missing_one_is_drawn(job: Job, painted: list[int], faults: ModuleType,
                                                              tmp_path: Path) -> None:
    run_job(job)
    shared = replace(job, out=tmp_path / "shared")
    for index in (2, 0):
        run_job(replace(shared, shard=Shard(index, 3)))
    with pytest.raises(OutputError, match=r"--seed 0 \(now 1\)"):
        run_job(replace(shared, shard=Shard(1, 3), seed=1))
    painted.clear()
    run_job(shared)
    assert painted == [1] and faults.contents(shared.out) == faults.contents(job.out)


def test_two_runs_never_share_a_folder(job: Job) -> None:
    pytest.importorskip("fcntl")
    job.out.mkdir()
    with held(job.out), pytest.raises(OutputError, match="another run is writing to"):
        run_job(job)
    with held(job.out, shared=True):
        run_job(replace(job, shard=Shard(0, 2)))
        record = job.out / "shard-00000-of-00002.json"
        record.write_text(record.read_text().replace("true", "false"))  # as while the shard is being drawn
        with held_aside(record), pytest.raises(OutputError, match="another run is writing to"):
            run_job(replace(job, shard=Shard(0, 2)))
        with pytest.raises(OutputError, match="another run is writing to"):
            run_job(job)
    run_job(job)


def test_a_shard_is_drawn_once_at_a_time_also_when_its_record_is_replaced(job: Job, monkeypatch: pytest.MonkeyPatch,
                                                                          painted: list[int]) -> None:
    """As it is where a safer plan draws a picture."""
    pytest.importorskip("fcntl")
    shard = replace(job, shard=Shard(0, 2))
    paint = Painter.paint

    def replaced_then_begun_again(self: Painter, batch: int) -> object:
        monkeypatch.setattr(Painter, "paint", paint)
        record = job.out / "shard-00000-of-00002.json"
        write_text(record.read_text(), record)
        with pytest.raises(OutputError, match="another run is writing to"):
            run_job(shard)
        return paint(self, batch)

    monkeypatch.setattr(Painter, "paint", replaced_then_begun_again)
    assert run_job(shard).drawn == 6
    assert not list(job.out.glob(".*"))


def test_a_shard_does_not_replace_what_another_draws(job: Job) -> None:
    pytest.importorskip("fcntl")
    run_job(replace(job, shard=Shard(0, 2)))
    before = {path: path.read_bytes() for path in job.out.rglob("*.png")}
    with held(job.out, shared=True), held_aside(job.out / "shard-00000-of-00002.json"), \
            pytest.raises(OutputError, match="another run is writing to"):
        run_job(replace(job, shard=Shard(1, 2), seed=1, overwrite=True))
    assert before == {path: path.read_bytes() for path in job.out.rglob("*.png")}
    run_job(replace(job, shard=Shard(1, 2), seed=1, overwrite=True))
    assert len(list(job.out.rglob("*.png"))) == 6


def test_shards_replace_a_whole_dataset_once(job: Job, faults: ModuleType, tmp_path: Path) -> None:
    run_job(job)
    wanted = replace(job, out=tmp_path / "wanted", seed=1)
    run_job(wanted)
    for index in (1, 0):
        run_job(replace(job, shard=Shard(index, 2), seed=1, overwrite=True))
    assert run_job(replace(job, seed=1)).drawn == 0
    assert faults.contents(job.out) == faults.contents(wanted.out)


@pytest.mark.parametrize(("stop", "seconds", "error", "said"), [
    (lambda: 15, 10.0, StoppedError, "stopped by SIGTERM while waiting for another shard to begin"),
    (lambda: None, 0.1, RunError, "another shard has been about to begin in .* give the same command again"),
])
def test_a_shard_that_waits_to_begin_says_so_and_may_be_stopped(
        stop: Callable[[], int | None], seconds: float, error: type[HierampError], said: str, job: Job,
        monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    monkeypatch.setattr("hieramp.runtime.claiming._CLAIM_SECONDS", seconds)
    job.out.mkdir()
    lines: list[str] = []
    with held_aside(job.out / "claim"), pytest.raises(error, match=said) as raised:
        run_job(replace(job, shard=Shard(0, 2)), stop=stop, say=lines.append)
    assert raised.value.exit_code in (1, 143) and not list(job.out.iterdir())
    waiting = f"waiting for another shard that is about to begin in {job.out}"
    assert [line for line in lines if "waiting" in line] == [waiting]


def test_what_shards_left_when_killed_as_they_began_is_cleared(job: Job, faults: ModuleType) -> None:
    run_job(job)
    whole = faults.contents(job.out)
    for name in (".classes.json.1-of-3.partial", ".shard-00001-of-00003.json.partial",
                 ".shard-00001-of-00003.json.lock.partial", ".claim.lock.partial"):
        (job.out / name).write_text("{")
    (job.out / "ant/00000.png").unlink()
    run_job(job)
    assert faults.contents(job.out) == whole


def test_a_record_is_never_missing(job: Job) -> None:
    """A folder with nothing but a half-written record is free."""
    job.out.mkdir()
    (job.out / ".dataset.json.partial").write_text("{")
    assert run_job(job).drawn == 12


def test_overwriting_follows_no_link(job: Job, tmp_path: Path) -> None:
    run_job(job)
    shutil.rmtree(job.out / "ant")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/00000.png").write_bytes(b"precious")
    (job.out / "ant").symlink_to(tmp_path / "elsewhere")
    run_job(replace(job, classes="bee", overwrite=True))
    assert (tmp_path / "elsewhere/00000.png").read_bytes() == b"precious"


def test_the_back_end_is_opened_in_one_place(plan: Plan) -> None:
    with backends.open_backend(plan, "cpu", 1) as backend:
        assert backend.new_cache(1) is not None
