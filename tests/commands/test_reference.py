"""The reference of variants and options: how docstrings are read, and that the page is complete."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from mednerf_kit.cli import main
from mednerf_kit.commands import about
from mednerf_kit.commands.reference import (
    first_paragraph,
    option_texts,
    options,
    reference,
    undocumented,
)
from mednerf_kit.core import config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"


class Ball:
    """A ball, drawn with
    :class:`~mednerf_kit.core.types.Rays` or ``rays``.

    Its silhouette is a disc.

    Options:
        radius_mm: half its width, where the
            ball is widest.
        low, high: ends of the window, `a|b`.

    The list ends here.
        colour: no option.
    """

    def __init__(
        self,
        *,
        radius_mm: float,
        low: float = 0.0,
        high: int | None = None,
        shape: Literal["round", "flat"] = "round",
        sizes: tuple[int, ...] = (1, 2),
        smooth: bool = True,
        box: Any = None,
    ) -> None: ...


@dataclass(frozen=True, kw_only=True)
class CubeOptions:
    """What a cube is made of.

    Options:
        side_mm: length of an edge.
    """

    side_mm: float = 1.0
    hollow: bool = False


class Cube:
    """A cube."""

    def __init__(self, options: CubeOptions, *, box: Any) -> None: ...


@pytest.fixture
def solids(monkeypatch):
    """A registry of two variants, seen by nobody else."""
    monkeypatch.setattr(config.Registry, "all", dict(config.Registry.all))
    made: config.Registry = config.Registry("field")
    made.register("ball")(Ball)
    made.register("cube")(Cube)
    return {"field": made}


def test_an_options_list_is_read_with_its_continuations_and_ends_with_its_indent():
    assert option_texts(Ball) == {
        "radius_mm": "half its width, where the ball is widest.",
        "low": "ends of the window, `a|b`.",
        "high": "ends of the window, `a|b`.",
    }


def test_a_docstring_without_a_list_has_no_texts():
    def plain(*, n: int = 1) -> None:
        """Nothing is said of n."""

    assert option_texts(plain) == {}


def test_the_texts_of_a_record_of_options_stand_for_its_class():
    assert option_texts(Cube) == {"side_mm": "length of an edge."}


def test_options_come_in_the_order_of_the_signature_without_what_the_program_supplies():
    names = ["radius_mm", "low", "high", "shape", "sizes", "smooth"]
    assert [option.name for option in options("field", Ball)] == names
    assert [option.name for option in options("phantom", Ball)] == [*names, "box"]
    assert [option.name for option in options("field", Cube)] == ["side_mm", "hollow"]


def test_roles_and_double_backticks_become_markdown():
    assert first_paragraph(Ball) == "A ball, drawn with `mednerf_kit.core.types.Rays` or `rays`."


def test_the_page_has_a_table_of_every_variant(solids):
    page = reference({"round": "A `ball` | no cube."}, solids)
    assert "| `round` | A `ball` \\| no cube. |" in page and "## Field\n" in page
    rows = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") >= 5]
    assert rows[-8:] == [
        "| `radius_mm` | float | must be given | half its width, where the ball is widest. |",
        "| `low` | float | `0.0` | ends of the window, `a\\|b`. |",
        "| `high` | int or null | null | ends of the window, `a\\|b`. |",
        "| `shape` | `round`, `flat` | `round` |  |",
        "| `sizes` | tuple | `[1, 2]` |  |",
        "| `smooth` | bool | true |  |",
        "| `side_mm` | float | `1.0` | length of an edge. |",
        "| `hollow` | bool | false |  |",
    ]


def test_options_that_variants_share_are_shown_once(solids):
    class Rounder(Ball):
        """A rounder ball."""

    solids["field"].register("rounder")(Rounder)
    page = reference({}, solids)
    assert page.count("| `radius_mm` |") == 1
    assert "Its other options are those of `ball`." in page


def test_options_without_a_text_are_named(solids):
    assert undocumented(solids) == [
        "field ball.shape",
        "field ball.sizes",
        "field ball.smooth",
        "field cube.hollow",
    ]


def test_the_command_writes_the_page(tmp_path, capsys):
    path = tmp_path / "reference.md"
    assert main(["list", "--docs", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    page = path.read_text(encoding="utf-8")
    assert "| `chest` |" in page and "## Sampler" in page and "### `importance`" in page


def test_every_option_of_the_package_has_a_text():
    assert undocumented(about.registries()) == []


def test_the_page_in_the_repository_is_up_to_date():
    written = reference(about.recipes(whole=True), about.registries())
    assert PAGE.read_text(encoding="utf-8") == written, "run: mednerf-kit list --docs"
