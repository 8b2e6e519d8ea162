"""What an ablation shows: paired tests against scipy, the table word for word, the figure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats
from small_ablation import made

from mednerf_kit.study.ablation import figure, grid, statistics, table
from mednerf_kit.study.ablation.results import Result, Scores

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

Base `chest`, preset quick; dataset `s`. 2 cells × 2 seeds × 1 scene: 4 done (on cpu). Mean ± \
standard deviation over seeds.

| cell | differs by | seeds | psnr_db | seconds_per_step |
| :-- | :-- | --: | --: | --: |
| b | – | 2 | 30.314 ± 0.020 | 0.1000 ± 0 |
| a | `levels.0.n=16`, `augment={name: none}` | 2 | 30.76 ± 0 | 0.060 ± 0.014 |

No finished cell reports lpips.

## Paired tests

Cell − reference, paired over views, each averaged over the seeds that both finished. p: \
two-sided Wilcoxon signed-rank test and paired t-test, Holm-corrected over the rows of this \
table; the interval is the t-test's, not corrected. They speak of these seeds. A number that is \
known only per run has no test: so few seeds cannot carry one.

| cell | reference | metric | difference | 95 % interval | ratio | pairs | Wilcoxon p | Holm | t \
p | Holm |
| :-- | :-- | :-- | --: | --: | --: | --: | --: | --: | --: | --: |
| a | b | psnr_db | +0.443 | +0.0953 to +0.790 | 1.015 | 7 views × 2 seeds | 0.047 | 0.047 | \
0.021 | 0.021 |
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
