"""Cohorts of phantoms: what is written, what is cached, what an interrupted make leaves behind."""

import json

import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.data import cohort
from mednerf_kit.data.cohort import make_cohort, phantom_cohort
from mednerf_kit.data.drr import XraySetup, make_drr
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.imaging.geometry import DEFAULTS

SIZE, VIEWS = 16, 4


def test_a_cohort_is_split_and_loads(tmp_path):
    root = make_cohort("knee", patients=4, seed=7, views=VIEWS, size=SIZE, out=tmp_path / "cohort")
    split = json.loads((root / "split.json").read_text())
    assert (
        sorted(sum(split.values(), [])) == [f"knee-{seed:05d}" for seed in range(7, 11)]
        and len(split["test"]) == 1
    )
    train = load_orbits(root)
    assert list(train.patients) == split["train"] and set(train.volumes) == set(train.patients)
    assert train.geometry == DEFAULTS["knee"].resized(SIZE).orbit(VIEWS)
    alone = load_orbits(
        make_drr(
            "phantom:knee:7", out=tmp_path / "drr", setup=XraySetup(views=VIEWS, size=SIZE)
        ).folder.parent,
        split="all",
    )
    whole = load_orbits(root, split="all")
    assert torch.equal(alone.images[0], whole.images[0]) and whole.seen_before(
        alone.all_fingerprints()
    ) == ("knee-00007",)


def test_an_interrupted_cohort_is_completed_and_a_finished_one_refused(tmp_path, monkeypatch):
    write = cohort.write_patient

    def stop_at_third(folder, *args, **options):
        if folder.name == "knee-00002":
            raise KeyboardInterrupt
        write(folder, *args, **options)

    monkeypatch.setattr(cohort, "write_patient", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        make_cohort("knee", patients=3, views=VIEWS, size=SIZE, out=tmp_path / "a")
    assert not (tmp_path / "a" / "split.json").exists()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*/xray_000.png")}
    monkeypatch.setattr(cohort, "write_patient", write)
    with pytest.raises(UserError, match="not empty"):
        make_cohort("knee", patients=3, views=VIEWS + 1, size=SIZE, out=tmp_path / "a")
    make_cohort("knee", patients=3, views=VIEWS, size=SIZE, out=tmp_path / "a")
    assert done and {path: path.stat().st_mtime_ns for path in done} == done
    assert load_orbits(tmp_path / "a", split="all").patients == (
        "knee-00000",
        "knee-00001",
        "knee-00002",
    )
    with pytest.raises(UserError, match="not empty"):
        make_cohort("knee", patients=3, views=VIEWS, size=SIZE, out=tmp_path / "a")
    for options, said in [
        ({"anatomy": "kne"}, "did you mean 'knee'"),
        ({"patients": 0}, "at least one"),
    ]:
        with pytest.raises(UserError, match=said):
            make_cohort(**{"anatomy": "knee", "patients": 1, "out": tmp_path / "b", **options})


def test_names_mean_cached_phantoms_with_seeds_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDNERF_KIT_CACHE", str(tmp_path / "cache"))
    sizes = {"size": SIZE, "views": VIEWS}
    counts = {"train": 2, "val": 1, "test": 2}
    train = load_orbits("knee", cohort=counts, **sizes)
    assert train.patients == ("knee-00000", "knee-00001") and train.images.shape == (
        2,
        VIEWS,
        SIZE,
        SIZE,
    )
    assert train.root.is_relative_to(tmp_path / "cache") and f"-{cohort.phantoms.VERSION}" in str(
        train.root
    )
    assert "2 of 2" in capsys.readouterr().err and len(list(train.root.glob("knee-*"))) == 2, (
        "only the split wanted is made"
    )
    assert load_orbits("knee", split="test", cohort=counts, limit=1, **sizes).patients == (
        "knee-20000",
    )
    everyone = load_orbits("knee", split="all", cohort=counts, **sizes)
    assert everyone.patients == (
        "knee-00000",
        "knee-00001",
        "knee-10000",
        "knee-20000",
        "knee-20001",
    )
    assert load_orbits(train.root, split="val").patients == ("knee-10000",), (
        "the cache is a set like any other"
    )

    monkeypatch.setattr(cohort, "write_patient", lambda *args, **options: pytest.fail("made again"))
    capsys.readouterr()
    root, split = phantom_cohort("knee", **counts, **sizes)
    assert (
        root == train.root
        and split["test"] == ["knee-20000", "knee-20001"]
        and capsys.readouterr().err == ""
    )


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDNERF_KIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cohort.cache_dir() == tmp_path / "mednerf-kit"
    monkeypatch.setenv("MEDNERF_KIT_CACHE", str(tmp_path / "mine"))
    assert cohort.cache_dir() == tmp_path / "mine"


def test_threads_change_no_pixel(tmp_path, monkeypatch):
    for name, cpus in (("a", 1), ("b", 3)):
        monkeypatch.setattr(cohort.os, "cpu_count", lambda cpus=cpus: cpus)
        make_cohort("knee", patients=3, views=VIEWS, size=SIZE, out=tmp_path / name, progress=False)
    a, b = (load_orbits(tmp_path / name, split="all") for name in "ab")
    assert torch.equal(a.images, b.images)


def test_a_cohort_of_films_equals_the_films_of_its_patients(tmp_path):
    options = {"views": 2, "size": SIZE}
    root = make_cohort("chest", patients=2, out=tmp_path / "films", film="bedside_70_kv", **options)
    made = make_drr(
        "phantom:chest:1", out=tmp_path / "one", setup=XraySetup(film="bedside_70_kv", **options)
    )
    whole, one = (load_orbits(folder, split="all") for folder in (root, made.folder.parent))
    assert whole.geometry.line_integral_scale is None and torch.equal(
        whole.images[1], one.images[0]
    )
    assert not torch.equal(whole.images[0], whole.images[1])
    with pytest.raises(UserError, match="wanted one of"):
        make_cohort("chest", patients=1, out=tmp_path / "none", film="sepia")
    assert not (tmp_path / "none").exists()
