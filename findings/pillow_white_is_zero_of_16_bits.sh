#!/usr/bin/env bash
# Pillow, OpenCV and imageio do not agree with themselves on TIFF files in which white is zero.
#
# Versions: pillow 11.3.0, opencv-python-headless 4.12.0.88, imageio 2.37.0, tifffile 2025.5.10,
# numpy 2.2.6.
# PhotometricInterpretation 0 (WhiteIsZero) is common for scanned radiographs. Pillow and OpenCV
# turn such a file over where it has 8 bits, so that bright means white, and hand it over as stored
# where it has 16, without a sign of which was done; imageio, which reads TIFF through tifffile,
# never turns it. The same film comes out positive or negative by its bit depth. Whoever reads TIFF
# has to look at the tag.
#
# Output seen (a ramp from 0, white, to the largest value, black; first and last pixel in shares):
#   8 bits:  Pillow 1.00 0.00, OpenCV 1.00 0.00, imageio 0.00 1.00
#   16 bits: Pillow 0.00 1.00, OpenCV 0.00 1.00, imageio 0.00 1.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==11.3.0 opencv-python-headless==4.12.0.88 \
    imageio==2.37.0 tifffile==2025.5.10 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import cv2
import imageio.v3
import numpy as np
import tifffile
from PIL import Image

seen = {}
for kind in (np.uint8, np.uint16):
    top, bits = np.iinfo(kind).max, np.iinfo(kind).bits
    ramp = np.tile(np.linspace(0, top, 64).astype(kind), (64, 1))
    tifffile.imwrite("film.tif", ramp, photometric="miniswhite")
    read = {
        "Pillow": np.asarray(Image.open("film.tif")),
        "OpenCV": cv2.imread("film.tif", cv2.IMREAD_UNCHANGED),
        "imageio": imageio.v3.imread("film.tif"),
    }
    seen[bits] = {name: (a[0, 0] / top, a[0, -1] / top) for name, a in read.items()}
    ends = (f"{name} {first:.2f} {last:.2f}" for name, (first, last) in seen[bits].items())
    print(f"{bits} bits:".ljust(8), ", ".join(ends))
white, black = (1.0, 0.0), (0.0, 1.0)
assert seen[8] == {"Pillow": white, "OpenCV": white, "imageio": black}, seen
assert seen[16] == {"Pillow": black, "OpenCV": black, "imageio": black}, seen
PYTHON
