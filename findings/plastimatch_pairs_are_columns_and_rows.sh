#!/usr/bin/env bash
# plastimatch drr takes its pairs of numbers as columns and rows, where its help says rows and columns.
#
# Versions: plastimatch 1.10.0, numpy 2.2.6.
# `plastimatch drr --help` describes -r, -z and -c as "row col". -r "40 60" makes a picture of 40
# columns and 60 rows, and the first line of the text file beside it, the picture's middle, is
# column before row. Square detectors do not show it. Its pixels are a tenth of the line integral:
# 100 mm of water at 0.022 per mm are 0.22.
#
# Output seen:
#   -r "40 60" -z "80 120": a block 100 mm wide in x and 40 mm in z, seen along y, measures
#   50 columns by 20 rows of 2 mm in the picture of 60 rows of 40 columns: cut at its 40 columns
#   dark rows above and below the block: yes; read as 40 rows of 60 columns: no
#   through 100 mm of water: 0.22
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet plastimatch==1.10.0 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np

voxels = np.full((60, 60, 60), -1000, np.int16)  # z, y, x of 2 mm
voxels[20:40, 5:55, 5:55] = 0  # water: 100 mm in x and y, 40 mm in z
header = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
DimSize = 60 60 60
ElementSpacing = 2 2 2
Offset = -59 -59 -59
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
open("ct.mha", "wb").write(header.encode() + voxels.tobytes())
PYTHON
"$folder/venv/bin/plastimatch" drr -n "0 -1 0" --sad 100000 --sid 100100 -r "40 60" -z "80 120" \
    -i exact -t pfm -o "0 0 0" -I ct.mha -O view > log.txt
"$folder/venv/bin/python" - <<'PYTHON'
import glob

import numpy as np

pixels = np.frombuffer(open(glob.glob("view*.pfm")[0], "rb").read()[-9600:], "<f4")
middle = open(glob.glob("view*.txt")[0]).readline().split()
tall, wide = pixels.reshape(60, 40), pixels.reshape(40, 60)


def is_block(picture):
    """Whether the dark pixels are whole rows above and below a lit block."""
    lit = picture > 0.1
    return bool((lit.all(1) | ~lit.any(1)).all())


print("60 rows of 40 columns are a block:", is_block(tall), "and 40 of 60:", is_block(wide))
print("rows that are lit:", int((tall > 0.1).all(1).sum()))
print("the text file's first line:", float(middle[0]), float(middle[1]))
print("through 100 mm of water: %.2f" % tall.max())
assert is_block(tall) and not is_block(wide)
assert (float(middle[0]), float(middle[1])) == (19.5, 29.5), middle
assert abs(float(tall.max()) - 0.22) < 0.005, tall.max()
PYTHON
