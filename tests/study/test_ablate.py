"""Ablations: grids are read and planned, cells run, resumed and marked, and what they show is
counted, tested and drawn.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from mednerf_kit.cli import main
from mednerf_kit.core import config, files
from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.study.ablation import figure, grid, results, run, scoring, statistics, table
from mednerf_kit.study.ablation.results import Result, Scores

ROOT = Path(__file__).resolve().parents[2]
TEXT = """# What it shows.
# What it costs.
base: chest
dataset: chest
preset: quick
settings: {task.batch: 4}
size: {dataset.size: 32}
steps: 50
limit: 8
seeds: [0, 1]
cells:
  first: {}
  second: {levels.0.n: 16, task.r1_gamma: 1e-3}
  third: {task.objective: posed}
metrics: [psnr_db, seconds_per_step]
"""
VIEWS = 8


def cheap_resolve(dataset, base, preset, settings):
    """The recipe without the checks of its kind, which build models."""
    recipe = config.load(base)
    recipe.pop("presets")
    return config.with_settings(recipe, list(settings))


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """A file of an ablation whose recipes are made quickly and whose figure is not drawn."""
    monkeypatch.setattr(run, "resolve", cheap_resolve)
    monkeypatch.setattr(figure, "as_png", lambda ablation, found: b"drawn")
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


class Runner:
    """Stands in for training: remembers the cells it was given and answers made-up scores."""

    def __init__(self, *, fails=(), stops_at=None):
        self.ran, self.fails, self.stops_at = [], set(fails), stops_at

    def __call__(self, cell, folder, device):
        if len(self.ran) == self.stops_at:
            raise KeyboardInterrupt
        self.ran.append((cell.name, cell.scene, cell.seed))
        if cell.name in self.fails:
            raise UserError("got NaN", "wanted numbers", "lower the rate")
        noise = random.Random(f"{cell.place}")
        gain = ["first", "second", "third"].index(cell.name)
        rows = [
            {"stem": f"r_{i}", "psnr_db": 30 + i + gain + 0.1 * noise.random(), "note": "x"}
            for i in range(VIEWS)
        ]
        psnr = sum(row["psnr_db"] for row in rows) / VIEWS
        return {
            "psnr_db": psnr,
            "seconds_per_step": 0.1,
            "lpips": None,
            "per_view": rows,
            "run": "00000-chest",
        }


def ablate(spec, out, runner=None, **options):
    return run.ablate(str(spec), outdir=out, run_cell=runner or Runner(), **options)


# Reading


def test_a_file_becomes_an_ablation(spec):
    found = grid.read(str(spec))
    assert (found.name, found.about, found.base, found.seeds) == (
        "mine",
        "What it shows. What it costs.",
        "chest",
        (0, 1),
    )
    assert found.pairs() == [("second", "first"), ("third", "first")]
    assert found.common() == ["task.batch=4", "dataset.size=32", "steps=50"]


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("seeds:", "seed:", "option of ablation 'mine' 'seed'.*did you mean 'seeds'"),
        ("base: chest", "x: 1", "without 'base'"),
        ("seeds: [0, 1]", "seeds: [-1]", "seeds .-1."),
        ("seeds: [0, 1]", "seeds: []", "seeds"),
        ("seeds: [0, 1]", "compare: [[secnd, first]]", "cell 'secnd'.*did you mean 'second'"),
        ("seeds: [0, 1]", "compare: [first]", "wanted .cell, reference"),
        ("steps: 50", "steps: 0", "steps 0"),
        ("steps: 50", "steps: many", "'many'.*int"),
        ("third: {", "a/b: {", "cell 'a/b'"),
        ("third: {", "off: {", "a cell named False"),
        ("third: {task.objective: posed}", "third: 3", "cell 'third' = 3"),
        ("limit: 8", "limit: [8", "does not parse"),
    ],
)
def test_a_file_that_is_wrong_gets_one_sentence(spec, old, new, said):
    spec.write_text(TEXT.replace(old, new))
    with pytest.raises(UserError, match=said) as caught:
        grid.read(str(spec))
    assert "\n" not in str(caught.value)


def test_names_are_found_and_the_nearest_is_offered():
    assert (
        grid.find("objective")
        == grid.find("ablations/objective")
        == config.folder() / "ablations" / "objective.yaml"
    )
    with pytest.raises(UserError, match="did you mean 'objective'"):
        grid.find("objectiv")
    with pytest.raises(UserError, match="gone.yaml"):
        grid.find("gone.yaml")


def test_the_plan_has_every_cell_and_finishes_a_seed_before_the_next(spec):
    cells = grid.plan(
        grid.read(str(spec)),
        {"a": "x/a", "b": "x/b"},
        cheap_resolve,
        ["task.batch=6", "task.r1_gamma=2.0"],
    )
    assert [(c.seed, c.scene, c.name) for c in cells] == [
        (seed, scene, name)
        for seed in (0, 1)
        for scene in "ab"
        for name in ("first", "second", "third")
    ]
    second = cells[1]
    common, line, own = (
        ["task.batch=4", "dataset.size=32", "steps=50"],
        ["task.batch=6", "task.r1_gamma=2.0"],
        ["levels.0.n=16", "task.r1_gamma=1e-3"],
    )
    assert second.settings == common + line + own
    assert (
        second.recipe["task"]["batch"],
        second.recipe["task"]["r1_gamma"],
        second.recipe["levels"][0]["n"],
    ) == (6, 1e-3, 16)
    assert (second.dataset, second.limit, second.place) == ("x/a", 8, Path("a/second/seed0"))


def test_a_cell_may_start_from_another_recipe(spec):
    spec.write_text(TEXT.replace("third: {", "third: {base: knee, "))
    cells = grid.plan(grid.read(str(spec)), {"a": "a"}, cheap_resolve)
    assert [c.base for c in cells[:3]] == ["chest", "chest", "knee"]
    assert "base=knee" not in cells[2].settings


def test_a_cell_that_no_recipe_can_be_made_of_is_named_before_any_work(spec):
    spec.write_text(TEXT.replace("levels.0.n", "levels.3.n"))
    with pytest.raises(UserError, match="cell 'second'.*index from 0 to 0"):
        grid.plan(grid.read(str(spec)), {"a": "a"}, cheap_resolve)


def test_another_preset_replaces_the_files_own_size(spec):
    found = grid.resized(grid.read(str(spec)), "paper")
    assert (found.preset, found.common(), found.limit, found.max_minutes) == (
        "paper",
        ["task.batch=4"],
        None,
        None,
    )


def test_scenes_are_found_under_and_beside_the_dataset(tmp_path):
    for name in ("lego", "chair", "notes"):
        (tmp_path / name).mkdir()

    def is_scene(path):
        return path.name in ("lego", "chair")

    both = {"chair": str(tmp_path / "chair"), "lego": str(tmp_path / "lego")}
    assert (
        grid.datasets(str(tmp_path), "all", is_scene)
        == grid.datasets(str(tmp_path / "lego"), "all", is_scene)
        == both
    )
    assert grid.datasets(str(tmp_path), "chair,lego", is_scene) == both
    assert grid.datasets(str(tmp_path / "lego"), ("chair", "lego"), is_scene) == both
    assert grid.datasets("chest", None, is_scene) == {"chest": "chest"}
    assert grid.datasets("chest", ("chest", "knee"), is_scene) == {"chest": "chest", "knee": "knee"}
    with pytest.raises(UserError, match="'all'"):
        grid.datasets("chest", "all", is_scene)
    with pytest.raises(UserError, match="no scene"):
        grid.datasets(str(tmp_path), "all", lambda path: False)


# Running


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
    assert (out / "figure.png").read_bytes() == b"drawn"


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
    assert "| third | `task.objective=posed` | not run | – | – |" in (out / "table.md").read_text()
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


# Processes

FINISHES = (
    "import json, sys; p = sys.argv[1]; d = json.load(open(p)); d.update(status='done', "
    "metrics={'psnr_db': 1.0}); "
    "json.dump(d, open(p, 'w'))"
)


def planned(spec):
    return grid.plan(grid.read(str(spec)), {"chest": "chest"}, cheap_resolve)


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


def stand_in(monkeypatch, owner, name, answer):
    """Replace a function by one that takes the same arguments only; returns the list of what it was
    called with.
    """
    signature, calls = inspect.signature(getattr(owner, name)), []

    def replacement(*args, **options):
        calls.append(signature.bind(*args, **options).arguments)
        return answer(calls[-1])

    monkeypatch.setattr(owner, name, replacement)
    return calls


def trained(call):
    """A run folder as training leaves it."""
    folder = Path(call["outdir"]) / "00000-any"
    files.write_json(
        folder / "metrics.json",
        {"steps": 50, "train_seconds": 10.04, "last": {"r_t": 0.25}, "note": "x"},
    )
    return folder


def test_a_prior_is_trained_drawn_from_and_scored_on_patients(spec, tmp_path, monkeypatch):
    from mednerf_kit.engine import session
    from mednerf_kit.invert import evaluate
    from mednerf_kit.study.generation import score

    patients = [{"patient": name, "psnr_db": value} for name, value in (("q0", 20.0), ("q1", 22.0))]
    training = stand_in(monkeypatch, session, "train", trained)
    stand_in(monkeypatch, score, "score", lambda call: {"swd": 40.0, "seed": 0})
    scoring_of = stand_in(
        monkeypatch, evaluate, "evaluate", lambda call: {"psnr_db": 21.0, "per_patient": patients}
    )
    cell = planned(spec)[1]
    results.write(tmp_path, Result(cell, "started"))
    found = run.work_on(tmp_path / cell.place, "cpu")
    assert (
        found == replace(results.load(tmp_path / cell.place / "cell.json"))
        and found.status == "done"
    ), found.error
    assert (training[0]["seed"], training[0]["resume"], training[0]["settings"]) == (
        0,
        "latest",
        cell.settings,
    )
    assert (scoring_of[0]["limit"], scoring_of[0]["run"]) == (
        8,
        str(tmp_path / cell.place / "00000-any"),
    )
    assert found.run == "00000-any" and found.scores.unit == "patient"
    assert found.scores.units == {"q0": {"psnr_db": 20.0}, "q1": {"psnr_db": 22.0}}
    wanted = {
        "psnr_db": 21.0,
        "swd": 40.0,
        "evals_per_ray": 16.0,
        "seconds_per_step": 10.04 / 50,
        "train_seconds": 10.04,
        "last.r_t": 0.25,
    }
    assert wanted.items() <= found.scores.metrics.items()


def test_a_scene_is_fitted_and_scored_on_its_test_views(spec, tmp_path, monkeypatch):
    from mednerf_kit.engine import session
    from mednerf_kit.scene import evaluate, load

    views = [{"stem": "r_0", "psnr_db": 30.0, "lpips": None}]
    stand_in(monkeypatch, session, "train", trained)
    stand_in(monkeypatch, load, "load_fit", lambda call: call["device"])
    scoring_of = stand_in(
        monkeypatch,
        evaluate,
        "evaluate_scene",
        lambda call: {"evals_per_ray": 256.0, "per_view": views},
    )
    cell = replace(planned(spec)[0], recipe={"task": {"name": "fit"}})
    found = run.work(cell, tmp_path, "cpu", run.train_and_score)
    assert (found.status, found.scores.unit, found.scores.units) == (
        "done",
        "view",
        {"r_0": {"psnr_db": 30.0}},
    )
    assert found.scores.metrics["evals_per_ray"] == 256 and scoring_of[0]["limit"] == 8


@pytest.mark.parametrize(
    "levels, expected",
    [
        ([{"name": "stratified", "n": 32}], 32),
        ([{"name": "stratified", "n": 8}, {"name": "importance", "n": 16}], 8 + 24),
        ([{"name": "stratified", "n": 8}, {"name": "importance", "n": 16, "merge": False}], 8 + 16),
        ([{"name": "stratified", "n": 16}, {"name": "local", "n": 20, "kappa": 0.4}], 16 + 24),
    ],
)
def test_evaluations_per_ray_are_the_samples_that_are_there(levels, expected):
    assert scoring.evaluations_per_ray(levels) == expected


# Statistics


def made(values, seconds=None, *, limit=None):
    """Results from {(cell, scene, seed): [score per view]}."""
    done = []
    for (name, scene, seed), scores in values.items():
        cell = grid.Cell(name, scene, seed, scene, "chest", "quick", [], {}, None, limit)
        units = {f"r_{i}": {"psnr_db": v} for i, v in enumerate(scores)}
        metrics = {
            "psnr_db": sum(scores) / len(scores),
            "seconds_per_step": (seconds or {}).get((name, seed), 0.1),
        }
        done.append(Result(cell, "done", Scores(metrics, "view", units), device="cpu"))
    return done


A = [[30.1, 31.5, 29.7, 33.2, 28.8, 30.9, 31.1], [30.3, 31.0, 29.9, 33.0, 28.5, 31.2, 31.4]]
B = [[29.8, 31.6, 29.0, 32.1, 28.7, 30.1, 30.8], [29.9, 31.4, 29.3, 32.4, 28.2, 30.6, 30.5]]


def test_the_tests_are_scipys_on_differences_averaged_over_seeds():
    done = made(
        {(name, "s", k): scores[k] for k in (0, 1) for name, scores in (("a", A), ("b", B))}
    )
    found = statistics.compare(done, "a", "b", "psnr_db")
    differences = [(A[0][i] + A[1][i]) / 2 - (B[0][i] + B[1][i]) / 2 for i in range(7)]
    one, two = ([(s[0][i] + s[1][i]) / 2 for i in range(7)] for s in (A, B))
    assert found.difference == pytest.approx(sum(differences) / 7)
    assert found.ratio == pytest.approx(sum(one) / sum(two))
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert found.t == pytest.approx(stats.ttest_rel(one, two).pvalue)
    assert found.interval == pytest.approx(
        tuple(stats.ttest_rel(one, two).confidence_interval(0.95))
    )
    assert (found.n, found.unit, found.seeds) == (7, "view", 2)


def test_only_seeds_both_cells_finished_are_compared():
    values = {("a", "s", 0): A[0], ("a", "s", 1): A[1], ("b", "s", 1): B[1]}
    found = statistics.compare(made(values), "a", "b", "psnr_db")
    assert found.seeds == 1 and found.difference == pytest.approx(sum(A[1]) / 7 - sum(B[1]) / 7)
    assert (
        statistics.compare(made({("a", "s", 0): A[0], ("b", "s", 1): B[1]}), "a", "b", "psnr_db")
        is None
    )


def test_views_of_several_scenes_are_pairs_of_their_own():
    values = {
        (name, scene, 0): scores for scene in "st" for name, scores in (("a", A[0]), ("b", B[0]))
    }
    found = statistics.compare(made(values), "a", "b", "psnr_db")
    assert found.n == 14
    assert found.t == pytest.approx(stats.ttest_rel(A[0] * 2, B[0] * 2).pvalue)


def test_runs_alone_carry_no_test_however_many():
    values = {(name, "s", seed): [1.0] * 7 for name in "ab" for seed in range(8)}
    seconds = {("a", seed): 0.2 + 0.01 * seed for seed in range(8)}
    found = statistics.compare(made(values, seconds), "a", "b", "seconds_per_step")
    assert (found.n, found.unit, found.wilcoxon, found.t, found.interval) == (
        8,
        "run",
        None,
        None,
        None,
    )
    assert found.ratio == pytest.approx(2.35)


def test_few_pairs_and_equal_pairs():
    assert statistics.paired([0.1, 0.2, 0.3, 0.4, 0.5]) == (None, None, None)
    assert statistics.paired([0.0] * 6) == ((0.0, 0.0), 1.0, 1.0)
    interval, rank, t = statistics.paired([0.5] * 6)
    assert interval is None and t is None and rank == pytest.approx(2 / 2**6)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    assert statistics.holm([0.04, 0.001, 0.03, 0.9]) == pytest.approx([0.09, 0.004, 0.09, 0.9])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0] and statistics.holm([]) == []


def test_every_tested_row_is_corrected_and_the_others_are_not():
    done = made(
        {(name, "s", 0): scores for name, scores in (("a", A[0]), ("b", B[0]), ("c", A[1]))}
    )
    rows = statistics.compare_all(done, [("a", "b"), ("c", "b")], ["psnr_db", "seconds_per_step"])
    assert [row.metric for row in rows] == ["psnr_db", "seconds_per_step"] * 2
    tested = [row for row in rows if row.metric == "psnr_db"]
    assert [row.t_holm for row in tested] == statistics.holm([row.t for row in tested])
    assert all(row.t_holm is None for row in rows if row.metric != "psnr_db")


# What is shown

ABLATION = grid.Ablation(
    name="mine",
    about="What it shows.",
    base="chest",
    dataset="s",
    preset="quick",
    seeds=(0, 1),
    cells={"b": {}, "a": {"levels.0.n": 16, "augment": {"name": "none"}}},
    metrics=("psnr_db", "seconds_per_step", "lpips"),
)


WORDS = """# mine

What it shows.

Base `chest`, preset quick; dataset `s`. 2 cells × 2 seeds × 1 scene: 4 done (on cpu). Mean ± standard deviation over seeds.

| cell | differs by | seeds | psnr_db | seconds_per_step |
| :-- | :-- | --: | --: | --: |
| b | – | 2 | 30.314 ± 0.020 | 0.1000 ± 0 |
| a | `levels.0.n=16`, `augment={name: none}` | 2 | 30.76 ± 0 | 0.060 ± 0.014 |

No finished cell reports lpips.

## Paired tests

Cell − reference, paired over views, each averaged over the seeds that both finished. p: two-sided Wilcoxon signed-rank test \
and paired t-test, Holm-corrected over the rows of this table; the interval is the t-test's, not corrected. They speak of these \
seeds. A number that is known only per run has no test: so few seeds cannot carry one.

| cell | reference | metric | difference | 95 % interval | ratio | pairs | Wilcoxon p | Holm | t p | Holm |
| :-- | :-- | :-- | --: | --: | --: | --: | --: | --: | --: | --: |
| a | b | psnr_db | +0.443 | +0.0953 to +0.790 | 1.015 | 7 views × 2 seeds | 0.047 | 0.047 | 0.021 | 0.021 |
| a | b | seconds_per_step | -0.0400 | – | 0.600 | 2 runs | – | – | – | – |

*Research use only, not for diagnosis.*
"""


def test_the_table_word_for_word():
    done = made(
        {(n, "s", k): (A if n == "a" else B)[k] for k in (0, 1) for n in "ba"},
        {("a", 0): 0.05, ("a", 1): 0.07},
    )
    assert table.as_markdown(ABLATION, done) == WORDS


def test_several_scenes_have_a_mean_over_them_and_a_table_each():
    scores = {"b": B[0], "a": A[0]}
    values = {
        (n, scene, 0): [v + shift for v in scores[n]]
        for scene, shift in (("s", 0), ("t", 10))
        for n in "ba"
    }
    one = replace(ABLATION, seeds=(0,))
    text = table.as_markdown(one, made(values))
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["## Mean over scenes", "## s", "## t", "## Paired tests"]
    mean_b = sum(B[0]) / 7
    rows = [line.split(" | ")[3] for line in text.splitlines() if line.startswith("| b |")]
    assert rows == [table.number(mean_b + 5), table.number(mean_b), table.number(mean_b + 10)]
    assert "One seed: a screening" in text and "14 views" in text


def test_a_scene_that_is_missing_keeps_a_cell_out_of_the_mean():
    done = made({("b", "s", 0): B[0], ("b", "t", 0): B[0], ("a", "s", 0): A[0]})
    done.append(Result(replace(done[0].cell, name="a", scene="t"), "not run"))
    text = table.cells_table(replace(ABLATION, seeds=(0,)), done, ["psnr_db"], ["s", "t"])
    assert text.splitlines()[-1] == "| a | `levels.0.n=16`, `augment={name: none}` | not run | – |"


def test_seeds_alone_cannot_carry_a_test_and_the_table_says_so():
    done = [
        replace(r, scores=Scores(r.scores.metrics))
        for r in made({(n, "s", k): [1.0 + k] for k in (0, 1) for n in "ba"})
    ]
    text = table.as_markdown(ABLATION, done)
    assert "a few seeds alone cannot carry one" in text and "Wilcoxon signed-rank" not in text
    assert "| a | b | psnr_db | +0 | – | 1.000 | 2 runs | – | – | – | – |" in text


def test_an_ablation_nothing_of_which_has_run_still_has_a_table_and_a_figure():
    waiting = [
        replace(r, status="not run", scores=Scores({}))
        for r in made({(n, "s", k): [1.0] for k in (0, 1) for n in "ba"})
    ]
    text = table.as_markdown(ABLATION, waiting)
    assert "4 not run (on cpu)" in text and "Paired" not in text
    assert figure.as_png(ABLATION, waiting)[:4] == b"\x89PNG"


def test_the_figure_has_a_dot_for_every_seed_and_a_word_for_every_gap():
    from matplotlib import pyplot

    done = made({("b", "s", 0): B[0], ("b", "s", 1): B[1]})
    done.append(Result(replace(done[0].cell, name="a"), "failed", error="no"))
    panel = pyplot.subplots()[1]
    figure.draw(panel, done, ["b", "a"], "psnr_db")
    dots = [line for line in panel.lines if line.get_marker() == "o"]
    assert [sorted(line.get_xdata()) for line in dots] == [
        sorted(r.scores.metrics["psnr_db"] for r in done[:2])
    ]
    assert [text.get_text() for text in panel.texts] == ["failed"]
    pyplot.close("all")


# The command, and what is shipped


def test_a_dry_run_lists_the_cells_with_what_they_change(spec, tmp_path, capsys):
    assert (
        main(
            ["ablate", str(spec), "--dry-run", "--seeds", "0-2", "--outdir", str(tmp_path / "none")]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "second (3 not run): task.r1_gamma: - -> 0.001; levels.0.n: 40 -> 16" in out
    assert "third (3 not run): task.objective: hybrid -> posed" in out
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


SHIPPED = sorted(path.stem for path in (config.folder() / "ablations").glob("*.yaml"))


def bases(ablation):
    return {
        ablation.base,
        *(str(changes["base"]) for changes in ablation.cells.values() if "base" in changes),
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_cell_can_be_run(name):
    from mednerf_kit.engine.session import resolve

    ablation = grid.read(name)
    for base in sorted(bases(ablation)):
        resolve(ablation.dataset, base, ablation.preset, [])
    planned = grid.plan(replace(ablation, seeds=(0,)), {"any": ablation.dataset}, resolve)
    assert len(planned) == len(ablation.cells) >= 2
    recipes = [json.dumps(cell.recipe, sort_keys=True) for cell in planned]
    assert len(set(recipes)) == len(recipes), "two cells are the same"


def changed(ablation):
    """The options each cell changes in the first one's recipe, without their values."""

    def unchecked(dataset, base, preset, settings):
        recipe = config.load(base)
        sizes = recipe.pop("presets", {})
        return config.with_settings(config.overlaid(recipe, sizes.get(preset, {})), list(settings))

    first, *others = grid.plan(replace(ablation, seeds=(0,)), {"any": ablation.dataset}, unchecked)
    return {
        cell.name: sorted(
            line.split(":")[0] for line in grid.differences(first.recipe, cell.recipe)
        )
        for cell in others
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_grid_compares_the_same_things_at_every_preset(name):
    ablation = grid.read(name)
    # systems at equal pictures or time: their sizes fit each other only
    if name.startswith("presets"):
        with pytest.raises(UserError, match="steps of their own"):
            grid.resized(ablation, "default")
        return
    for preset in ("quick", "default"):
        other = changed(grid.resized(ablation, preset))
        assert other == changed(ablation) and all(other.values()), preset


@pytest.mark.parametrize("preset", ["quick", "default"])
def test_local_and_importance_sampling_start_from_as_many_samples_at_every_preset(preset):
    from mednerf_kit.engine.session import resolve

    ablation = grid.resized(grid.read("samplers_llff"), preset)
    fine = {
        cell.name: cell.recipe["levels"][1]["sampler"]["n"]
        for cell in grid.plan(ablation, {"any": "blocks"}, resolve)
    }
    assert fine == {"importance": 128, "importance_51": 51, "local_5e-4": 128, "released": 128}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_ablation_says_what_it_is_and_has_a_script(name):
    text = (config.folder() / "ablations" / f"{name}.yaml").read_text(encoding="utf-8")
    assert (
        text.startswith("# ") and "runs" in text.splitlines()[1] or "fits" in text.splitlines()[1]
    )
    assert text.count("\n") <= 60 and max(map(len, text.splitlines())) <= 130
    script = ROOT / "scripts" / f"ablate_{name}"
    assert os.access(script, os.X_OK) and f"ablate {name} " in script.read_text()
