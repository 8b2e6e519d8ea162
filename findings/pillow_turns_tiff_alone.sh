#!/usr/bin/env bash
# Pillow turns a TIFF by its orientation when the pixels are loaded, and no other kind of picture.
#
# Versions: pillow 11.3.0, numpy 2.2.6.
# Tag 274 says how a picture that is stored lying is to be shown. Of JPEG, PNG and WebP Pillow gives
# the pixels as they are stored and leaves the turn to ImageOps.exif_transpose. Of TIFF it gives
# them turned, and the tag is gone afterwards, so that a program that pairs photographs with camera
# poses sees the same photograph in two ways, depending on the file format.
#
# Output seen (one picture of 4 columns and 2 rows, orientation 6, its brightest pixel stored at
# row 0, column 0):
#   png   rows 2 columns 4   brightest at (0, 0)
#   webp  rows 2 columns 4   brightest at (0, 0)
#   tif   rows 4 columns 2   brightest at (0, 1)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==11.3.0 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from PIL import Image

stored = np.zeros((2, 4, 3), np.uint8)
stored[0, 0] = 255
exif = Image.Exif()
exif[274] = 6
found = {}
for suffix, options in (("png", {}), ("webp", {"lossless": True}), ("tif", {})):
    Image.fromarray(stored).save(f"lying.{suffix}", exif=exif, **options)
    pixels = np.asarray(Image.open(f"lying.{suffix}"))[..., 0]
    place = tuple(int(n) for n in np.unravel_index(pixels.argmax(), pixels.shape))
    found[suffix] = (pixels.shape, place)
    print(f"{suffix:5s} rows {pixels.shape[0]} columns {pixels.shape[1]}   brightest at {place}")
assert found["png"] == found["webp"] == ((2, 4), (0, 0)), found
assert found["tif"] == ((4, 2), (0, 1)), found
PYTHON
