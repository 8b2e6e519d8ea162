"""Public scenes: downloaded whole or not at all, with a record of where they came from."""

import hashlib
import http.server
import json
import shutil
import threading
import zipfile
from functools import partial

import pytest

from mednerf_kit import cli
from mednerf_kit.core.errors import RunError
from mednerf_kit.data.posed import archives
from mednerf_kit.data.posed.scene import load_scene


def archive_of(root, name, path, *, inside="nerf_example_data/nerf_synthetic"):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"__MACOSX/{inside}/{name}/transforms_train.json", "junk")
        for member in sorted(root.rglob("*")):
            if member.is_file():
                file.write(member, f"{inside}/{name}/{member.relative_to(root)}")
    return path


@pytest.fixture
def served(tmp_path):
    """A folder that a server on this machine offers: the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_get_unpacks_a_scene_and_records_where_it_came_from(example, served, tmp_path, capsys):
    folder, address = served
    packed = archive_of(example("blender"), "lego", folder / "lego.zip")
    into = tmp_path / "data"
    assert (
        cli.main(["data", "get", "lego", "--into", str(into), "--url", f"{address}/lego.zip"]) == 0
    )
    out, err = capsys.readouterr()
    target = into / "nerf_synthetic" / "lego"
    assert out.splitlines()[-1] == str(target) and "SHA-256" in err
    assert load_scene(target).count == 2
    recorded = json.loads((into / "nerf_synthetic" / "lego.source.json").read_text())
    assert (
        recorded["sha256"] == hashlib.sha256(packed.read_bytes()).hexdigest()
        and recorded["bytes"] == packed.stat().st_size
    )
    assert sorted(p.name for p in into.rglob("*") if p.name.startswith(".")) == []
    packed.unlink()
    # it is there: nothing is asked
    assert archives.get_scene("lego", into=into, url="http://127.0.0.1:1/none") == target


def test_get_brings_all_scenes_of_an_archive(example, tmp_path):
    root, packed = example("nsvf"), tmp_path / "all.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for scene in ("Bike", "Toad", "Unheard"):
            for member in sorted(p for p in root.rglob("*") if p.is_file()):
                file.write(member, f"Synthetic_NSVF/{scene}/{member.relative_to(root)}")
    target = archives.get_scene("Toad", into=tmp_path / "data", url=str(packed))  # a plain path
    assert target == tmp_path / "data" / "Synthetic_NSVF" / "Toad" and load_scene(target).count == 2
    assert sorted(p.name for p in target.parent.iterdir() if p.is_dir()) == ["Bike", "Toad"]


def test_get_says_when_an_archive_has_changed(example, tmp_path):
    packed = archive_of(example("blender"), "lego", tmp_path / "lego.zip")
    into, said = tmp_path / "data", []
    shutil.rmtree(archives.get_scene("lego", into=into, url=packed.as_uri()))
    (tmp_path / "blender" / "more.txt").write_text("x")
    archive_of(tmp_path / "blender", "lego", packed)
    archives.get_scene("lego", into=into, url=packed.as_uri(), say=said.append)
    assert any("has changed" in line for line in said)


def test_get_leaves_nothing_of_a_damaged_archive(example, tmp_path):
    packed = archive_of(example("blender"), "lego", tmp_path / "lego.zip")
    bad = bytearray(packed.read_bytes())
    start = bad.find(b"IDAT")
    bad[start + 8] ^= 0xFF
    packed.write_bytes(bad)
    with pytest.raises(RunError, match="damaged.*CRC"):
        archives.get_scene("lego", into=tmp_path / "data", url=packed.as_uri())
    assert not list((tmp_path / "data" / "nerf_synthetic").iterdir())
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("lego/transforms_train.json", "[1, 2, 3] " * 50)
    bad = bytearray(packed.read_bytes())
    start = 30 + len("lego/transforms_train.json")  # behind the entry's header
    bad[start : start + 4] = b"\xff" * 4
    packed.write_bytes(bad)
    # not by its CRC: the deflated data cannot be unpacked
    with pytest.raises(RunError, match="damaged"):
        archives.get_scene("lego", into=tmp_path / "data", url=str(packed))
    assert not list((tmp_path / "data" / "nerf_synthetic").iterdir())
    packed.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(RunError, match="damaged"):
        archives.get_scene("lego", into=tmp_path / "data", url=packed.as_uri())


def test_get_without_a_network_says_what_to_put_where(tmp_path, capsys):
    code = cli.main(
        ["data", "get", "fern", "--into", str(tmp_path), "--url", "http://127.0.0.1:1/x.zip"]
    )
    err = capsys.readouterr().err
    assert (
        code == 1
        and err.count("\n") == 1
        and "nerf_llff_data/fern/poses_bounds.npy" in err
        and "unpack" in err
    )


def test_get_knows_its_names(capsys):
    assert cli.main(["data", "get", "lgo"]) == 2
    assert "did you mean 'lego'" in capsys.readouterr().err
    assert cli.main(["data", "get", "?"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        any(line.startswith("nerf_synthetic/lego ") for line in lines)
        and len(lines) == len(archives.known_scenes()) == 29
    )
    assert all(line.split()[-1].startswith("https://") for line in lines)
