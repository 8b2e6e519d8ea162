#!/usr/bin/env bash
# SimpleITK reads an Enhanced CT by the slope of its first frame, and in the order of the file.
#
# Versions: SimpleITK 2.5.7, pydicom 3.0.2, numpy 2.2.6.
# The frames of an Enhanced CT each have a position and a rescale slope of their own, and may lie in
# the file in any order. SimpleITK rescales all of them with the slope of the first, so that the
# later ones come out wrong by the ratio of the two; and where the frames are not stored in the
# order of their positions it takes 1 mm for all three spacings and leaves the frames as stored.
# Neither is said.
#
# Output seen:
#   slopes 1 2 4, every frame 100 HU: SimpleITK 100 50 25
#   frames from below, 3 mm apart: spacing 2 2 3
#   the same frames, even ones first: spacing 1 1 1
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
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian


def item(**tags):
    found = pydicom.Dataset()
    for keyword, value in tags.items():
        setattr(found, keyword, value)
    return [found]


def write(name, order, slopes):
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = EnhancedCTImageStorage, "1.2.3", "CT"
    file.StudyInstanceUID, file.SeriesInstanceUID = "1.2.4", "1.2.5"
    file.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    file.NumberOfFrames, file.Rows, file.Columns = len(order), 4, 4
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
    file.SharedFunctionalGroupsSequence = item(
        PixelMeasuresSequence=item(PixelSpacing=[2, 2], SliceThickness=3),
        PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    )
    file.PerFrameFunctionalGroupsSequence = [
        frame
        for k in order
        for frame in item(
            PlanePositionSequence=item(ImagePositionPatient=[0, 0, 3 * k]),
            PixelValueTransformationSequence=item(
                RescaleSlope=slopes[k], RescaleIntercept=0, RescaleType="HU"
            ),
        )
    ]
    stored = [np.full((4, 4), 100 // slopes[k], np.int16) for k in order]
    file.PixelData = np.stack(stored).tobytes()
    file.save_as(name, enforce_file_format=True)


write("slopes.dcm", [0, 1, 2], [1, 2, 4])
read = sitk.GetArrayFromImage(sitk.ReadImage("slopes.dcm"))[:, 0, 0].tolist()
print("slopes 1 2 4, every frame 100 HU: SimpleITK", *(f"{v:g}" for v in read))
spacings = []
for name, order in (("sorted.dcm", [0, 1, 2, 3, 4, 5]), ("shuffled.dcm", [0, 2, 4, 1, 3, 5])):
    write(name, order, [1] * 6)
    spacings.append(sitk.ReadImage(name).GetSpacing())
print("frames from below, 3 mm apart: spacing", *(f"{v:g}" for v in spacings[0]))
print("the same frames, even ones first: spacing", *(f"{v:g}" for v in spacings[1]))
still = read == [100, 50, 25] and spacings == [(2, 2, 3), (1, 1, 1)]
raise SystemExit(0 if still else 1)
PYTHON
