#!/usr/bin/env bash
# pydicom looks a VOI LUT whose entries have 8 bits up modulo 256.
#
# Versions: pydicom 3.0.2, numpy 2.2.6.
# The third number of LUT Descriptor is the depth of an entry, not of the values that are looked up.
# A table of 4,096 entries of 8 bits, which maps 12-bit pixels to a display, is valid. apply_voi_lut
# brings the pixels to the entries' type first: pixel 256 takes entry 0, pixel 300 entry 44. The
# same table with entries of 10 bits or more is looked up rightly, and neither gives a warning.
#
# Output seen:
#   entries of  8 bits: pixels 0 255 256 300 4095 -> 0 15 0 2 15 (the table says 0 15 16 18 255)
#   entries of 16 bits: pixels 0 255 256 300 4095 -> 0 15 16 18 255
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pydicom==3.0.2 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import pydicom
from pydicom.pixels import apply_voi_lut

pixels = np.array([[0, 255, 256, 300, 4095]], dtype=np.uint16)
entries = np.arange(4096) // 16
found = {}
for bits in (8, 16):
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, bits]
    table.add_new("LUTData", "US", entries.tolist())
    file = pydicom.Dataset()
    file.BitsStored, file.PixelRepresentation = 12, 0
    file.VOILUTSequence = [table]
    found[bits] = apply_voi_lut(pixels, file).ravel().tolist()
    print(f"entries of {bits:2d} bits: pixels", *pixels.ravel(), "->", *found[bits])
right = entries[pixels.ravel()].tolist()
assert found[16] == right, (found[16], right)
assert found[8] == entries[pixels.ravel() % 256].tolist() != right, found[8]
PYTHON
