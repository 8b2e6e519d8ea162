"""What tests of scene formats share: the toy cameras, the formats by kind, damaged files."""

import json

import pytest

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.posed import toy
from mednerf_kit.data.posed.scene import SCENES, load_scene

TOY = toy.toy_cameras()


ON_DISK = sorted(set(SCENES.entries) - {"blocks"})


PHOTOS = sorted(set(ON_DISK) - {"orbit"})


SMALL = {"size": 16, "train_views": 3}  # a version of blocks that takes a moment


def changed(path, edit):
    """Rewrite a JSON file."""
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


def refused(*words, root, **options):
    """The sentence with which a scene is refused, which must hold these words."""
    with pytest.raises(UserError) as error:
        load_scene(root, **options)
    for word in words:
        assert word in str(error.value), error.value
    return str(error.value)
