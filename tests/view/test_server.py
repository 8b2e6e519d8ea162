"""Who may ask, what they may read, and what an error looks like."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from mednerf_kit.core.errors import UserError
from mednerf_kit.engine.runs import read_run
from mednerf_kit.view import catalogue
from mednerf_kit.view.catalogue import BUNDLED, Catalogue, identity

TOKEN = "a-secret-of-the-tests"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "00000-chest"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("dataset: chest\nrecipe: {task: {name: prior}}\n")
    (folder / "metrics.json").write_text(json.dumps({"steps": 7}))
    (tmp_path / "private.txt").write_text("nobody's business")
    return folder


@pytest.fixture
def client(workbench: Callable[..., str], run: Path) -> Iterator[httpx.Client]:
    url = httpx.URL(workbench(run.parent))
    with httpx.Client(base_url=url.copy_with(path="/")) as client:
        yield client


def test_the_secret_is_asked_for(client: httpx.Client) -> None:
    assert client.get(f"/{TOKEN}/runs/list").status_code == 200
    for path in ("/", "/runs/list", "/another/runs/list", f"/{TOKEN}", f"/{TOKEN}x/runs/list"):
        refused = client.get(path)
        assert refused.status_code == 403 and "mednerf-kit view" in refused.text


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "", "["])
def test_another_name_is_refused(client: httpx.Client, host: str) -> None:
    assert client.get(f"/{TOKEN}/runs/list", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("origin", ["http://example.org", "null", "http://127.0.0.1:81"])
def test_another_site_is_refused(client: httpx.Client, origin: str) -> None:
    asked = client.get(f"/{TOKEN}/runs/list", headers={"origin": origin})
    assert asked.status_code == 403
    own = str(client.base_url).rstrip("/")
    same = client.get(f"/{TOKEN}/runs/list", headers={"origin": own})
    assert same.status_code == 200


def test_every_answer_carries_the_headers(client: httpx.Client) -> None:
    for path in (f"/{TOKEN}/", f"/{TOKEN}/runs/list", f"/{TOKEN}/nowhere", "/"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "name",
    [
        "../../private.txt",
        "%2e%2e/%2e%2e/private.txt",
        "/etc/hostname",
        "linked.txt",
        "previews",
        "",
    ],
)
def test_nothing_outside_an_entry_is_read(client: httpx.Client, run: Path, name: str) -> None:
    (run / "previews").mkdir()
    (run / "linked.txt").symlink_to(run.parent.parent / "private.txt")
    asked = client.get(f"/{TOKEN}/runs/file/{identity(run)}/{name}")
    assert asked.status_code in (400, 404) and "nobody" not in asked.text
    own = client.get(f"/{TOKEN}/runs/file/{identity(run)}/metrics.json")
    assert own.json() == {"steps": 7}


def test_a_page_of_a_run_cannot_read_this_one(client: httpx.Client, run: Path) -> None:
    (run / "report.html").write_text("<script>fetch('/')</script>")
    asked = client.get(f"/{TOKEN}/runs/file/{identity(run)}/report.html")
    assert asked.headers["content-security-policy"] == "sandbox allow-scripts"


def test_an_unknown_entry_is_a_sentence(client: httpx.Client) -> None:
    asked = client.get(f"/{TOKEN}/runs/file/0123/metrics.json")
    assert asked.status_code == 400 and "go back to Runs" in asked.json()["error"]


def test_a_broken_folder_says_what_is_wrong(run: Path) -> None:
    (run / "config.yaml").write_text("recipe: [")
    result = run.parent / "film"
    (result / "orbit").mkdir(parents=True)
    (result / "metrics.json").write_text("[1]")
    found = {entry.name: entry for entry in Catalogue([run.parent]).entries()}
    assert "config.yaml" in found["00000-chest"].problem
    assert "it holds a list" in found["film"].problem


def test_a_run_is_read_again_only_when_it_has_changed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(catalogue, "read_run", lambda folder: read.append(1) or read_run(folder))
    there = Catalogue([run.parent])
    for _ in range(3):
        assert there.entries()[0].numbers["steps"] == (7, "")
    assert len(read) == 1
    (run / "metrics.json").write_text(json.dumps({"steps": 12}))
    assert there.entries()[0].numbers["steps"] == (12, "") and len(read) == 2


def test_kinds_numbers_and_order(tmp_path: Path, run: Path) -> None:
    result = tmp_path / "out" / "film"
    (result / "orbit").mkdir(parents=True)
    (result / "metrics.json").write_text(json.dumps({"input_fit": {"held_out_psnr_db": 30.5}}))
    found = Catalogue([run.parent, result, "bundled:chest"]).entries()
    assert [(entry.kind, entry.name) for entry in found if entry.path.parent != BUNDLED] == [
        ("result", "film"),
        ("prior", "00000-chest"),
    ]
    assert found[0].numbers == {"fit of the input": (30.5, "dB")}
    assert found[-1].name == "bundled:chest" and found[-1].numbers["steps"][0] > 0
    with pytest.raises(UserError, match="go back to Runs"):
        Catalogue([])["0123"]


def test_the_first_page_imports_no_torch() -> None:
    code = (
        "import sys; from mednerf_kit.view import catalogue, server; "
        "from mednerf_kit.view.site import ROOMS, Site; ROOMS.entries; "
        "print(len(catalogue.Catalogue(['bundled']).entries()), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, has_torch = done.stdout.split()
    assert int(count) >= 3 and has_torch == "False"
