"""Films through `project`: whose scale is known, what is said of the rest, and the fitted curve."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dicom_films import film_tags, written
from tiny_prior import GEOMETRY, QUICK, orbit_of, snapshot

from mednerf_kit import cli
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.pictures import read_png
from mednerf_kit.imaging.film import CURVES
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.invert import reconstruct as module
from mednerf_kit.invert.input_xray import read_xray, read_xrays
from mednerf_kit.invert.members import Posterior
from mednerf_kit.invert.outputs import one_patient
from mednerf_kit.invert.predict import predict
from mednerf_kit.invert.result import TONE_NODES, Result
from mednerf_kit.prior.load import load_prior
from mednerf_kit.viz import figures


@pytest.fixture(scope="module")
def prior_path(tmp_path_factory):
    return snapshot(tmp_path_factory.mktemp("prior") / "run")


@pytest.fixture(scope="module")
def view(prior_path):
    return orbit_of(load_prior(prior_path), 0, (270.0,))[0]


@pytest.fixture(scope="module")
def film_result(prior_path, view, tmp_path_factory):
    """A sigmoid film of the first patient, in a folder, and what the command said."""
    folder = tmp_path_factory.mktemp("film")
    figures.write_png16(folder / "film.png", CURVES.build({"name": "sigmoid"})(view.clamp(0, 1)))
    words = ["--run", prior_path, "--xray", folder / "film.png", "--input-kind", "display"]
    words += ["--out", folder / "out", "--samples", "1", "--device", "cpu"]
    options = partial(QUICK, film_code_steps=30, film_pivot_steps=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Inversion", options)
        assert cli.main(["project", *map(str, words)]) == 0
    return folder / "out"


def metrics_of(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_a_films_volume_is_relative(film_result):
    for name in ("volume", "uncertainty"):
        assert read_volume(film_result / f"{name}.nii.gz").quantity == "relative"
    found = metrics_of(film_result)
    assert found["volume"]["quantity"] == "relative" and "HU" not in found["units"]["volume"]
    page = (film_result / "report.html").read_text()
    assert "relative attenuation" in page and "HU, estimated" not in page


def test_the_options_it_was_read_with_stand_beside_what_was_read(film_result):
    (found,) = metrics_of(film_result)["inputs"]
    assert found["read_with"] == {
        "view": None,
        "invert": False,
        "input_kind": "display",
        "fit": "pad",
        "rotate": 0,
        "flip": False,
        "crop": "auto",
    }


def test_what_a_file_says_of_its_film_is_held_against_the_use_of_it(tmp_path):
    prior = load_prior("bundled:phantom-chest")
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    pixels = (300 + 3000 * np.exp(-3 * x**2 - y**2)).astype(np.uint16)
    for tags, view, says in (
        ({"BodyPartExamined": "ANKLE"}, None, "shows the ankle, whereas the prior shows a chest"),
        ({"BodyPartExamined": "CHEST", "ViewPosition": "PA"}, None, None),
        ({"BodyPartExamined": "SSPINE"}, "PA", "shows the sacral spine"),
        ({"ViewPosition": "LLO"}, None, "none of PA, AP and the laterals: used as PA"),
        ({"ViewPosition": "RLD", "PatientOrientation": ["H", "L"]}, None, "used as PA"),
        ({"ViewPosition": "LLO"}, 315.0, None),
    ):
        (xray,) = read_xrays(prior, [written(tmp_path, film_tags(pixels, **tags))], [view])
        ours = [text for text in xray.warnings if "its file" in text]
        assert ours == [] if says is None else len(ours) == 1 and says in ours[0], tags


def test_a_films_orbit_has_no_scale_and_is_not_cut(film_result):
    """White is the densest ray at most: no pixel of a dense volume is lost above it."""
    geometry = json.loads((film_result / "orbit" / "geometry.json").read_text())
    assert geometry["line_integral_scale"] is None
    views = torch.stack([read_png(path) for path in (film_result / "orbit").glob("view_*.png")])
    assert float((views >= 1).float().mean()) < 1e-3 and float(views.amax()) > 0.3


def test_a_relative_orbit_is_divided_by_its_densest_ray(prior_path):
    """Views, volume and spread by the same number; what has a scale stays as it is."""
    prior = load_prior(prior_path)
    base = one_patient(prior, torch.zeros(1, prior.generator.latent_dim))
    known = predict(prior, base, prior.geometry, size=48)
    dense = replace(base, code=denser(base.code))
    found = predict(prior, replace(dense, has_scale=False), prior.geometry, size=48)
    truth = predict(prior, dense, prior.geometry, size=48)
    assert known.exposure == truth.exposure == 1 and found.exposure > 1.2
    assert float(found.views.amax()) <= 1.001
    for name in ("views", "members", "spread"):
        factor = getattr(truth, name) / found.exposure
        if name != "spread":  # whose floor is in image values
            assert torch.allclose(getattr(found, name), factor, atol=1e-4), name
    assert torch.allclose(found.volume.values * found.exposure, truth.volume.values, atol=1e-4)
    assert found.volume.scale is None and truth.volume.scale == prior.scale


def test_the_projection_of_a_divided_volume_is_that_of_the_volume(prior_path):
    """It is compared with the film, whose grey values know nothing of the division."""
    prior = load_prior(prior_path)
    base = one_patient(prior, torch.zeros(1, prior.generator.latent_dim))
    dense = replace(base, code=denser(base.code))
    xray = SimpleNamespace(angle_deg=270.0, is_film=False)
    shown = []
    for has_scale in (True, False):
        posterior = replace(dense, has_scale=has_scale)
        predicted = predict(prior, posterior, prior.geometry, size=48)
        result = Result(prior, (xray,), posterior, predicted, prior.geometry, 0, {})
        shown.append(result.projections())
    assert predicted.exposure > 1.2 and torch.allclose(shown[0], shown[1], atol=1e-4)


def test_a_search_is_told_what_counts_and_what_is_a_film(prior_path, view, tmp_path):
    prior = load_prior(prior_path)
    figures.write_png16(tmp_path / "x.png", view)
    film = read_xray(tmp_path / "x.png", "PA", GEOMETRY, input_kind="display")
    known = read_xray(tmp_path / "x.png", "lateral", GEOMETRY, input_kind="line-integral")
    film = replace(film, mask=torch.rand_like(film.mask))
    told = {}

    def search(prior, images, angles_deg, rng, **more):
        told.update(more, angles_deg=angles_deg.tolist())
        return Posterior(None, None, None, None, 1.0, 0.0, 0.0)

    found = module.inverted(prior, [film, known], search, None)
    assert torch.equal(told["mask"], torch.stack([film.mask, known.mask]))
    assert told["films"] == [True, False] and told["angles_deg"] == [270, 0]
    assert found.has_scale and not module.inverted(prior, [film], search, None).has_scale


def denser(code):
    """The same networks with a density that is everywhere larger."""
    *rest, (weight, bias) = code.layers
    return replace(code, layers=(*rest, (weight, bias + 4.0)))


@pytest.mark.parametrize("shape", [(8, 1200), (1200, 8)])
def test_a_strip_is_refused_in_a_sentence(view, tmp_path, shape):
    """Padded to a square next to nothing of it is left to fit."""
    figures.write_png16(tmp_path / "x.png", torch.rand(*shape, generator=torch.Generator()))
    with pytest.raises(UserError, match="shows the patient; wanted at least"):
        read_xray(tmp_path / "x.png", "PA", GEOMETRY)


def test_the_fitted_curve_is_written_and_drawn(film_result):
    (xray,) = metrics_of(film_result)["inputs"]
    grey = xray["tone_curve"]["grey"]
    assert len(grey) == len(xray["tone_curve"]["spread"]) == TONE_NODES
    assert grey == sorted(grey) and xray["tone_curve"]["scatter_to_primary"] > 0
    page = (film_result / "report.html").read_text()
    assert "film.png: the tone curve that was fitted with the codes" in page
    assert "film.png: scatter to primary, fitted" in page


def test_projection_and_target_of_a_film_are_both_grey_values(film_result):
    target, shown = (read_png(film_result / f"{name}.png") for name in ("target", "proj"))
    assert float((target - shown).square().mean().sqrt()) < 0.1


def test_line_integrals_have_no_curve(prior_path, view, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Inversion", partial(QUICK, code_steps=4, pivot_steps=2))
    figures.write_png16(tmp_path / "x.png", view)
    GEOMETRY.at([270.0]).save(tmp_path / "x.json")
    words = ["--run", prior_path, "--xray", tmp_path / "x.png", "--out", tmp_path / "out"]
    words += ["--samples", "1", "--device", "cpu"]
    assert cli.main(["project", *map(str, words)]) == 0
    (xray,) = metrics_of(tmp_path / "out")["inputs"]
    assert xray["tone_curve"] is None and xray["has_scale"]
    assert read_volume(tmp_path / "out" / "volume.nii.gz").quantity == "hu"


@pytest.mark.parametrize(
    ("case", "has_scale", "is_film"),
    [
        ("picture", False, False),
        ("picture said to be line integrals", True, False),
        ("picture with a geometry", True, False),
        ("picture for display", False, True),
        ("dicom for display", False, True),
        ("dicom of raw intensities", False, True),
    ],
)
def test_the_scale_is_known_where_something_says_it(view, tmp_path, case, has_scale, is_film):
    path, kind = tmp_path / "x.png", "auto"
    if case.startswith("dicom"):
        pixels = (1 + 4000 * (-3 * view).exp()).round().numpy().astype(np.uint16)
        tags = {"PresentationIntentType": "FOR PRESENTATION"}
        if "raw" in case:
            tags = {
                "PresentationIntentType": "FOR PROCESSING",
                "PixelIntensityRelationship": "LIN",
                "PixelIntensityRelationshipSign": 1,
            }
        path = written(tmp_path, film_tags(pixels, **tags))
    else:
        figures.write_png16(path, view)
    if case == "picture with a geometry":
        GEOMETRY.at([270.0]).save(tmp_path / "x.json")
    if case == "picture said to be line integrals":
        kind = "line-integral"
    if case == "picture for display":
        kind = "display"
    xray = read_xray(path, "PA", GEOMETRY, input_kind=kind)
    assert (xray.has_scale, xray.is_film) == (has_scale, is_film)


def test_a_field_that_cuts_the_body_is_named(tmp_path):
    body = torch.zeros(48, 48)
    body[4:44, 12:36] = 0.7
    figures.write_png16(tmp_path / "whole.png", body)
    figures.write_png16(tmp_path / "cut.png", body[:24, 20:44])
    whole, cut = (
        read_xray(tmp_path / f"{name}.png", "PA", GEOMETRY, input_kind="line-integral")
        for name in ("whole", "cut")
    )
    assert any("cuts the body at the side" in text for text in cut.notes)
    assert not any("cuts the body" in text for text in whole.notes)


def test_a_field_of_another_size_is_said(tmp_path):
    prior_mm = 2 * GEOMETRY.half_width_mm
    pixels = (300 + 3000 * np.random.default_rng(0).random((200, 200))).astype(np.uint16)
    distances = {"DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1500}
    for share, given, said in (
        (1.2, distances, None),
        (
            2.4,
            {"DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1500},
            "in the patient",
        ),
        (0.5, {}, "on the detector"),
        (2.4, {}, None),
    ):
        spacing = [share * prior_mm / 200] * 2
        film = film_tags(pixels, ImagerPixelSpacing=spacing, **given)
        notes = read_xray(written(tmp_path, film), "PA", GEOMETRY).notes
        found = [note for note in notes if "its file says a field" in note]
        assert bool(found) == bool(said) and all(said in note for note in found), share


def test_the_priors_opening_angle_is_the_fitted_one(prior_path):
    prior = load_prior(prior_path)
    wide = replace(prior, meta={**prior.meta, "distance": 3.0})
    wanted = 2 * float(torch.rad2deg(torch.atan(torch.tensor(1 / 3.0))))
    assert wide.fitted_geometry.fov_deg == pytest.approx(wanted, rel=1e-5)
    assert wide.fitted_geometry.fov_deg > 1.5 * wide.geometry.fov_deg
