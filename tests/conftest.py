"""What every test may rely on: no network, no data of this machine, caches in a temporary
folder.
"""

import os
import socket

import pytest
from longest import first_the_longest


def pytest_collection_modifyitems(items):
    """No process is left with a long file when the others have ended."""
    first_the_longest(items)


@pytest.fixture(autouse=True, scope="session")
def own_surroundings(tmp_path_factory):
    """Caches go to a folder of this test run, and no real data is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in [name for name in os.environ if name.startswith("MEDNERF_KIT_")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A connection to another machine is an error."""
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture
def example(tmp_path):
    """Writes a scene format's toy set and answers its root."""
    from mednerf_kit.data.posed.scene import SCENES

    def write(name):
        folder = tmp_path / name
        folder.mkdir()
        return SCENES[name].example(folder)

    return write


# Sets and runs that several modules look at and none changes


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory):
    """Six patients with their CTs, on one scale."""
    from tiny import make_set

    return make_set(tmp_path_factory.mktemp("sets") / "tiny")


@pytest.fixture(scope="session")
def tiny_run(tiny_set, tmp_path_factory):
    """A run of the posed task over ten steps, left to end."""
    from tiny_training import trained

    return trained(tiny_set, tmp_path_factory.mktemp("runs"), desc="whole")


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    """The same patients without CTs."""
    from tiny import make_set

    return make_set(tmp_path_factory.mktemp("sets") / "chest_toys", volumes=False)


@pytest.fixture(scope="session")
def mednerf(toys, tmp_path_factory):
    """A run of MedNeRF over two steps."""
    from tiny_gan import trained

    return trained("chest_mednerf", toys, tmp_path_factory.mktemp("runs"))
