"""`hieramp-parity compare` and `diversity` as commands: exit codes, one-line errors, reports."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hieramp.export.parity.cli import main
from hieramp.runtime import Plan
from hieramp.runtime.manifest import manifest_json


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def half_beta(tiny_plan: Plan, tmp_path: Path) -> Path:
    """The tiny plan with another β in its manifest."""
    folder = shutil.copytree(tiny_plan.folder, tmp_path / "half.plan")
    amplification = tiny_plan.manifest.amplification
    assert amplification is not None
    changed = replace(amplification, beta=tuple(beta / 2 for beta in amplification.beta))
    (folder / "manifest.json").write_text(manifest_json(replace(tiny_plan.manifest, amplification=changed)))
    return folder


class Page(HTMLParser):
    """Checks that every element is closed and that nothing is fetched; keeps the text."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.images = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.images += tag == "img"
        assert tag not in ("link", "script", "iframe")
        for name, value in attributes:
            assert not (name in ("src", "href", "xlink:href") and not (value or "").startswith(("data:", "#"))), value

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(path: Path) -> Page:
    page, text = Page(), path.read_text()
    page.feed(text)
    assert page.open == []
    assert not re.search(r"url\((?!#)|@import", text)
    assert "#0102" not in text  # colours that stand in for the page's own
    return page


def test_a_plan_that_passes(tiny_plan: Plan, tmp_path: Path) -> None:
    done = run("compare", "--plan", tiny_plan.folder, "--against", tiny_plan.folder, "--images", 4, "--threads", 1,
               "--report", tmp_path / "r")
    assert done.exit_code == 0, done.output
    assert "passed: tiny (fp32) against tiny (fp32)" in done.output
    page, data = read_page(tmp_path / "r/report.html"), json.loads((tmp_path / "r/report.json").read_text())
    assert "passed: tiny" in page.text and "saliency overlap" in page.text
    assert page.images == 4 * 5 + 4 * 2  # five rows of pictures, saliency at two scales
    assert data["passed"] is True and data["first_failure"] is None and data["images"] == 4
    assert {figure["quantity"] for figure in data["figures"]} >= {"logits_max", "free_ssim"}


def test_a_plan_that_fails(tiny_plan: Plan, half_beta: Path, tmp_path: Path) -> None:
    done = run("compare", "--plan", half_beta, "--against", tiny_plan.folder, "--images", 4, "--threads", 1,
               "--report", tmp_path / "r")
    assert done.exit_code == 1
    assert re.search(r"FAILED: tiny .*: scale 1, logits, largest error: [\d.e-]+ \(at most 0.002\)", done.output)
    page, data = read_page(tmp_path / "r/report.html"), json.loads((tmp_path / "r/report.json").read_text())
    assert "FAILED" in page.text and 'class="past"' in (tmp_path / "r/report.html").read_text()
    assert data["passed"] is False
    assert (data["first_failure"]["scale"], data["first_failure"]["quantity"]) == (1, "logits_max")


def test_json_is_one_line(tiny_plan: Plan) -> None:
    done = run("compare", "--plan", tiny_plan.folder, "--against", tiny_plan.folder, "--images", 2, "--threads", 1,
               "--json")
    assert done.stdout.count("\n") == 1
    data = json.loads(done.stdout)
    assert data["plan"]["digest"] == tiny_plan.digest
    assert data["limits"]["logits"] == pytest.approx(2e-3)


@pytest.mark.parametrize(("arguments", "message"), [
    (["compare", "--plan", "nowhere.plan"], "no plan folder at nowhere.plan"),
    (["compare", "--engine", "nowhere.plan"], "no plan folder at nowhere.plan"),
    (["compare", "--images", "0"], "--images"),
    (["compare", "--recorded", "nowhere"], "nowhere is no record"),
    (["compare", "--against", "a", "--reference", "b", "c"], "give one of --reference"),
    (["compare", "--report", __file__], "--report"),
    (["diversity", "--images", "1"], "--images"),
    (["diversity", "--plan", "nowhere.plan"], "no plan folder"),
])
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_what_is_not_installed_is_named_first(tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hieramp.export.parity.cli.find_spec", lambda name: None if name == "jinja2" else "there")
    done = run("compare", "--plan", tiny_plan.folder, "--report", tmp_path / "r")
    assert done.exit_code == 2
    assert "jinja2 cannot be imported: pip install 'hieramp[parity]'" in done.stderr


def test_diversity(tiny_plan: Plan, tmp_path: Path) -> None:
    done = run("diversity", "--plan", tiny_plan.folder, "--images", 20, "--threads", 1, "--resamples", 200,
               "--report", tmp_path / "r")
    assert done.exit_code == 0, done.output
    assert "coarse scales are more diverse: " in done.output and "fine scales are more concentrated: " in done.output
    page, data = read_page(tmp_path / "r/report.html"), json.loads((tmp_path / "r/report.json").read_text())
    assert "token entropy" in page.text and page.images == 16
    assert set(data["scales"]) == {"entropy", "distinct", "concentration", "drawn_entropy", "attention_focus"}
    for rows in data["scales"].values():
        assert rows[0]["difference"] == {"value": 0, "low": 0, "high": 0}  # scale 0 is not amplified
    assert data["claims"]["fine"]["difference"]["value"] == pytest.approx(
        data["scales"]["concentration"][2]["difference"]["value"])  # of three scales the last is fine
    assert data["claims"]["coarse"]["difference"] is None  # and the coarse one is not amplified


@pytest.mark.slow
def test_the_shipped_plan_passes_by_default() -> None:
    done = run("compare", "--images", 4)
    assert done.exit_code == 0, done.output
    assert "passed: var_cifar10 (fp32) against checkpoint in var_cifar10" in done.output
