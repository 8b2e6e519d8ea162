"""Pictures of a training prior in TensorBoard."""

import math

import pytest
import torch
from random_priors import prior_of, seeded

from mednerf_kit.engine import tensorboard
from mednerf_kit.engine.loop import Task
from mednerf_kit.prior import previews


def logged(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def test_the_board_shows_grids_a_clip_gains_and_the_field_of_view(tmp_path):
    import io

    from PIL import Image

    prior = prior_of(tmp_path)

    class Shown(Task):
        def pictures(self, index):
            images = torch.rand(3, prior.geometry.views, 32, 32, generator=seeded())
            return previews.radiographs(prior.generator, images, prior.geometry, prior.distance)

        def fitted(self):
            return {"distance": 1.0, "log_gain_profile": [0.0, math.log(2.0)]}

    with tensorboard.event_writer(tmp_path) as writer:
        tensorboard.write_pictures(writer, Shown(), 5, folder=tmp_path / "previews")
        tensorboard.write_pictures(writer, Task(), 6)  # a task with nothing to show
    events = logged(tmp_path)
    assert set(events.Tags()["images"]) == {"grid/reals", "grid/fakes", "clip/orbit"}
    assert [e.value for e in events.Scalars("fov_deg")] == pytest.approx([90.0])
    assert [
        e.value for n in ("least", "mean", "most") for e in events.Scalars(f"gain/{n}")
    ] == pytest.approx([1, 1.5, 2])
    assert [p.name for p in (tmp_path / "previews").iterdir()] == ["fakes-000005.png"]
    clip = Image.open(io.BytesIO(events.Images("clip/orbit")[0].encoded_image_string))
    assert clip.n_frames == previews.FRAMES and clip.size == (32, 32)


def test_the_board_shows_generators_whose_views_are_marched(tmp_path):
    node = {
        "name": "hypernerfgan",
        "code_dim": 8,
        "width": 8,
        "depth": 1,
        "octaves": 2,
        "rank": 2,
        "skip": 0,
    }
    prior = prior_of(tmp_path, {"name": "adversarial", "image_model": "emission_absorption"}, node)
    renderer = previews.Renderer.of(
        {**prior.meta["recipe"], "levels": [{"name": "stratified", "n": 4}]}
    )
    found = previews.ray_marched(
        prior.generator, renderer, torch.rand(20, 32, 32, 1).half(), prior.geometry
    )
    assert found["grid/reals"].shape == (16, 32, 32) and found["grid/fakes"].shape == (
        16,
        32,
        32,
        3,
    )
    assert found["clip/orbit"].shape == (previews.FRAMES, 32, 32, 3)
