"""``mednerf-kit drr`` and ``mednerf-kit data``: X-rays from CTs and phantoms, public scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .base import FILE, FOLDER, SPLITS, LazyGroup, Work, device_option

if TYPE_CHECKING:
    from ..data.posed.check import Report
    from ..data.xray_setup import XraySetup

ANATOMIES = ["chest", "knee"]
QUANTITIES = ["hu", "hu_plus_1000", "hu_plus_1024", "mu_per_mm", "mu_per_cm", "relative"]
FROM_SET_UP = "the geometry's"
film_option = click.option(
    "--film",
    metavar="NAME",
    show_default="line integrals",
    help="Expose the views as a film: sigmoid, scatter, bedside_70_kv … (data/README.md).",
)


#: Options of the X-ray set-up and of what is done to a CT: those of `drr` and `data make ct`.
PROJECTION = (
    click.option("--views", type=click.IntRange(min=1), default=72, help="Views on the orbit."),
    click.option("--size", type=click.IntRange(min=8), default=128, help="Pixels along a side."),
    click.option(
        "--geometry",
        type=FILE,
        show_default="that of the anatomy",
        help="A geometry.json; its angles win over --views.",
    ),
    click.option(
        "--sod",
        "--sad",
        "--dso",
        "source_to_isocentre_mm",
        type=float,
        metavar="MM",
        show_default=FROM_SET_UP,
        help="Source to isocentre.",
    ),
    click.option(
        "--sdd",
        "--sid",
        "--dsd",
        "source_to_detector_mm",
        type=float,
        metavar="MM",
        show_default=FROM_SET_UP,
        help="Source to detector.",
    ),
    click.option(
        "--detector-mm", type=float, show_default=FROM_SET_UP, help="Side of the detector."
    ),
    click.option(
        "--pixel-mm",
        type=float,
        show_default=FROM_SET_UP,
        help="Pixel pitch, instead of the detector's side.",
    ),
    click.option(
        "--offset-mm", type=float, nargs=2, help="Shift of the detector to image right and up."
    ),
    click.option(
        "--axis", type=click.Choice(["x", "y", "z"]), show_default=FROM_SET_UP, help="Orbit axis."
    ),
    click.option(
        "--start",
        "start_deg",
        type=float,
        default=0.0,
        metavar="DEG",
        help="First view angle; 270 is the PA film.",
    ),
    click.option(
        "--direction",
        type=click.Choice(["1", "-1"]),
        default="1",
        help="Sense in which the angle grows.",
    ),
    click.option(
        "--tilt",
        "tilt_deg",
        type=float,
        metavar="DEG",
        show_default=FROM_SET_UP,
        help="Cranial elevation of the source.",
    ),
    click.option(
        "--scale",
        "line_integral_scale",
        type=float,
        show_default="the set's, else 12 for a chest and 7 for a knee",
        help="Line integral that becomes white.",
    ),
    click.option(
        "--autoscale",
        type=click.Choice(["set", "view"]),
        default="set",
        help="view: each view to its own maximum.",
    ),
    click.option(
        "--isocentre",
        type=click.Choice(["body", "scan"]),
        show_default="body; of `drr` without --mask-table scan",
        help="On the axis through the middle of the body, or of the scan.",
    ),
    click.option(
        "--quantity",
        type=click.Choice(QUANTITIES),
        show_default="what the file says, else HU",
        help="What the CT's values are.",
    ),
    click.option("--mask-table", is_flag=True, help="Take out all that is not the patient."),
    click.option(
        "--mu-water",
        "mu_water_per_mm",
        type=float,
        default=0.0205,
        metavar="PER_MM",
        help="Attenuation of water, which HU are relative to.",
    ),
    click.option(
        "--air-below-hu",
        type=float,
        show_default="nothing cut",
        help="Count everything below this as air.",
    ),
    click.option(
        "--supersample",
        type=click.IntRange(min=1),
        default=1,
        help="Rays along each side of a pixel.",
    ),
    click.option(
        "--float-arrays", is_flag=True, help="Also NPY files of line integrals (or of films)."
    ),
    film_option,
)


def projection_options(command: Any) -> Any:
    """Give a command the options of :data:`PROJECTION`, in their order."""
    for option in reversed(PROJECTION):
        command = option(command)
    return command


@click.command(cls=Work)
@click.option(
    "--ct",
    required=True,
    metavar="PATH|phantom:chest:SEED",
    help="A volume (NIfTI, MHA, NRRD), a DICOM folder or a phantom.",
)
@click.option(
    "--out", type=FOLDER, required=True, help="The set this patient joins; made when absent."
)
@projection_options
@click.option(
    "--isocentre-mm",
    type=float,
    nargs=3,
    show_default="as --isocentre",
    help="Isocentre in the CT's LPS coordinates.",
)
@click.option(
    "--series",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="the only one",
    help="Which of the DICOM series in a folder, as they are listed.",
)
@click.option(
    "--spacing-mm",
    type=float,
    nargs=3,
    show_default="the file's",
    help="Size of the CT's voxels along i, j and k.",
)
@click.option(
    "--patient",
    "patient_name",
    metavar="NAME",
    show_default="from the CT",
    help="The patient's folder in the set.",
)
def drr(**options: Any) -> None:
    """Project a CT or a phantom into X-rays: 16-bit PNGs of line integrals, and geometry.json.

    At angle a the source stands at isocentre + SOD·(cos a, −sin a, 0) in LPS: 0° is a lateral, 270°
    the PA film. The last line on stdout is the patient's folder.
    """
    from ..core.memory import check_views_room
    from ..imaging.scans.read import read_scan

    side, scan = options["size"], None
    check_views_room(options["views"], side, side, supersample=options["supersample"])
    if not options["ct"].startswith("phantom:"):
        read = ("quantity", "series", "spacing_mm")
        scan = read_scan(options["ct"], **{name: options[name] for name in read})

    from ..data.drr import make_drr

    made = make_drr(setup=_setup_from(options), scan=scan, **options)
    for note in made.notes:
        click.echo(f"Note: {note.rstrip('.')}{'' if note.endswith('?') else '.'}", err=True)
    click.echo(made.folder)


def _setup_from(options: dict[str, Any]) -> XraySetup:
    """The X-ray set-up of a command's options, which are taken out of them."""
    from dataclasses import fields

    from ..data.xray_setup import XraySetup
    from ..imaging.geometry import Geometry

    geometry = options["geometry"]
    options["geometry"] = Geometry.from_json(geometry) if geometry else None
    options["direction"] = int(options["direction"])
    return XraySetup(**{field.name: options.pop(field.name) for field in fields(XraySetup)})


SUBCOMMANDS = {
    "make": ("data:make", "Make a cohort of phantoms, or of a folder of CTs, with its split."),
    "import": ("sets:bring", "Bring projections of other programs into a set."),
    "geometry": ("sets:geometry", "Turn an X-ray set-up into another program's, and draw it."),
    "get": ("data:get", "Download a public scene (lego, fern, …) into data/."),
    "check": ("data:check", "Say what a set or a scene holds and what looks wrong with it."),
    "depth": ("data:depth", "Render a trained scene's depth for views that have none."),
}


@click.group(cls=LazyGroup, table=SUBCOMMANDS)
def data() -> None:
    """Make cohorts of patients; get and check scenes."""


MADE = {
    "chest": ("data:make_chest", "A cohort of chest phantoms."),
    "knee": ("data:make_knee", "A cohort of knee phantoms."),
    "ct": ("data:make_ct", "A cohort of real patients, from a folder of CTs."),
}


@click.group(cls=LazyGroup, table=MADE)
def make() -> None:
    """Make a cohort of patients: DRRs, volumes, geometry.json and split.json."""


def _phantoms(anatomy: str) -> click.Command:
    """The command that makes a cohort of phantoms of an anatomy."""

    @click.command(name=anatomy, cls=Work, help=f"Make a cohort of {anatomy} phantoms.")
    @click.option(
        "--patients", type=click.IntRange(min=1), required=True, help="How many patients."
    )
    @click.option("--out", type=FOLDER, required=True, help="The set to make.")
    @click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        help="Seed of the first patient; the others follow.",
    )
    @click.option("--views", type=click.IntRange(min=1), default=72, help="Views on the orbit.")
    @click.option("--size", type=click.IntRange(min=8), default=128, help="Pixels along a side.")
    @film_option
    def command(**options: Any) -> None:
        from ..data.cohort import make_cohort

        click.echo(make_cohort(anatomy, **options))

    return command


make_chest, make_knee = _phantoms("chest"), _phantoms("knee")


@click.command(name="ct", cls=Work)
@click.option(
    "--from",
    "source",
    type=FOLDER,
    required=True,
    help="CTs, however deep: NIfTI, MHA and NRRD files, DICOM folders.",
)
@click.option("--out", type=FOLDER, required=True, help="The set to make, or to complete.")
@click.option(
    "--anatomy",
    type=click.Choice(ANATOMIES),
    show_default="by the folder's name, else chest",
    help="Whose set-up is the default; a chest without lungs is skipped.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    help="CTs at a time; each one is held in memory.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the split.")
@click.option(
    "--series",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="the largest",
    help="Which of the DICOM series in every folder.",
)
@projection_options
def make_ct(**options: Any) -> None:
    """Project every CT in a folder: DRRs, volumes, geometry.json, split.json and a contact sheet.

    cohort.csv says of every file what became of it and why. What is made already is kept where
    neither the CT nor the options have changed. The last line on stdout is the set's folder.
    """
    from ..data.set_folder import check_cts

    check_cts(options["source"])

    from ..data.ct_cohort import frontal_and_lateral, make_ct_cohort
    from ..viz import figures

    made = make_ct_cohort(setup=_setup_from(options), **options)
    for note in made.notes:
        click.echo(f"Note: {note}.", err=True)
    pictures = frontal_and_lateral(made)
    sheet = figures.strip(pictures, min(4, len(pictures)), made.patients)
    figures.write_png8(made.folder / "contact_sheet.png", sheet)
    click.echo(made.folder)


@click.command()
@click.argument("name")
@click.option("--into", type=FOLDER, default="data", help="Where scenes are kept.")
@click.option(
    "--url",
    metavar="URL",
    show_default="the public one",
    help="Another place of the same zip: a path, file:// or http(s)://.",
)
def get(*, name: str, into: Path, url: str | None) -> None:
    """Download the scene NAME: lego, fern, chair …, Truck …; `mednerf-kit data get ?` lists them.

    An archive's other scenes come with it. The last line on stdout is the scene's folder.
    """
    from ..data.posed.archives import get_scene, known_scenes

    if name == "?":
        for scene, archive in known_scenes().items():
            click.echo(f"{archive.scenes[scene]}/{scene:12s} {archive.url}")
        return
    click.echo(get_scene(name, into=into, url=url, say=lambda line: click.echo(line, err=True)))


@click.command()
@click.argument("scene")
@click.option(
    "--format",
    "format_",
    metavar="NAME",
    show_default="recognised",
    help="The scene's format (`mednerf-kit list`).",
)
@click.option(
    "--split",
    type=click.Choice([*SPLITS, "each"]),
    default="each",
    help="Which views are looked at.",
)
@click.option(
    "--downscale", type=click.IntRange(min=1), default=1, help="Divide the images' sides by this."
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="An option of the scene's node, for example ndc=false.",
)
def check(
    *, scene: str, format_: str | None, split: str, downscale: int, settings: tuple[str, ...]
) -> None:
    """Read SCENE (a folder, or blocks) and print the pre-flight report of its splits.

    A set of DRRs is reported as a whole first: polarity, range, handedness, density, angles. Where
    a scene has no training views, or none of their rays meets the box, nothing can be fitted: exit
    code 2.
    """
    from ..core.config import with_settings
    from ..core.errors import UserError
    from ..data.posed.check import check_seen
    from ..data.posed.scene import detect_format, load_scene, preflight_report
    from ..data.posed.splits import NoViews

    node = with_settings(
        {"scene": {"downscale": downscale}}, [f"scene.{setting}" for setting in settings]
    )["scene"]
    nothing: UserError | None = None
    if (format_ or detect_format(scene)) == "orbit" and scene not in ANATOMIES:
        from ..data.orbits import load_orbits
        from ..recon.set_checks import examine_set

        said = {name: node[name] for name in ("input_kind", "invert") if name in node}
        _print_report("set", examine_set(load_orbits(scene, split="all", **said)))
    for part in SPLITS[:3] if split == "each" else [split]:
        try:
            read = load_scene(scene, format=format_, split=part, **node)
        except NoViews as error:
            if split != "each":
                raise
            click.echo(f"{part}: {error}")
            nothing = error if part == "train" else nothing
            continue
        _print_report(part, preflight_report(read))
        try:
            if part in ("train", "all"):
                check_seen(read)
        except UserError as error:
            nothing = error
    if nothing is not None:
        raise nothing


def _print_report(part: str, found: Report) -> None:
    """Print what a check found: facts, then warnings."""
    lines = [*(f"  {line}" for line in found.facts), *(f"  ! {line}" for line in found.warnings)]
    click.echo("\n".join([f"{part}:", *lines]))


@click.command()
@click.option(
    "--run", required=True, metavar="RUN", help="The fit of the scene whose depth is rendered."
)
@click.option("--split", type=click.Choice(SPLITS), default="train", help="Whose views get depth.")
@click.option(
    "--mono",
    type=FOLDER,
    show_default="none",
    help="Monocular maps STEM.png or STEM.npy: fitted to the run's depth by scale and shift.",
)
@click.option(
    "--mono-kind",
    type=click.Choice(["inverse", "depth"]),
    default="inverse",
    help="What the values of these maps are linear in.",
)
@click.option(
    "--out",
    type=FOLDER,
    show_default="the scene's folder",
    help="Where depth_SPLIT.npz is written.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), show_default="all", help="Only this many views."
)
@click.option(
    "--frame",
    type=click.Choice(["file", "normalised"]),
    default="file",
    help="In lengths of the scene's files, or of the space it was fitted in.",
)
@device_option
def depth(**options: Any) -> None:
    """Write depth with confidence for a scene's training views, rendered from a fit of that scene.

    With --mono it comes from monocular maps, fitted to the scale of that fit. Prints the fit's own
    error where depth is known.
    """
    from ..engine.run_folder import read_meta

    read_meta(options["run"])

    from ..scene.depth_teacher import write_depth

    path, score = write_depth(**options)
    for name, value in score.items():
        click.echo(f"{name:14s} {value:.4g}", err=True)
    click.echo(path)
