#!/usr/bin/env bash
# dcm2niix writes a scan with a tilted gantry shorter than it is, in the file without correction.
#
# Versions: dcm2niix 1.0.20260724 (PyPI), pydicom 3.0.2, nibabel 5.4.2, numpy 2.2.6.
# With a tilted gantry the slices are turned about the left-right axis while the table moves straight
# on. Beside the corrected X_Tilt_1.nii dcm2niix leaves X.nii, whose sform goes straight along the
# table, but only by the slices' distance from plane to plane: 5·cos 20° = 4.70 mm a slice where the
# table moved 5. Whoever resamples X.nii by its sform gets a head that is 6 % too short. The
# corrected file has the right distances.
#
# Output seen:
#   the table moved 5.000 mm from slice to slice
#   X.nii: the sform moves 4.698 mm, along 0.000 0.000 1.000
#   X_Tilt_1.nii: planes 4.698 mm apart, as they are
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 numpy==2.2.6
cd "$folder"
PATH="$folder/venv/bin:$PATH" python - <<'PYTHON'
import os
import subprocess

import nibabel
import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STEP_MM, TILT = 5.0, np.radians(20)
os.mkdir("slices")
series, study, place = generate_uid(), generate_uid(), generate_uid()
for k in range(12):
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = CTImageStorage, generate_uid(), "CT"
    file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = study, series, place
    file.Manufacturer, file.PatientPosition = "SIEMENS", "HFS"
    file.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    file.SeriesNumber, file.InstanceNumber, file.AcquisitionNumber = 1, k + 1, 1
    file.GantryDetectorTilt, file.SliceThickness = float(np.degrees(TILT)), STEP_MM
    file.PixelSpacing, file.Rows, file.Columns = [1.0, 1.0], 48, 48
    down = [0, round(float(np.cos(TILT)), 6), round(float(-np.sin(TILT)), 6)]
    file.ImageOrientationPatient = [1, 0, 0, *down]
    file.ImagePositionPatient = [-24, -24, STEP_MM * k]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
    file.RescaleSlope, file.RescaleIntercept = 1, 0
    file.PixelData = np.full((48, 48), 10 * k, np.int16).tobytes()
    file.save_as(f"slices/{k:02d}.dcm", enforce_file_format=True)
command = ["dcm2niix", "-b", "n", "-z", "n", "-f", "X", "-o", ".", "slices"]
subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
moved = nibabel.load("X.nii").affine[:3, 2]
corrected = nibabel.load("X_Tilt_1.nii").affine[:3, 2]
length, planes = np.linalg.norm(moved), np.linalg.norm(corrected)
print(f"the table moved {STEP_MM:.3f} mm from slice to slice")
print(f"X.nii: the sform moves {length:.3f} mm, along", *(f"{v:.3f}" for v in moved / length + 0.0))
print(f"X_Tilt_1.nii: planes {planes:.3f} mm apart, as they are")
apart = STEP_MM * np.cos(TILT)
still = abs(length - apart) < 1e-2 and abs(moved[2]) > 0.999 * length and abs(planes - apart) < 1e-2
raise SystemExit(0 if still else 1)
PYTHON
