"""Cells run, here and in processes of their own; they are resumed, marked and interrupted."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from small_ablation import DRAWN, VIEWS, Runner, ablate, planned

from mednerf_kit.cli import main
from mednerf_kit.commands import ablate as commands
from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.study.ablation import results, run


def test_every_cell_runs_once_and_what_it_found_is_kept(spec, tmp_path):
    runner = Runner()
    out = ablate(spec, tmp_path / "out", runner)
    assert len(runner.ran) == len(set(runner.ran)) == 6
    kept = json.loads((out / "chest" / "second" / "seed1" / "cell.json").read_text())
    assert kept["status"] == "done" and kept["unit"] == "view" and len(kept["units"]) == VIEWS
    assert set(kept["units"]["r_0"]) == {"psnr_db"} and "lpips" not in kept["metrics"]
    assert kept["cell"]["recipe"]["levels"][0]["n"] == 16 and kept["device"] == "cpu"
    rows = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert [(r["cell"], r["seed"], r["status"]) for r in rows[:2]] == [
        ("first", "0", "done"),
        ("second", "0", "done"),
    ]
    assert (
        float(rows[0]["seconds_per_step"]) == 0.1
        and rows[0]["run"] == "chest/first/seed0/00000-chest"
    )
    assert (out / "figure.png").read_bytes() == DRAWN
    words = ["mednerf-kit", "ablate", str(spec), "--outdir", str(out)]
    assert shlex.split((out / run.COMMAND_FILE).read_text()) == words


def test_a_second_start_runs_only_what_is_not_done(spec, tmp_path):
    with pytest.raises(RunError, match="2 of 6 cells that failed.*got NaN"):
        ablate(spec, tmp_path / "out", Runner(fails=["third"]))
    again = Runner()
    ablate(spec, tmp_path / "out", again)
    assert again.ran == [("third", "chest", 0), ("third", "chest", 1)]
    nothing = Runner()
    ablate(spec, tmp_path / "out", nothing)
    assert nothing.ran == []


def test_more_seeds_are_added_to_what_is_there(spec, tmp_path):
    ablate(spec, tmp_path / "out")
    more = Runner()
    ablate(spec, tmp_path / "out", more, seeds=[0, 1, 2])
    assert {seed for _, _, seed in more.ran} == {2}


def test_a_finished_cell_of_other_settings_is_not_overwritten(spec, tmp_path):
    ablate(spec, tmp_path / "out")
    runner = Runner()
    with pytest.raises(UserError, match="run with other settings.*--outdir"):
        ablate(spec, tmp_path / "out", runner, settings=["task.batch=5"])
    assert runner.ran == []


def test_a_cell_that_was_finished_under_former_names_counts(spec, tmp_path):
    cell = replace(planned(spec)[0], base="tensorf", recipe={"task": {"image_model": "xray"}})
    results.write(tmp_path, results.Result(cell, "done"))
    path = tmp_path / cell.place / results.CELL_FILE
    kept = json.loads(path.read_text())
    kept["cell"] |= {"base": "lego_tensorf", "recipe": {"task": {"picture": "xray"}}}
    kept["cell"]["settings"] = ["task.picture=xray"]
    path.write_text(json.dumps(kept))
    assert results.read(tmp_path, cell).status == "done"
    other = replace(cell, recipe={"task": {"image_model": "other"}})
    with pytest.raises(UserError, match="run with other settings"):
        results.read(tmp_path, other)


def test_the_table_names_the_settings_all_cells_share(spec, tmp_path):
    out = ablate(spec, tmp_path / "out", settings=["steps=7"])
    assert (
        "preset quick, `task.batch=4`, `dataset.size=32`, `steps=7`; dataset"
        in (out / "table.md").read_text()
    )


def test_a_failed_cell_keeps_its_sentence_and_the_others_go_on(spec, tmp_path):
    def explodes(cell, folder, device):
        if cell.name == "second":
            raise ZeroDivisionError("by zero\nand more")
        return Runner()(cell, folder, device)

    with pytest.raises(RunError):
        ablate(spec, tmp_path / "out", explodes)
    found = results.load(tmp_path / "out/chest/second/seed0/cell.json")
    assert (found.status, found.error) == (
        "failed",
        "ZeroDivisionError: by zero (see traceback.txt)",
    )
    assert "explodes" in (tmp_path / "out/chest/second/seed0/traceback.txt").read_text()
    text = (tmp_path / "out/table.md").read_text()
    assert (
        "4 done, 2 failed" in text and "- second, seed 0, chest: ZeroDivisionError: by zero" in text
    )
    assert "| second | `levels.0.n=16`, `task.r1_gamma=1e-3` | failed | – | – |" in text
    assert "Not compared, because a cell is missing: second – first." in text


def test_an_interruption_leaves_finished_cells_whole_and_a_table(spec, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ablate(spec, tmp_path / "out", Runner(stops_at=4))
    text = (tmp_path / "out/table.md").read_text()
    assert "4 done, 1 unfinished, 1 not run" in text and "1 of 2" in text
    rest = Runner()
    ablate(spec, tmp_path / "out", rest)
    assert rest.ran == [("second", "chest", 1), ("third", "chest", 1)]


def test_chosen_cells_run_and_the_others_are_marked(spec, tmp_path):
    runner = Runner()
    out = ablate(spec, tmp_path / "out", runner, cells=["second"])
    assert {name for name, _, _ in runner.ran} == {"second"}
    assert "| third | `task.objective=hybrid` | not run | – | – |" in (out / "table.md").read_text()
    with pytest.raises(UserError, match="cell 'secnd'.*did you mean 'second'"):
        ablate(spec, tmp_path / "out", cells=["secnd"])


def test_no_run_is_begun_after_the_time_is_over(spec, tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 30))
    monkeypatch.setattr(run.time, "monotonic", lambda: next(clock))
    runner = Runner()
    out = ablate(spec, tmp_path / "out", runner, limit_minutes=1.2)
    assert len(runner.ran) == 2
    assert "4 not run" in (out / "table.md").read_text()


def test_a_damaged_result_is_named(spec, tmp_path):
    out = ablate(spec, tmp_path / "out")
    (out / "chest/first/seed0/cell.json").write_text("{")
    with pytest.raises(UserError, match="cell.json.*delete that file"):
        ablate(spec, tmp_path / "out")


FINISHES = (
    "import json, sys; p = sys.argv[1]; d = json.load(open(p)); d.update(status='done', "
    "metrics={'psnr_db': 1.0}); "
    "json.dump(d, open(p, 'w'))"
)


def test_processes_share_the_slots_and_their_results_are_read(spec, tmp_path):
    started = []

    def start(home, device, slots):
        started.append((device, slots))
        return subprocess.Popen([sys.executable, "-S", "-c", FINISHES, str(home / "cell.json")])

    cells = planned(spec)
    run.run_apart(cells, tmp_path, ["cuda:0", "cuda:1"], math.inf, start)
    assert all(results.read(tmp_path, cell).status == "done" for cell in cells)
    assert {device for device, _ in started} == {"cuda:0", "cuda:1"} and {
        slots for _, slots in started
    } == {2}


def test_a_process_that_leaves_no_result_has_failed(spec, tmp_path):
    def start(home, device, slots):
        return subprocess.Popen([sys.executable, "-S", "-c", "import os; os._exit(7)"])

    cells = planned(spec)[:2]
    run.run_apart(cells, tmp_path, ["cpu"], math.inf, start)
    assert [results.read(tmp_path, c).error for c in cells] == [
        "its process ended with code 7 and no result"
    ] * 2


def test_a_signal_ends_the_processes_and_leaves_their_cells_unfinished(spec, tmp_path):
    running = []

    def start(home, device, slots):
        running.append(
            subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        )
        if len(running) == 2:
            signal.raise_signal(signal.SIGTERM)
        return running[-1]

    with pytest.raises(KeyboardInterrupt):
        run.run_apart(planned(spec), tmp_path, ["cpu", "cpu"], math.inf, start)
    assert [p.poll() for p in running] == [-signal.SIGTERM] * 2
    assert results.read(tmp_path, planned(spec)[0]).status == "started"


def test_nothing_starts_after_the_deadline(spec, tmp_path):
    run.run_apart(planned(spec), tmp_path, ["cpu"], -math.inf, lambda *_: pytest.fail("started"))


@pytest.mark.parametrize(
    "device, visible, expected",
    [("cuda:1", None, "1"), ("cuda:1", "4,6", "6"), ("cpu", None, None), ("cuda", "3", "3")],
)
def test_a_process_sees_its_own_device_and_its_share_of_the_cores(
    tmp_path, monkeypatch, device, visible, expected
):
    seen = {}
    monkeypatch.setattr(
        run.subprocess, "Popen", lambda command, **options: seen.update(options, command=command)
    )
    monkeypatch.setattr(run.os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    run.process(tmp_path, device, 2)
    assert seen["command"][1:] == [
        "-m",
        "mednerf_kit",
        "ablate",
        "--cell",
        str(tmp_path),
        "--device",
        device.partition(":")[0],
    ]
    assert (
        seen["env"].get("CUDA_VISIBLE_DEVICES") == expected
        and seen["env"]["OMP_NUM_THREADS"] == "4"
    )
    assert seen["stdin"] == subprocess.PIPE  # closed when this process ends, whatever ended it


def test_a_cell_ends_with_the_process_that_started_it(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(commands, "end_with_parent", lambda **_: called.append("watched"))
    monkeypatch.setattr(run, "work_on", lambda *cell: called.append(cell))
    commands.ablate.callback(recipe=None, cells=None, cell=tmp_path, device="cpu")
    assert called == ["watched", (tmp_path, "cpu")]


def test_a_dry_run_lists_the_cells_with_what_they_change(spec, tmp_path, capsys):
    assert (
        main(
            ["ablate", str(spec), "--dry-run", "--seeds", "0-2", "--outdir", str(tmp_path / "none")]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "second (3 not run): task.r1_gamma: 0.01 -> 0.001; levels.0.n: 40 -> 16" in out
    assert "third (3 not run): task.objective: posed -> hybrid" in out
    assert "9 runs: 3 cells × seeds 0, 1, 2 × chest; chest, preset quick" in out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "args, said",
    [
        (["ablate"], "wanted a name or a file"),
        (["ablate", "objectiv"], "did you mean 'objective'"),
        (["ablate", "objective", "--device", "gpu"], "cuda:N"),
        (["ablate", "objective", "--device", "cpu:1"], "cuda:N"),
        (["ablate", "objective", "--cells", "posd", "-n"], "did you mean 'posed'"),
    ],
)
def test_wrong_words_get_one_sentence(args, said, capsys):
    assert main(args) == 2
    assert said in capsys.readouterr().err


def test_auto_are_all_the_devices_there_are(monkeypatch):
    for count, found in ((0, ["cpu"]), (1, ["cuda"]), (2, ["cuda:0", "cuda:1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda count=count: count > 0)
        assert run.device_names("auto") == found and run.device_names("cpu,cuda:1") == [
            "cpu",
            "cuda:1",
        ]
