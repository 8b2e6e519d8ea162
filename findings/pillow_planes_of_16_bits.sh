#!/usr/bin/env bash
# Pillow reads the planes of a 16-bit RGB TIFF as bytes, and gives another picture without an error.
#
# Versions: pillow 11.3.0, tifffile 2025.5.10, numpy 2.2.6.
# With PlanarConfiguration 2 the red, green and blue samples stand in planes one after another. A
# file of 16 bits a sample, as scanners write, opens in Pillow as RGB of 8 bits. Stored pixel by
# pixel the upper bytes come out, which is right; stored in planes every byte of a row is taken for
# a pixel, so that low and high bytes alternate and the right half of the picture is missing.
#
# Output seen (a grey ramp over 64 columns, its upper bytes at columns 0, 1, 2, 3, 63):
#   stored            0 4 8 12 255
#   pixel by pixel    0 4 8 12 255
#   in planes         0 0 16 4 125
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==11.3.0 tifffile==2025.5.10 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import tifffile
from PIL import Image

ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
tifffile.imwrite("pixels.tif", np.stack([ramp] * 3, -1), photometric="rgb")
tifffile.imwrite("planes.tif", np.stack([ramp] * 3), photometric="rgb", planarconfig="separate")
rows = {"stored": ramp[0] >> 8}
for name, words in (("pixels", "pixel by pixel"), ("planes", "in planes")):
    rows[words] = np.asarray(Image.open(f"{name}.tif"))[0, :, 0]
for words, row in rows.items():
    print(words.ljust(17), *row[[0, 1, 2, 3, 63]])
assert np.array_equal(rows["pixel by pixel"], rows["stored"])
bytes_of_ramp = ramp[0].view(np.uint8)[:64]
assert np.array_equal(rows["in planes"], bytes_of_ramp), rows["in planes"]
PYTHON
