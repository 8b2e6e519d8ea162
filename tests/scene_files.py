"""What tests of scene formats share: the toy cameras, the formats by kind, damaged files."""

import json

import pytest
from PIL import Image

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


def edited(root, **keys):
    """Change keys of the transforms file; those that are None are taken away."""
    changed(
        root / "transforms.json",
        lambda v: {k: x for k, x in {**v, **keys}.items() if x is not None},
    )


def frames_of(root):
    return json.loads((root / "transforms.json").read_text())["frames"]


#: How an upright picture is turned to be stored with an EXIF orientation.
LIES = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def lying(root, orientation):
    """Store the pictures as a camera does that was held upright, with their EXIF orientation."""
    for path in sorted((root / "images").iterdir()):
        picture = Image.open(path)
        exif = Image.Exif()
        exif[274] = orientation
        picture.transpose(LIES[orientation]).save(path, exif=exif)
