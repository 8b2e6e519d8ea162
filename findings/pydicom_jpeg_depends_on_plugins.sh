#!/usr/bin/env bash
# The grey levels of one lossy JPEG depend on which decoders pydicom finds installed.
#
# Versions: pydicom 3.0.2, pillow 11.3.0, pylibjpeg 2.1.0, pylibjpeg-libjpeg 2.3.0, numpy 2.2.6.
# Dataset.pixel_array takes the first decoder that is there: pylibjpeg before Pillow, Pillow where
# pylibjpeg is not installed. Both are right within the standard, and their inverse cosine
# transforms round differently, so that a result changes by a grey level with an unrelated package.
# Whoever compares pixels has to name the decoder (decoding_plugin), as this script does.
#
# Output seen (noise of 256x256 pixels, quality 90):
#   left to itself pydicom decodes as pylibjpeg
#   4.3% of the pixels differ, by at most 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pydicom==3.0.2 numpy==2.2.6 pillow==11.3.0 \
    pylibjpeg==2.1.0 pylibjpeg-libjpeg==2.3.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ComputedRadiographyImageStorage, JPEGBaseline8Bit

pixels = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
stream = io.BytesIO()
Image.fromarray(pixels).save(stream, "JPEG", quality=90)
file = pydicom.Dataset()
file.file_meta = pydicom.dataset.FileMetaDataset()
file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
file.SOPClassUID, file.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
file.Rows = file.Columns = 256
file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
file.PixelData = encapsulate([stream.getvalue()])
file["PixelData"].is_undefined_length = True
file.save_as("film.dcm", enforce_file_format=True)
read = {p: pydicom.dcmread("film.dcm") for p in ("", "pillow", "pylibjpeg")}
for plugin, film in read.items():
    if plugin:
        film.pixel_array_options(decoding_plugin=plugin)
arrays = {plugin: film.pixel_array.astype(int) for plugin, film in read.items()}
difference = arrays["pillow"] - arrays["pylibjpeg"]
same = [p for p in ("pillow", "pylibjpeg") if np.array_equal(arrays[""], arrays[p])]
print("left to itself pydicom decodes as", *same)
print(f"{np.mean(difference != 0):.1%} of the pixels differ, by at most {abs(difference).max()}")
assert same == ["pylibjpeg"] and abs(difference).max() == 1, (same, abs(difference).max())
PYTHON
