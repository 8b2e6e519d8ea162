"""The Markdown of an ablation: mean ± standard deviation over seeds, and the paired tests."""

from __future__ import annotations

import math
import statistics as moments
from collections.abc import Sequence

from ... import DISCLAIMER
from .grid import Ablation, as_settings
from .results import Result
from .statistics import LEAST_PAIRS, Comparison, compare_all

NOTHING = "–"


def as_markdown(ablation: Ablation, results: Sequence[Result]) -> str:
    """The whole ``table.md``."""
    scenes = list(dict.fromkeys(r.cell.scene for r in results))
    reported = {name for r in results if r.status == "done" for name in r.scores.metrics}
    shown = [name for name in ablation.metrics if name in reported] or list(ablation.metrics)
    parts = [
        f"# {ablation.name}",
        *([ablation.about] if ablation.about else []),
        summary(ablation, results),
    ]
    if len(scenes) > 1:
        parts += ["## Mean over scenes", cells_table(ablation, results, shown, scenes)]
    for scene in scenes:
        parts += [f"## {scene}"] if len(scenes) > 1 else []
        parts.append(cells_table(ablation, results, shown, [scene]))
    if reported and (absent := [name for name in ablation.metrics if name not in reported]):
        parts.append(f"No finished cell reports {', '.join(absent)}.")
    parts += failures(results)
    parts += tests(ablation, results, shown)
    return "\n\n".join([*parts, f"*{DISCLAIMER}*"]) + "\n"


def summary(ablation: Ablation, results: Sequence[Result]) -> str:
    """How the grid was run and how far it came."""
    cell = results[0].cell
    scenes = dict.fromkeys(r.cell.dataset for r in results)
    shared = {
        setting.partition("=")[0]: setting
        for setting in cell.settings
        if all(setting in r.cell.settings for r in results)
    }
    size = [f"preset {ablation.preset}", *(f"`{setting}`" for setting in shared.values())]
    size += [f"at most {ablation.max_minutes:g} min a run"] if ablation.max_minutes else []
    devices = sorted({r.device for r in results if r.device})
    counts = [
        f"{n} {words}"
        for status, words in (
            ("done", "done"),
            ("failed", "failed"),
            ("started", "unfinished"),
            ("not run", "not run"),
        )
        if (n := sum(r.status == status for r in results))
    ]
    seeds = len(ablation.seeds)
    sizes = [
        f"{n} {word}{'s' * (n > 1)}"
        for n, word in ((len(ablation.cells), "cell"), (seeds, "seed"), (len(scenes), "scene"))
    ]
    text = (
        f"Base `{ablation.base}`, {', '.join(size)}; dataset "
        f"{', '.join(f'`{s}`' for s in scenes)}. "
        f"{' × '.join(sizes)}: "
        f"{', '.join(counts)}"
    ) + (f" (on {', '.join(devices)}). " if devices else ". ")
    text += f"Scored on {cell.limit} patients or views. " if cell.limit else ""
    if seeds == 1:
        return (
            text + "One seed: a screening, which cannot tell a small difference from the spread "
            "between seeds."
        )
    return text + "Mean ± standard deviation over seeds."


def cells_table(
    ablation: Ablation, results: Sequence[Result], metrics: Sequence[str], scenes: Sequence[str]
) -> str:
    """A Markdown table with a row for each cell.

    Over several scenes a seed counts where it is finished on all of them, as the mean over scenes.
    """
    rows = [
        ["cell", "differs by", "seeds", *metrics],
        [":--", ":--", "--:", *["--:"] * len(metrics)],
    ]
    for name, changes in ablation.cells.items():
        mine = [r for r in results if r.cell.name == name and r.cell.scene in scenes]
        per_seed = {
            seed: [r for r in mine if r.status == "done" and r.cell.seed == seed]
            for seed in ablation.seeds
        }
        whole = [runs for runs in per_seed.values() if len(runs) == len(scenes)]
        values = []
        for metric in metrics:
            known = [
                [r.scores.metrics[metric] for r in runs if metric in r.scores.metrics]
                for runs in whole
            ]
            values.append(
                with_spread([math.fsum(v) / len(v) for v in known if len(v) == len(scenes)])
            )
        differs = ", ".join(f"`{setting}`" for setting in as_settings(changes)).replace("|", "\\|")
        rows.append(
            [name, differs or NOTHING, _progress(mine, len(whole), len(ablation.seeds)), *values]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _progress(runs: Sequence[Result], whole: int, seeds: int) -> str:
    """How many seeds stand behind a row, and why not all."""
    failed = sum(r.status == "failed" for r in runs)
    if whole == seeds:
        return str(seeds)
    if not whole:
        return (
            "failed"
            if failed
            else "unfinished"
            if any(r.status == "started" for r in runs)
            else "not run"
        )
    return f"{whole} of {seeds}" + (f", {failed} failed" if failed else "")


def failures(results: Sequence[Result]) -> list[str]:
    """The sentence each failed run left."""
    lines = [
        f"- {r.cell.name}, seed {r.cell.seed}, {r.cell.scene}: {r.error}"
        for r in results
        if r.status == "failed"
    ]
    return ["Failed:", "\n".join(lines)] if lines else []


def tests(ablation: Ablation, results: Sequence[Result], metrics: Sequence[str]) -> list[str]:
    """The section of the paired tests."""
    finished = {r.cell.name for r in results if r.status == "done"}
    pairs = [pair for pair in ablation.pairs() if finished.issuperset(pair)]
    rows = compare_all(results, pairs, metrics)
    if not rows:
        return []
    units = sorted({row.unit for row in rows if row.wilcoxon is not None})
    about = (
        f"Cell − reference, paired over {' and '.join(f'{unit}s' for unit in units)}, each "
        "averaged over the seeds that "
        "both finished. p: two-sided Wilcoxon signed-rank test and paired t-test, "
        "Holm-corrected over the rows of this "
        "table; the interval is the t-test's, not corrected. They speak of these seeds. A "
        "number that is known only per run "
        "has no test: so few seeds cannot carry one."
    )
    if not units:
        about = (
            f"Means only: a test wants at least {LEAST_PAIRS} views or patients that both "
            "cells were scored on; a few seeds "
            "alone cannot carry one."
        )
    head = [
        "cell",
        "reference",
        "metric",
        "difference",
        "95 % interval",
        "ratio",
        "pairs",
        "Wilcoxon p",
        "Holm",
        "t p",
        "Holm",
    ]
    lines = [head, [":--", ":--", ":--", *["--:"] * 8], *(_test_row(row) for row in rows)]
    parts = ["## Paired tests", about, "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    missing = [
        f"{cell} – {reference}"
        for cell, reference in ablation.pairs()
        if (cell, reference) not in pairs
    ]
    return parts + (
        [f"Not compared, because a cell is missing: {', '.join(missing)}."] if missing else []
    )


def _test_row(row: Comparison) -> list[str]:
    interval = (
        f"{signed(row.interval[0])} to {signed(row.interval[1])}" if row.interval else NOTHING
    )
    pairs = f"{row.n} {row.unit}{'s' * (row.n > 1)}" + (
        f" × {row.seeds} seeds" if row.seeds > 1 else ""
    )
    ratio = NOTHING if row.ratio is None else f"{row.ratio:.3f}"
    p_values = [p_text(p) for p in (row.wilcoxon, row.wilcoxon_holm, row.t, row.t_holm)]
    return [
        row.cell,
        row.reference,
        row.metric,
        signed(row.difference),
        interval,
        ratio,
        pairs,
        *p_values,
    ]


def number(value: float, digits: int = 4) -> str:
    """A number with this many digits that count, and no more.

    >>> number(31.2345), number(0.012345), number(256.0), number(12345.6), number(0.0)
    ('31.23', '0.01235', '256', '12346', '0')
    """
    if value == round(value):
        return f"{value:.0f}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(decimals, 0), 8)}f}"


def signed(value: float) -> str:
    """A difference: three digits and its sign."""
    return ("+" if value >= 0 else "") + number(value, 3)


def with_spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation (n − 1), both to two digits of the latter; one value stands alone.

    >>> with_spread([30.0, 31.0, 32.5]), with_spread([256.0, 256.0])
    ('31.2 ± 1.3', '256 ± 0')
    >>> with_spread([0.123456]), with_spread([])
    ('0.1235', '–')
    """
    if not values:
        return NOTHING
    if len(values) == 1:
        return number(values[0])
    mean, spread = moments.fmean(values), moments.stdev(values)
    if spread <= 1e-9 * abs(mean):  # equal but for the order of additions
        return f"{number(mean)} ± 0"
    decimals = min(max(1 - math.floor(math.log10(spread)), 0), 8)
    return f"{mean:.{decimals}f} ± {spread:.{decimals}f}"


def p_text(p: float | None) -> str:
    """A p-value.

    >>> p_text(0.0312), p_text(2e-5), p_text(None)
    ('0.031', '<0.001', '–')
    """
    return NOTHING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
