"""The command line: help everywhere and fast, one line for a mistake, exit codes, machine-readable
lists.
"""

import configparser
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

from mednerf_kit import DISCLAIMER, cli, doctor
from mednerf_kit.commands import about, base
from mednerf_kit.commands import data as commands_data
from mednerf_kit.commands import evaluate as commands_evaluate
from mednerf_kit.commands import render as commands_render
from mednerf_kit.core.config import Registry
from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.data.drr import XraySetup
from mednerf_kit.data.radiograph import VIEWS
from mednerf_kit.study.ablation.run import Overrides, Workers
from mednerf_kit.study.generation.score import Sizes

ROOT = Path(__file__).resolve().parent.parent
MADE = [["data", "make", name] for name in commands_data.MADE]
COMMANDS = [[name] for name in cli.COMMANDS] + [["data", "make"], *MADE]
WORKING = [words for words in COMMANDS if words[0] not in ("list", "doctor", "data")] + [*MADE]


def run(*words: str) -> subprocess.CompletedProcess:
    """The command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "mednerf_kit", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )


def one_line(text: str) -> str:
    """The error line; fails when there is more than that and the disclaimer."""
    lines = [line for line in text.splitlines() if line != DISCLAIMER]
    assert len(lines) == 1 and lines[0].startswith("Error: "), text
    return lines[0]


def command_of(words: list[str]) -> click.Command:
    command = cli.cli
    for word in words:
        command = command.get_command(click.Context(command), word)
    return command


@pytest.mark.parametrize("words", [[], *COMMANDS], ids=" ".join)
def test_help_exits_0_and_lists_options(words, capsys):
    assert cli.main([*words, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: mednerf-kit") and "--help" in out
    assert err == ""


@pytest.mark.parametrize("words", [[], *WORKING], ids=" ".join)
def test_help_carries_the_disclaimer(words, capsys):
    cli.main([*words, "--help"])
    assert capsys.readouterr().out.rstrip().endswith(DISCLAIMER)


@pytest.mark.parametrize("words", [[], ["data"], ["data", "make"]])
def test_a_group_without_arguments_shows_its_help(words, capsys):
    assert cli.main(words) == 0
    assert "Commands:" in capsys.readouterr().out


def test_the_table_names_every_command_as_it_calls_itself():
    for name in cli.COMMANDS:
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert isinstance(command, click.Command) and command.help
    for words in WORKING:
        assert isinstance(command_of(words), base.Work), words


def every(words: list[str]) -> set[str]:
    """Names of all options of a command."""
    return {option.name for option in command_of(words).params}


#: Options of `drr` that make up its X-ray set-up, and of `score` that say how much it compares.
SETUP = {field.name for field in fields(XraySetup)}
SIZES = {field.name for field in fields(Sizes)}


@pytest.mark.parametrize(
    ("words", "module", "function", "ours"),
    [
        (["train"], "engine.session", "train", set()),
        (["project"], "invert.reconstruct", "project", set()),
        (["evaluate"], "invert.evaluate", "evaluate", {"as_json", *commands_evaluate.ONLY_SCENES}),
        (
            ["evaluate"],
            "scene.evaluate",
            "evaluate_run",
            every(["evaluate"]) - commands_evaluate.SCENE_OPTIONS,
        ),
        (["render"], "invert.render", "render", commands_render.ONLY_SCENES),
        (
            ["render"],
            "scene.render",
            "render_run",
            every(["render"]) - commands_render.SCENE_OPTIONS,
        ),
        (["sample"], "invert.render", "sample", set()),
        (["drr"], "data.drr", "make_drr", SETUP),
        (["drr"], "data.drr", "XraySetup", every(["drr"]) - SETUP),
        (["data", "make", "chest"], "data.cohort", "make_cohort", set()),
        (["data", "make", "ct"], "data.ct_cohort", "make_ct_cohort", SETUP),
        (["data", "make", "ct"], "data.drr", "XraySetup", every(["data", "make", "ct"]) - SETUP),
        (["score"], "study.generation.score", "score", {"as_json", *SIZES}),
        (["tomography"], "study.sparse_view.compare", "compare", set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_option_is_an_argument_of_the_function_behind_it(words, module, function, ours):
    target = getattr(importlib.import_module(f"mednerf_kit.{module}"), function)
    names = {option.name for option in command_of(words).params} - ours
    if function == "make_cohort":
        names.add("anatomy")  # the command's own name
    inspect.signature(target).bind(**dict.fromkeys(names))


@pytest.mark.parametrize(
    ("words", "record"),
    [
        (["ablate"], Overrides),
        (["ablate"], Workers),
        (["score"], Sizes),
        (["drr"], XraySetup),
        (["data", "make", "ct"], XraySetup),
    ],
)
def test_a_record_of_options_stands_on_the_command_line(words, record):
    assert {field.name for field in fields(record)} <= every(words)


def test_help_imports_no_torch_and_is_quick():
    """Quick in processor time: how long one waits depends on what else the machine does."""
    code = (
        "import sys; from mednerf_kit.cli import main; main(['--help']); "
        "sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    after = os.times()
    assert done.returncode == 0, done.stderr
    used = after.children_user + after.children_system
    assert 0 < used - before.children_user - before.children_system < 0.5


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["trian"], "train"),
        (["data", "mak"], "make"),
        (["train", "--datset", "chest"], "--dataset"),
        (["evaluate", "--input-angle", "3"], "--input-angles"),
        (["train", "--dataset", "chest", "--preset", "quik"], "quick"),
        (["list", "sampelr"], "sampler"),
    ],
)
def test_an_unknown_name_offers_the_nearest(words, nearest, capsys):
    assert cli.main(words) == 2
    assert nearest in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["train", "--dataset", "chest", "--max-minutes", "0"],
        ["project"],
        ["project", "--xray", "a.png", "--xray", "b.png", "--view", "PA"],
        ["project", "--xray", "a.png", "--view", "oblique"],
        ["render", "--seed", "1", "--latent", "x.safetensors"],
        ["sample", "--seeds", "3-1"],
        ["sample", "--seeds", "a"],
        ["sample", "--truncation", "2"],
        ["evaluate", "--input-angles", "north"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_exit_2(words, capsys):
    assert cli.main(words) == 2
    one_line(capsys.readouterr().err)


def test_in_a_process_of_its_own_too():
    done = run("train", "--preset", "huge")
    assert done.returncode == 2 and done.stdout == ""
    assert "Traceback" not in one_line(done.stderr)


@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        (UserError("got a", "wanted b", "do c"), 2, "got a; wanted b: do c."),
        (RunError("got a", "wanted b", "do c"), 1, "got a; wanted b: do c."),
        (ZeroDivisionError("two\nlines"), 1, "ZeroDivisionError: two (set MEDNERF_KIT_DEBUG=1"),
        (RuntimeError(), 1, "RuntimeError: without a message"),
        (ModuleNotFoundError("No module named 'lpips'", name="lpips"), 1, "pip install"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("no room"), 1, "too little memory (no room)"),
        (RuntimeError("could not create a primitive"), 1, "too little memory"),
        (RuntimeError("can't start new thread"), 1, "too little memory"),
        (ImportError("a.so: failed to map segment from shared object"), 1, "too little memory"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_failure_is_one_line(error, exit_code, words, monkeypatch, capsys):
    def fails():
        raise error

    monkeypatch.setattr(about, "doctor", click.Command("doctor", callback=fails))
    assert cli.main(["doctor"]) == exit_code
    assert words in one_line(capsys.readouterr().err.strip())


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setenv("MEDNERF_KIT_DEBUG", "1")
    monkeypatch.setattr(about, "doctor", click.Command("doctor", callback=lambda: 1 / 0))
    assert cli.main(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        f"'{sys.executable}' -m mednerf_kit --help | true",
        shell=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert done.stderr == ""


def test_working_commands_say_the_disclaimer_on_stderr(monkeypatch, capsys):
    probe = base.Work("doctor", callback=lambda: click.echo("result"))
    monkeypatch.setattr(about, "doctor", probe)
    assert cli.main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("result\n", DISCLAIMER)


def test_list_json_holds_every_registry_with_a_line_each(capsys):
    assert cli.main(["list", "--json"]) == 0
    out, err = capsys.readouterr()
    known = json.loads(out)
    assert err == ""
    assert {"recipe", "sampler", "selector"} <= set(known) and set(Registry.all) <= set(known)
    assert {"stratified", "importance", "local"} <= set(known["sampler"])
    unsaid = [
        f"{kind} {name}"
        for kind, entries in known.items()
        for name, text in entries.items()
        if not text
    ]
    assert unsaid == []


def test_list_of_one_kind_in_words(capsys):
    assert cli.main(["list", "sampler"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sampler:" and all(re.match(r"  \S+ +\S", line) for line in lines[1:])


def test_recipes_are_named_as_config_takes_them(tmp_path, monkeypatch):
    (tmp_path / "ablations").mkdir()
    (tmp_path / "chest.yaml").write_text("# The chest prior.\nname: x\n")
    (tmp_path / "ablations" / "flat.yaml").write_text("name: y\n")
    monkeypatch.setattr(about.config, "folder", lambda: tmp_path)
    assert about.recipes() == {"ablations/flat": "", "chest": "The chest prior."}


def test_doctor_json(capsys, monkeypatch, tmp_path):
    (tmp_path / "ct").mkdir()
    monkeypatch.setenv("MEDNERF_KIT_DATA", str(tmp_path))
    assert cli.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"] and facts["cpus"] >= 1
    assert facts["gflops"]["fp32"] > 0 and facts["gflops"]["bf16"] > 0
    assert facts["faster"] == max(facts["gflops"], key=facts["gflops"].get)
    assert facts["data"] == str(tmp_path) and facts["data_sets"] == ["ct"]


def test_doctor_names_what_is_missing_and_why_it_matters():
    facts = {
        "packages": {"torch": "2.1", "lpips": None},
        "data": None,
        "ffmpeg": None,
        "device": None,
        "torch_error": "bad",
        "priors": [],
    }
    text = doctor.in_words(facts)
    for words in (
        "lpips MISSING",
        "MEDNERF_KIT_DATA",
        "orbit.mp4",
        "torch cannot be imported: bad",
        "--run",
    ):
        assert words in text


def test_doctor_knows_the_packages_of_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = {
        re.split(r"[\[<>=~ ]", line)[0]
        for line in setup["options"]["install_requires"].split("\n")
        if line
    }
    assert wanted <= set(doctor.PACKAGES)


def test_numbers_and_views():
    assert base.Numbers().convert("0-2,7", None, None) == [0, 1, 2, 7]
    assert [base.View().convert(text, None, None) for text in ("ap", "Lateral", "-90")] == [
        "AP",
        "lateral",
        -90.0,
    ]
    assert base.View.films == tuple(VIEWS)


def test_drr_and_data_make_work_on_phantoms(tmp_path, capsys):
    assert (
        cli.main(
            [
                "drr",
                "--ct",
                "phantom:knee:7",
                "--views",
                "2",
                "--size",
                "16",
                "--start",
                "90",
                "--out",
                str(tmp_path / "one"),
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    folder = Path(out.splitlines()[-1])
    assert DISCLAIMER in err and sorted(path.name for path in folder.glob("*.png")) == [
        "xray_000.png",
        "xray_001.png",
    ]
    assert json.loads((folder.parent / "geometry.json").read_text())["angles_deg"] == [90.0, 270.0]
    assert (
        cli.main(
            [
                "data",
                "make",
                "knee",
                "--patients",
                "2",
                "--views",
                "1",
                "--size",
                "16",
                "--out",
                str(tmp_path / "set"),
            ]
        )
        == 0
    )
    assert (tmp_path / "set" / "split.json").is_file()
    capsys.readouterr()
    assert cli.main(["drr", "--ct", "phantom:elbow:7", "--out", str(tmp_path / "two")]) == 2
    one_line(capsys.readouterr().err)
    assert (
        cli.main(
            [
                "drr",
                "--ct",
                "phantom:knee:7",
                "--sod",
                "900",
                "--sdd",
                "800",
                "--out",
                str(tmp_path / "two"),
            ]
        )
        == 2
    )
    assert "SOD < SDD" in one_line(capsys.readouterr().err)
