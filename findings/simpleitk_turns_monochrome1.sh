#!/usr/bin/env bash
# SimpleITK turns over the stored values of a DICOM file tagged MONOCHROME1.
#
# Versions: SimpleITK 2.5.7, pydicom 3.0.2, numpy 2.2.6.
# Photometric Interpretation says how a picture is shown, not what its values are, and for a CT
# MONOCHROME1 is allowed. SimpleITK reads every stored value v of an unsigned file as
# 2^BitsStored - 1 - v and of a signed one as -1 - v, before slope and intercept are applied, and
# still reports MONOCHROME1 in the metadata: whoever inverts by the tag inverts twice, and a CT comes
# out with air at -1049 and water at -2049 HU. pydicom answers with the values of the file.
#
# Output seen:
#   CR unsigned, stored 0 3000: SimpleITK 4095 1095 pydicom 0 3000
#   CT signed, stored 24 1024 with intercept -1024: SimpleITK -1049 -2049 pydicom -1000 0
#   the metadata still say MONOCHROME1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.pixels import apply_rescale
from pydicom.uid import CTImageStorage, ComputedRadiographyImageStorage, ExplicitVRLittleEndian


def write(name, sop_class, modality, pixels, bits, **tags):
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = sop_class, "1.2.3", modality
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME1"
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in tags.items():
        setattr(file, keyword, value)
    file.PixelData = pixels.tobytes()
    file.save_as(name, enforce_file_format=True)


def both(name):
    file = pydicom.dcmread(name)
    image = sitk.ReadImage(name)
    one = sitk.GetArrayFromImage(image).ravel()[:2]
    other = apply_rescale(file.pixel_array, file).ravel()[:2]
    return [int(v) for v in one], [int(v) for v in other], image.GetMetaData("0028|0004").strip()


unsigned = np.tile(np.array([0, 3000], np.uint16), (4, 2))
write("cr.dcm", ComputedRadiographyImageStorage, "CR", unsigned, 12)
cr = both("cr.dcm")
print("CR unsigned, stored 0 3000: SimpleITK", *cr[0], "pydicom", *cr[1])
signed = np.tile(np.array([24, 1024], np.int16), (4, 2))
write("ct.dcm", CTImageStorage, "CT", signed, 16, RescaleSlope=1, RescaleIntercept=-1024)
ct = both("ct.dcm")
print("CT signed, stored 24 1024 with intercept -1024: SimpleITK", *ct[0], "pydicom", *ct[1])
print("the metadata still say", cr[2])
assert cr == ([4095, 1095], [0, 3000], "MONOCHROME1"), cr
assert ct[:2] == ([-1049, -2049], [-1000, 0]), ct
PYTHON
