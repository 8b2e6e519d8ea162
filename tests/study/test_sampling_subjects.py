"""What rays are cast into: closed forms, the renderer of the package, and what is switched off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_prior
import tiny_scene
import torch

from mednerf_kit.data.drr import phantom_volume
from mednerf_kit.data.posed import blocks
from mednerf_kit.fields.nerf import Nerf, NerfOptions
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.imaging.projector import project_volume
from mednerf_kit.prior.load import Prior, load_prior
from mednerf_kit.prior.rendering import grey_views
from mednerf_kit.rays.render import Level
from mednerf_kit.scene.load import load_fit, render_views
from mednerf_kit.study.sampling.ray import View, whole_picture
from mednerf_kit.study.sampling.subject import (
    CT_VOXELS,
    of_blocks,
    of_fit,
    of_phantom,
    of_prior,
)
from mednerf_kit.study.sampling.switched_off import without_directions, without_octaves


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.fitted(tmp_path_factory.mktemp("fit"), steps=12)


@pytest.fixture
def prior(tmp_path: Path) -> Prior:
    recipe = {"generator": tiny_prior.NODE, "levels": [{"name": "stratified", "n": 24}]}
    return load_prior(tiny_prior.snapshot(tmp_path, recipe=recipe), precision="fp32")


def test_a_phantom_is_projected_as_its_voxels_are() -> None:
    subject = of_phantom("knee", 3)
    row, col = subject.rows // 2, subject.cols // 2
    rays = subject.pixel(subject.first_view, row, col)
    volume = phantom_volume("knee", 3, CT_VOXELS).to_mu()
    geometry = DEFAULTS["knee"].at([270.0])
    p = project_volume(volume.values, volume.spacing_mm, geometry)[0, row, col]
    view = View(subject, "line_integral")
    ours = float(view.reference(rays).rendering.image) * subject.scale
    assert ours == pytest.approx(float(p), rel=0.01)


def test_a_priors_picture_is_the_renderers(prior: Prior) -> None:
    subject = of_prior(prior, 4)
    picture = whole_picture(View(subject, "line_integral"), 3)[..., 0]
    generator = prior.generator
    code = generator.weights(generator.draw(1, torch.Generator().manual_seed(4)))
    at = prior.fitted_geometry
    wanted = grey_views(prior, code, at.at([at.angles_deg[3]]))[0, 0]
    assert subject.views[3] == "135°" and picture.shape == (32, 32)
    assert float(wanted.max()) > 0.1
    assert torch.allclose(picture, wanted, atol=1e-5)


def test_a_scenes_picture_is_the_renderers(fit: Path) -> None:
    opened = load_fit(fit, device="cpu")
    picture = whole_picture(View(of_fit(opened, "blocks"), "emission_absorption"), 2)
    wanted = render_views(opened, opened.scene().cameras.take([2])).image[0]
    assert torch.allclose(picture, wanted, atol=1e-5)


def test_blocks_look_as_they_are_painted() -> None:
    subject = of_blocks()
    picture = whole_picture(View(subject, "emission_absorption"), 0)
    colour, alpha = blocks.picture(blocks.around(blocks.TEST_VIEWS, subject.rows, 25.0).take([0]))
    wanted = colour + 1 - alpha[..., None]
    # without shadows and highlights; edges are soft
    away = (picture - wanted).abs().mean(-1)
    assert float(away.median()) < 0.01 and float(away.mean()) < 0.05


def test_octaves_off_leave_the_coordinates(prior: Prior) -> None:
    subject = of_prior(prior, 0)
    plain = without_octaves(subject)
    assert plain is not None
    weight, _ = plain.code.layers[0]
    assert bool((weight[..., 3:] == 0).all()) and bool((weight[..., :3] != 0).any())
    x = torch.rand(1, 50, 3)
    assert not torch.allclose(
        plain.fine.density(x, plain.code), subject.fine.density(x, subject.code)
    )
    assert without_directions(subject) is None  # an X-ray has no colours


def nerf(*, view_directions: bool) -> Nerf:
    torch.manual_seed(0)
    options = NerfOptions(depth=3, width=16, skip=2, octaves=4, view_directions=view_directions)
    field = Nerf(options, box=blocks.BOX)
    field.to_density.bias.data += 1.0
    return field.requires_grad_(False).eval()


def test_a_nerf_without_octaves_sees_coordinates_alone() -> None:
    subject = replace(of_blocks(), fine=nerf(view_directions=True))
    subject = replace(subject, coarse=subject.fine, levels=[Level(None, subject.fine)])  # type: ignore[arg-type]
    plain = without_octaves(subject)
    assert plain is not None and plain.fine is plain.coarse is plain.levels[0].field
    changed, own = plain.fine, subject.fine
    assert isinstance(changed, Nerf) and isinstance(own, Nerf)
    a, b = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.4, -0.2, 0.1]])
    encoded = own.encoding(a)
    mixed = torch.cat([encoded[:, :3], own.encoding(b)[:, 3:]], -1)

    def trunk(field: Nerf, features: torch.Tensor) -> torch.Tensor:
        h = features
        for i, layer in enumerate(field.trunk):
            h = layer(torch.cat([h, features], -1) if i == 2 else h).relu()
        return h

    assert torch.allclose(trunk(changed, encoded), trunk(changed, mixed))
    assert not torch.allclose(trunk(own, encoded), trunk(own, mixed))


def test_directions_are_switched_off_where_there_are_some() -> None:
    subject = of_blocks()
    assert without_directions(subject) is None
    seen = replace(subject, fine=nerf(view_directions=True))
    still = without_directions(seen)
    assert still is not None
    corner, middle = still.pixel(0, 0, 0), seen.pixel(0, seen.rows // 2, seen.cols // 2)
    assert corner.viewing is not None
    assert torch.equal(corner.viewing, middle.direction)
    assert without_directions(replace(subject, fine=nerf(view_directions=False))) is None
