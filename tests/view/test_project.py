"""The room of projections: looks at X-rays, jobs in a browser, and hostile uploads."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dicom_films
import httpx
import numpy as np
import pytest
import tiny_prior
from PIL import Image

from mednerf_kit.core.errors import UserError
from mednerf_kit.invert.input_xray import read_xrays
from mednerf_kit.prior.load import load_prior
from mednerf_kit.view import projection
from mednerf_kit.view.catalogue import BUNDLED, identity
from mednerf_kit.view.projection import Reading, project_options
from mednerf_kit.view.rooms import project as room

FAKE = (sys.executable, str(Path(__file__).with_name("fake_job.py")))
WAITS, QUICK = 0, 1  # seeds of fake_job.py


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a prior that is read in a moment."""
    folder = tmp_path_factory.mktemp("runs") / "00000-tiny"
    tiny_prior.snapshot(folder)
    recipe = {"task": {"name": "prior"}, "generator": tiny_prior.NODE}
    record = {"dataset": "chest", "recipe": recipe, "seed": 0, "split": "train", "limit": None}
    (folder / "config.yaml").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def xray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that is bright at the top left, and nowhere the same."""
    path = tmp_path_factory.mktemp("films") / "Erika_Mustermann.png"
    y, x = np.mgrid[:48, :64] / 64
    Image.fromarray((65535 * (1 - 0.9 * x) * (1 - 0.9 * y)).astype(np.uint16)).save(path)
    return path


@pytest.fixture
def client(workbench: Callable[..., str], prior: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    address = workbench(prior, tmp_path / "out", job_command=FAKE)
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


def given(client: httpx.Client, content: bytes, suffix: str = ".png") -> str:
    reply = client.post("project/xray", params={"suffix": suffix}, content=content)
    assert reply.status_code == 200
    return reply.json()["id"]


def test_a_look_says_what_the_reader_says(client: httpx.Client, prior: Path, xray: Path) -> None:
    id = given(client, xray.read_bytes())
    asked = {"prior": identity(prior), "view": "AP", "flip": "1", "input_kind": "display"}
    told = client.get(f"project/look/{id}", params=asked).json()
    (read,) = read_xrays(load_prior(prior), [xray], ["AP"], flip=True, input_kind="display")
    assert told["notes"] == [note.replace(xray.name, "xray.png") for note in read.notes]
    assert told["warnings"] == [text.replace(xray.name, "xray.png") for text in read.warnings]
    assert (told["kind"], told["mirrored"], told["angle_deg"]) == ("display", True, 90.0)
    assert told["shape"] == [48, 64] and told["bits"] == 16


def test_no_name_in_a_dicom_film_is_answered(
    client: httpx.Client, prior: Path, tmp_path: Path
) -> None:
    film = dicom_films.full_of_names(dicom_films.ramp())
    content = dicom_films.written(tmp_path, film).read_bytes()
    for whole in (content, content[:-2000]):  # read, and refused
        id = given(client, whole, ".dcm")
        told = client.get(f"project/look/{id}", params={"prior": identity(prior)}).json()
        assert ("error" in told) == (whole is not content)
        dicom_films.assert_clean({key: told[key] for key in told if key not in ("whole", "taken")})


def test_a_problem_of_the_prior_still_shows_the_picture(
    client: httpx.Client, prior: Path, xray: Path
) -> None:
    id = given(client, xray.read_bytes())
    asked = {"prior": identity(prior), "crop": "60,0,100,48", "rotate": 90}
    told = client.get(f"project/look/{id}", params=asked).json()
    assert "wanted at least 8×8 within its 48×64" in told["problem"]
    assert told["problem"].startswith(
        "got a crop of 100×48 pixels at column 60, row 0 of 'xray.png"
    )
    assert told["shape"] == [64, 48] and told["whole"].startswith("data:image/png")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prior": "0123"}, "go back to Runs"),
        ({"view": "sideways"}, "wanted one of AP, PA"),
        ({"rotate": "45"}, "wanted 0, 90, 180 or 270"),
        ({"crop": "1,2"}, "wanted auto, none or x,y,w,h"),
        ({"input_kind": "guess"}, "got input kind 'guess'"),
    ],
)
def test_options_that_nobody_can_follow(
    client: httpx.Client, prior: Path, xray: Path, changes: dict[str, str], sentence: str
) -> None:
    id = given(client, xray.read_bytes())
    told = client.get(f"project/look/{id}", params={"prior": identity(prior)} | changes).json()
    assert sentence in (told.get("error") or told["problem"])


def test_a_job_is_asked_for_what_the_command_line_takes(prior: Path) -> None:
    from mednerf_kit.view.catalogue import Catalogue

    (entry,) = Catalogue([prior]).entries()
    bundled = Catalogue(["bundled:phantom-chest"]).entries()[0]
    options = project_options(
        entry, {"view": "265", "samples": "2", "size": 32, "max_minutes": 0.5, "update": False}
    )
    assert options == {
        "run": str(prior.resolve()),
        "view": [265.0],
        "input_kind": "auto",
        "invert": False,
        "rotate": 0,
        "flip": False,
        "crop": "auto",
        "fit": "pad",
        "samples": 2,
        "update": False,
        "seed": 0,
        "size": 32,
        "max_minutes": 0.5,
    }
    assert project_options(bundled, {})["run"] == "bundled:phantom-chest"
    for bad in ({"samples": 99}, {"seed": "x"}, {"size": 4}, {"max_minutes": "nan"}):
        with pytest.raises(UserError, match="wanted a number from"):
            project_options(entry, bad)
    assert Reading.of({}) == Reading()


def test_an_upload_that_is_too_long(client: httpx.Client, tmp_path: Path) -> None:
    """Two gigabytes are refused before they are read; of an unknown length, on the way."""
    url = client.base_url
    with socket.create_connection((url.host, url.port), timeout=5) as raw:
        head = f"POST {url.path}project/xray?suffix=.png HTTP/1.1\r\nHost: {url.host}\r\n"
        raw.sendall(f"{head}Content-Length: {2 << 30}\r\n\r\n".encode() + b"x" * 1000)
        said = b""
        while b"}" not in said:
            said += raw.recv(65536)
        reply = said.decode()
    assert " 413 " in reply.splitlines()[0]
    assert "got a file of 2048 MB; wanted at most 256 MB" in reply

    def endless() -> Iterator[bytes]:
        part = bytes(1 << 20)
        for _ in range(12):
            yield part

    most, room.MOST_BYTES = room.MOST_BYTES, 4 << 20
    try:
        reply = client.post("project/xray", content=endless())
        assert reply.status_code == 413 and "wanted at most 4 MB" in reply.json()["error"]
    finally:
        room.MOST_BYTES = most
    assert not list((tmp_path / "out" / ".jobs").glob("*"))  # nothing is kept of either


def test_strangers_give_nothing(client: httpx.Client, tmp_path: Path, xray: Path) -> None:
    content, inside = xray.read_bytes(), client.base_url.path
    for headers, status in (
        ({"host": "example.org"}, 421),
        ({"origin": "http://example.org"}, 403),
    ):
        assert client.post("project/xray", content=content, headers=headers).status_code == status
    without = client.base_url.copy_with(path="/project/xray")
    assert httpx.post(without, content=content).status_code == 403
    assert not (tmp_path / "out" / ".jobs").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "job.json").write_text('{"xray": "job.json", "state": "done"}')
    for id in ("..", "%2e%2e", "..%2f..", "0123456789ab", "%00"):
        for what in (f"look/{id}", f"picture/{id}"):
            reply = client.get(client.base_url.copy_with(path=f"{inside}project/{what}"))
            assert reply.status_code in (400, 404)
        for what in ("start", "stop", "again", "remove"):
            reply = client.post(client.base_url.copy_with(path=f"{inside}project/{what}/{id}"))
            assert reply.status_code in (400, 404, 405)
    assert (tmp_path / "out" / "job.json").exists()


def test_damaged_files_are_sentences_without_names(
    client: httpx.Client, prior: Path, tmp_path: Path
) -> None:
    film = dicom_films.film_tags(
        dicom_films.ramp(), PatientName="Mustermann^Erika", PatientID="4711"
    )
    whole = dicom_films.written(tmp_path, film).read_bytes()
    asked = {"prior": identity(prior)}
    told = client.get(f"project/look/{given(client, whole, '.dcm')}", params=asked)
    assert told.status_code == 200 and told.json()["shape"] == [40, 48]
    assert "Mustermann" not in told.text and "4711" not in told.text
    for content, suffix in (
        (whole[: len(whole) // 2], ".dcm"),
        (whole[:400], ".dcm"),
        (b"no picture at all", ".png"),
        (b"no picture at all", ".exe"),
    ):
        id = given(client, content, suffix)
        refused = client.get(f"project/look/{id}", params=asked)
        assert refused.status_code == 400
        sentence = refused.json()["error"]
        assert sentence.startswith("got 'xray") and ";" in sentence
        assert "Mustermann" not in sentence and str(tmp_path) not in sentence
    empty = client.post("project/xray", content=b"")
    assert empty.status_code == 400 and "got an empty file" in empty.json()["error"]
    kept = [path.name for path in (tmp_path / "out" / ".jobs").glob("*/xray*")]
    assert sorted(kept) == ["xray", "xray.dcm", "xray.dcm", "xray.dcm", "xray.png"]


def test_a_full_disk_is_a_sentence(
    client: httpx.Client, xray: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(path: Path, mode: str) -> Any:
        return open("/dev/full", mode, buffering=0)

    monkeypatch.setattr(room, "open", full, raising=False)
    reply = client.post("project/xray", content=xray.read_bytes())
    assert reply.status_code == 500 and "No space left" in reply.json()["error"]
    assert not list((tmp_path / "out" / ".jobs").glob("*"))
    monkeypatch.undo()
    assert given(client, xray.read_bytes())


def test_options_of_a_job_are_checked(client: httpx.Client, prior: Path, xray: Path) -> None:
    id = given(client, xray.read_bytes())
    good = {"prior": identity(prior), "seed": QUICK}
    for content, status in (
        (b"{", 400),
        (b"[]", 400),
        (b"x" * 20_000, 413),
        (json.dumps(good | {"name": "../../up"}).encode(), 400),
        (json.dumps(good | {"samples": -1}).encode(), 400),
    ):
        reply = client.post(f"project/start/{id}", content=content)
        assert reply.status_code == status and reply.json()["error"]
    assert client.get("project/jobs").json()["jobs"] == []
    reply = client.post(f"project/start/{id}", content=json.dumps(good))
    assert reply.json()["state"] == "waiting"


def ready(page: Any) -> None:
    page.wait_for_selector("button.main:enabled")


def grey(page: Any, label: str, x: float, y: float) -> int:
    """The grey value of a canvas at a place in [0, 1]²."""
    canvas = page.get_by_role("img", name=label)
    return canvas.evaluate(
        "(c, [x, y]) => c.getContext('2d').getImageData(Math.floor(x * (c.width - 1)), "
        "Math.floor(y * (c.height - 1)), 1, 1).data[1]",
        [x, y],
    )


def test_the_picture_follows_the_buttons(
    workbench: Callable[..., str], page: Any, prior: Path, xray: Path
) -> None:
    page.goto(workbench(prior) + "#project")
    page.get_by_label("X-ray file").set_input_files(xray)
    ready(page)
    read, label = "The X-ray as it is read", "The X-ray as the prior takes it"

    def corners(name: str = read) -> list[bool]:
        """Which corners are bright: top left, top right, bottom left, bottom right."""
        return [grey(page, name, x, y) > 150 for y in (0.02, 0.98) for x in (0.02, 0.98)]

    page.get_by_label("Grey values").select_option("line integrals (a DRR)")
    ready(page)
    assert corners() == [True, False, False, False]
    page.get_by_role("button", name="Turn right").click()
    ready(page)
    assert corners() == [False, True, False, False]
    page.get_by_role("button", name="Mirror").click()
    ready(page)
    assert corners() == [True, False, False, False]
    page.get_by_role("button", name="Turn right").click()  # as it is shown: mirrored
    ready(page)
    assert corners() == [False, True, False, False]
    page.get_by_role("button", name="Invert").click()
    ready(page)
    assert corners() == [True, False, True, True]
    page.get_by_role("button", name="Invert").click()
    ready(page)
    page.get_by_label("Shape").select_option("cut to a square")
    ready(page)
    assert corners(label) == [False, True, False, False]
    page.get_by_label("View", exact=True).select_option("AP")  # an AP film is mirrored into place
    ready(page)
    assert corners(label) == [True, False, False, False]
    assert page.get_by_text("view AP, mirrored, at 90°").count() == 1
    page.get_by_label("Field").select_option("a rectangle …")
    page.get_by_label("Width of the rectangle in pixels").fill("20")
    page.get_by_label("Width of the rectangle in pixels").press("Tab")
    ready(page)
    page.get_by_text("What was read, done and assumed").click()
    assert page.get_by_text("cut to 20×48 pixels from column 0, row 0").count() == 1
    before = grey(page, read, 0.5, 0.5)
    page.get_by_label("Shown as white from").fill("50")
    assert grey(page, read, 0.5, 0.5) == pytest.approx(min(255, 2 * before), abs=3)


def test_a_job_survives_a_reload_and_two_browsers_share_the_queue(
    workbench: Callable[..., str], page: Any, chromium: Any, prior: Path, xray: Path, tmp_path: Path
) -> None:
    address = workbench(prior, tmp_path / "out", job_command=FAKE) + "#project"
    other = chromium.new_context().new_page()
    for one, name in ((page, "first"), (other, "second")):
        one.goto(address)
        one.get_by_label("X-ray file").set_input_files(xray)
        ready(one)
        one.get_by_label("Name of the result").fill(name)
        one.get_by_role("button", name="Start", exact=True).click()
    first, second = (
        page.get_by_role("listitem").filter(has_text=name) for name in ("first", "second")
    )
    first.get_by_text("patients of the prior, step 10 of 40").wait_for()
    second.get_by_text("next in the queue").wait_for()
    page.reload()
    first.get_by_text("step 10 of 40").wait_for()
    assert first.get_by_role("progressbar").get_attribute("value") == "10"
    first.get_by_role("img", name="X-ray, projection and signed error").wait_for()
    other.get_by_role("button", name="Stop second").click()
    second.get_by_text("stopped by hand").wait_for()
    (tmp_path / "go").touch()
    link = first.get_by_role("link", name="Open the result")
    link.wait_for()
    assert link.get_attribute("href") == f"#result?entry={identity(tmp_path / 'out' / 'first')}"
    second.get_by_role("button", name="Start again second").click()
    second.get_by_role("link", name="Open the result").wait_for()
    other.close()


def test_from_an_xray_to_its_result(
    workbench: Callable[..., str], page: Any, xray: Path, tmp_path: Path
) -> None:
    """By the bundled prior, as quick as it goes: a little of everything is real."""
    page.goto(workbench("bundled:phantom-chest", tmp_path / "out") + "#project")
    page.get_by_label("X-ray file").set_input_files(xray)
    ready(page)
    page.get_by_label("Grey values").select_option("line integrals (a DRR)")
    ready(page)
    for label, value in (
        ("Random patients", "1"),
        ("Minutes at most", "0.002"),
        ("Pixels of a view", "16"),
        ("Name of the result", "my film"),
    ):
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Follow the X-ray beyond the prior").uncheck()
    page.get_by_role("button", name="Start", exact=True).click()
    link = page.get_by_role("link", name="Open the result")
    failed = page.locator(".job[data-state=failed]")
    link.or_(failed).first.wait_for(timeout=240_000)
    assert not failed.count(), failed.all_inner_texts()
    metrics = json.loads((tmp_path / "out" / "my film" / "metrics.json").read_text())
    assert metrics["orbit"]["cols"] == 16 and metrics["inputs"][0]["view"] == "PA"
    assert Path(metrics["inputs"][0]["file"]).name == "xray.png"
    assert "Mustermann" not in json.dumps(metrics)
    link.click()
    page.wait_for_selector("body[data-ready=result]")
    assert not (tmp_path / "out" / ".jobs" / "result").exists()


def test_a_prior_is_read_once(prior: Path, xray: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mednerf_kit.view.catalogue import Catalogue

    projection._known_prior.cache_clear()
    (entry,) = Catalogue([prior]).entries()
    for view in ("PA", "lateral"):
        assert projection.look(xray, Reading(view=view), entry)["view"] == view
    assert projection._known_prior.cache_info().misses == 1
    assert BUNDLED not in prior.parents
