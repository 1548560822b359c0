"""A workflow's folder becomes a page and a text that tell the steps, the figures, and how often the test was opened."""

import json
import re
import subprocess
import sys
import webbrowser

import pytest
from made_up import classes_run, folds_run, result, run_folder, write_lines
from made_up_workflow import (
    REVIEW,
    STAGES,
    WINNER,
    reports,
    stage_result,
    steps,
    workflow_run,
    write_json,
)

from dlrun.cli.report import report_command
from dlrun.core import run_reader
from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFolder
from dlrun.report import overfitting_plot, plotting, run_report, score_plot, workflow_stages
from dlrun.report.build import write_report
from dlrun.report.result_tables import make_score_tables

PLAIN = ["The question", "The data", "Results", "Learning curves", "Predicted vs actual"]
LAST = ["Config", "Environment", "The command that repeats it"]
FIRST = [
    "The question",
    "The data",
    "Audit of the data",
    "The steps",
    "Baseline against models",
    "Learning curves",
]
MIDDLE = [
    "The overfit ladder",
    "The regularisation study",
    "Predicted vs actual",
    "The worst errors",
]
SECTIONS = {
    "binary": [*FIRST, *MIDDLE, "The final score", *LAST],
    "folds": [*FIRST, *MIDDLE, "The final score", *LAST],
    "stopped": [*FIRST, "The final score", *LAST],
    "plain": [*PLAIN, *LAST],
    "compared": ["What differs", "Validation curves", "1. mnist · dense", "2. reviews · dense"],
}


def html(name):
    return reports()[name][-1].read_text().replace("\xa0", " ")


def text(name):
    return reports()[name][-2].read_text()


@pytest.mark.parametrize("name", SECTIONS)
def test_each_section_is_there_when_its_data_are_and_in_the_text_as_well(name):
    assert re.findall(r"<h2>(.*?)</h2>", html(name)) == SECTIONS[name]
    assert re.findall(r"^## (.*)$", text(name), re.MULTILINE) == SECTIONS[name]


def test_a_workflow_draws_the_winner_and_the_final_model_alone():
    assert [file.name for file in reports()["binary"]] == [
        *("learning-curves.png", "stages.png", "ladder.png", "study.png"),
        *(
            f"confusion-answer-{WINNER}-val.png",
            "confusion-answer-final-test.png",
            "report.md",
            "report.html",
        ),
    ]
    assert f"residuals-answer-{WINNER}-val.png" in [file.name for file in reports()["folds"]]
    assert [file.name for file in reports()["stopped"]] == [
        *("learning-curves.png", "stages.png", "report.md", "report.html")
    ]


@pytest.mark.parametrize("name", SECTIONS)
def test_the_page_needs_nothing_but_itself(name):
    page = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]*", "data:", html(name))
    places = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']?([^"' >]*)""", page)
    assert places and all(place.startswith(("data:", "#part-")) for place in places)
    assert not re.search(r"<script|<link rel=.stylesheet|@import|url\(|//cdn", page)
    assert 'name="viewport"' in page and "@media print" in page


def test_what_was_written_by_others_is_escaped():
    page = html("binary")
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert (
        "<i>odd</i>" not in page
        and "rooms <big>" not in html("folds")
        and "rooms &lt;big&gt;" in html("folds")
    )
    assert "\\<script>" in text("binary") and re.search(r"(?<!\\)<script>", text("binary")) is None


def test_leaks_made_up_data_and_a_stop_are_loud_and_the_rest_is_not():
    assert '<p class="loud">LEAK, duplicates across splits: 312 of' in html("binary")
    assert '<p class="loud">warning' not in html("binary") and "note, classes" in html("binary")
    assert (
        html("folds").count('<p class="loud">SYNTHETIC: made up</p>') == 2
    )  # above all, and beside the data
    assert "SYNTHETIC" not in html("binary")
    assert html("stopped").count('class="loud">Nothing beats the constant answer.') == 1
    assert '<p class="loud">Stopped at step 5: Nothing beats' in html("stopped")


def test_an_audit_that_found_nothing_says_so(tmp_path):
    folder = workflow_run(tmp_path / "run", stopped=True)
    write_json(folder / "audit.json", [])
    (audit,) = [
        part
        for part in run_report.make_run_sections(folder, {})
        if part.title == "Audit of the data"
    ]
    assert "Nothing was found" in audit.blocks[0].text


def test_the_winner_has_a_star_and_beside_it_stands_how_many_were_tried():
    for told in (html("binary"), text("binary")):
        assert f"{WINNER}\N{NO-BREAK SPACE}★" in told or f"{WINNER} ★" in told
        assert "15 candidates were tried" in " ".join(told.split())
    assert "★" not in html("stopped") and "3 candidates were tried." in html("stopped")


def test_scores_have_intervals_or_over_folds_mean_and_deviation():
    assert "0.8930 [0.8870, 0.8990]" in html("binary")
    folder = reports()["folds"][-1].parent
    lines = workflow_stages.group_by_stage(run_reader.read_results(folder))
    assert list(lines) == list(STAGES) and {len(some) for some in lines.values()} == {4}
    assert workflow_stages.make_stage_table(run_reader.read_results(folder), steps()).rows[3][
        :2
    ] == [
        "configured",
        "2.6140 ± 0.1291",
    ]
    assert "mean ± sd over 4 fits" in html("folds")


def test_the_final_score_stands_with_the_count_of_openings():
    told = " ".join(text("binary").split())
    assert "reviews · dense: final, 3 seeds, test" in told and "0.8850 ± 0.0010" in told
    assert "has been evaluated 2 times" in told and "a new network" in told
    assert "has never been evaluated" in text("folds")


def test_a_workflow_without_a_ledger_line_says_that_the_test_is_sealed(tmp_path):
    folder = workflow_run(tmp_path / "run")
    (folder / "openings.json").unlink()
    told = [
        block.text
        for part in run_report.make_run_sections(folder, {})
        if part.title == "The final score"
        for block in part.blocks
    ]
    assert told == [
        "The test rows are sealed: no model has been measured on them. dlrun final evaluates them."
    ]


def test_each_stage_is_told_with_what_it_changes_and_what_was_there():
    folder = reports()["binary"][-1].parent
    table = workflow_stages.make_changes_table(
        run_reader.read_results(folder), RunFolder(folder).read_config()
    )
    assert ["wider", "model.units", "[512]", "[64, 64]"] in table.rows
    assert ["faster", "optimizer.lr", "0.001", "0.003"] in table.rows
    assert ["final", "engine.epochs", "12", "6"] in table.rows
    assert [
        "linear",
        "model._target_",
        "dlrun.models.dense.dense",
        "dlrun.models.closed_form.solved",
    ] in table.rows
    assert not [row for row in table.rows if "callback" in row[1]]
    assert "configured" not in [row[0] for row in table.rows]


def test_the_worst_errors_are_shown_as_what_they_are():
    page = html("binary")
    assert page.count('<div class="mistake">') == 16 and "row 17, loss 8.6667" in page
    assert page.index("search-2, validation rows") < page.index("final, test rows")
    told = " ".join(text("binary").split())
    assert "errors/final-test-1.png" in told and REVIEW[2:60].replace("<", "\\<") in told
    assert html("folds").count('<div class="mistake">') == 12  # the worst of all folds
    assert "<i>town</i> (missing)" in html("folds")


def test_an_error_cannot_name_a_file_outside_its_folder(tmp_path):
    folder = classes_run(tmp_path / "run")
    (tmp_path / "secret.png").write_bytes(b"\x89PNG secret")
    (folder / "errors").mkdir()
    shown = {"kind": "image", "image": "../../secret.png"}
    write_json(
        folder / "errors" / "fit-val.json",
        [{"row": 1, "truth": "a", "answer": "b", "loss": None, "shown": shown}],
    )
    (told,) = [
        part
        for part in run_report.make_run_sections(folder, {})
        if part.title == "The worst errors"
    ]
    assert told.blocks[1].errors[0].image is None


def test_a_workflow_that_is_cut_short_at_any_step_has_a_report(tmp_path):
    folder = workflow_run(tmp_path / "run")
    for done, fits in ((1, 0), (4, 0), (5, 4), (6, 6)):
        write_json(folder / "workflow.json", steps()[:done])
        (folder / "results.jsonl").unlink(missing_ok=True)
        if fits:
            write_lines(
                folder / "results.jsonl",
                [stage_result(stage, 0, 1, "") for stage in list(STAGES)[:fits]],
            )
        told = run_report.make_run_sections(folder, {})
        assert f"{done}. " in "".join(
            getattr(block, "text", "") for part in told for block in part.blocks
        )
        assert ("Baseline against models" in [part.title for part in told]) == bool(fits)


def test_files_that_are_damaged_are_named(tmp_path):
    folder = workflow_run(tmp_path / "run")
    (folder / "workflow.json").write_text('[{"step": 1')
    with pytest.raises(UserError, match=r"workflow\.json is damaged: it is no JSON"):
        write_report(folder)


def test_the_whiskers_are_the_interval_or_mean_and_deviation():
    assert workflow_stages.get_score_range(
        [{"mae": {"value": 2.0, "low": 1.5, "high": 2.6}}], "mae"
    ) == (2.0, 1.5, 2.6)
    folds = [{"mae": {"value": value}} for value in (1.0, 2.0, 3.0)]
    assert workflow_stages.get_score_range(folds, "mae") == (2.0, 1.0, 3.0)
    assert workflow_stages.get_score_range([{}], "mae") == (None, None, None)


def test_of_many_candidates_the_worst_of_the_search_give_way():
    dots = {f"search-{place}": (place / 100, None, None) for place in range(1, 31)} | {
        "linear": (0.0, None, None)
    }
    kept = score_plot.select_dots(dots, "search-2", -1)
    assert len(kept) == score_plot.MAX_STAGES + 1  # the winner stays, though its score is low
    assert (
        "linear" in kept and "search-2" in kept and "search-30" in kept and "search-3" not in kept
    )
    assert "search-30" not in score_plot.select_dots(dots, "", 1)
    assert score_plot.select_dots({"small": (1.0, None, None)}, "", 1) == {
        "small": (1.0, None, None)
    }


def test_first_epochs_that_lie_far_off_are_cut_and_a_late_explosion_is_not():
    falling = {1: 600.0, **{epoch: 10 - epoch / 10 for epoch in range(2, 21)}}
    low, high = plotting.get_value_range([falling])
    assert low < 8 and high < 11
    assert plotting.get_value_range([{**falling, 20: 900.0}])[1] > 900
    assert (
        plotting.get_value_range([{1: float("nan")}]) is None
        and plotting.get_value_range([]) is None
    )


def test_the_ladder_says_of_a_rung_what_its_diagnosis_says():
    folder = reports()["binary"][-1].parent
    history, results = run_reader.read_history(folder), run_reader.read_results(folder)
    config = RunFolder(folder).read_config()
    assert (
        overfitting_plot.diagnose_stage(history, results, "deeper", config, "accuracy").kind
        == "overfitting"
    )
    rows = [row for row in history if row["job"] == "deeper"]
    losses = {row["epoch"]: row["values"]["loss"] for row in rows if row["split"] == "val"}
    found = overfitting_plot.diagnose_stage(history, results, "deeper", config, "accuracy")
    assert found.epoch == min(losses, key=losses.get)
    assert (
        overfitting_plot.diagnose_stage(history, results, "small", config, "accuracy").kind
        != "overfitting"
    )
    folds = reports()["folds"][-1].parent
    found = overfitting_plot.diagnose_stage(
        run_reader.read_history(folds),
        run_reader.read_results(folds),
        "deeper",
        RunFolder(folds).read_config(),
        "mae",
    )
    assert "overfitting in 4 of 4 folds" in found.text


def test_a_stage_that_failed_is_no_candidate_and_says_so():
    lines = [stage_result(stage, 0, 1, "") for stage in ("constant", "linear", "small")]
    lines[2] |= {"scores": {}, "note": "the loss is nan"}
    assert workflow_stages.format_num_candidates(lines, []) == "1 candidate was tried."
    assert [row[0] for row in workflow_stages.make_stage_table(lines, []).rows] == [
        "constant",
        "linear",
        "small (failed)",
    ]
    assert list(score_plot.collect_dots(lines, "accuracy")) == ["constant", "linear"]


def test_training_rows_are_shown_only_where_there_are_no_others():
    found = [("final", "test"), ("final", "train"), ("fit", "val"), ("whole", "train")]
    assert run_reader.select_splits(found) == [
        ("fit", "val"),
        ("whole", "train"),
        ("final", "test"),
    ]


def test_a_variant_is_named_by_what_it_changes_of_the_last_rung():
    def line(**patch):
        return [{"job": {"patch": {f"model.{key}": value for key, value in patch.items()}}}]

    base = line(units=[64])
    assert (
        overfitting_plot.format_patch("dropout", line(units=[64], dropout=0.5), base)
        == "dropout = 0.5"
    )
    assert overfitting_plot.format_patch("smaller", line(units=[8]), base) == "smaller: units = [8]"
    assert overfitting_plot.format_patch("other", line(units=[64] * 12), base) == "other"


@pytest.mark.parametrize(
    ("job", "family"),
    {
        "fit": "fit",
        "repeat-2": "fit",
        "fold-3": "folds",
        "repeat-2-fold-3": "folds",
        "wider": "wider",
        "wider-fold-12": "wider",
        "final-repeat-3": "final",
        "search-1-repeat-2-fold-1": "search-1",
        "search-12": "search-12",
    }.items(),
)
def test_fits_of_one_stage_are_a_family(job, family):
    assert run_reader.get_family(job) == family


def test_seeds_share_a_table_and_their_rows_count_once(tmp_path):
    lines = [result("repeat-2" if seed else "fit", value=0.8 + seed / 10) for seed in (0, 1)]
    for seed, line in enumerate(lines):
        line["job"]["repeat"] = seed
    (summary,) = make_score_tables(lines, {})
    assert "2 seeds" in summary.title and "1,000 rows" in summary.caption
    assert "0.8500 ± 0.0707" in summary.rows[1]


def test_the_command_writes_one_page_and_opens_it(tmp_path, capsys, monkeypatch):
    folder = classes_run(tmp_path / "run")
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert report_command([str(folder), "--open"]) == 0
    assert capsys.readouterr().out.split() == [
        str(folder / "report.md"),
        str(folder / "report.html"),
    ]
    assert opened == [(folder / "report.html").as_uri()]
    assert report_command([str(folder)]) == 0 and len(opened) == 1


def test_without_a_browser_the_command_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert report_command([str(run_folder(tmp_path / "run")), "--open"]) == 0
    assert "no browser could be started" in capsys.readouterr().out


def test_several_runs_are_compared_in_the_current_folder_and_none_of_theirs_is_written_to(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    first, second = classes_run(tmp_path / "a"), classes_run(tmp_path / "b", lr=0.5)
    third = folds_run(tmp_path / "c", note="SYNTHETIC: made up")
    before = {
        file: file.stat().st_mtime_ns for run in (first, second, third) for file in run.rglob("*")
    }
    assert report_command([str(run) for run in (first, second, third)]) == 0
    assert {
        file: file.stat().st_mtime_ns for run in (first, second, third) for file in run.rglob("*")
    } == before
    told = (tmp_path / "report-a-b-c.md").read_text()
    assert "Best by validation" in told or "No run can be called the best" in told
    assert (
        re.search(r"\| optimizer.lr +\| 0.001 +\| 0.5 +\| 0.001 +\|", told)
        and "engine.epochs" not in told
    )
    assert "**SYNTHETIC: made up**" in told and re.search(r"folds +\|.*2.5500 ± 0.1291", told)
    assert (tmp_path / "report-a-b-c.png").is_file()
    assert (
        report_command([str(first), str(second), "to=there"]) == 0
        and (tmp_path / "there" / "report-a-b.html").is_file()
    )


def test_of_a_workflow_the_winner_stands_for_the_run():
    assert f"| {WINNER} " in text("compared") and "0.8930 [0.8870, 0.8990]" in text("compared")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "report of which run"),
        (["--loud"], "no flag --loud"),
        (["nowhere"], "there is no folder nowhere"),
        (["."], "is no run folder: it has no config.yaml"),
    ],
)
def test_what_is_no_run_is_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        report_command(words)


def test_the_command_imports_no_torch(tmp_path):
    folder = run_folder(tmp_path / "run")
    code = "import sys; from dlrun.cli.report import report_command as report; report(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    )
    assert "dlrun.report.build" in done.stdout
    assert not {"torch", "sklearn", "hydra", "matplotlib.pyplot"} & set(done.stdout.split())


def test_a_value_that_could_not_be_measured_leaves_no_dot(tmp_path):
    lines = [stage_result(stage, 0, 1, "") for stage in ("linear", "small")]
    lines[0]["scores"]["accuracy"]["value"] = float("nan")
    assert list(score_plot.collect_dots(json.loads(json.dumps(lines)), "accuracy")) == ["small"]
    assert score_plot.draw_score_plot(lines[:1], steps(), {}, tmp_path / "stages.png") is None
