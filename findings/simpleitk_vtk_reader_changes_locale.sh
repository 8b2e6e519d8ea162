#!/usr/bin/env bash
# Reading a legacy VTK volume with SimpleITK leaves the process in the locale "C".
#
# Versions: SimpleITK 2.5.7 (PyPI), numpy 2.2.6, CPython on Linux, LANG=C.UTF-8.
# The reader sets the locale to read its numbers and does not put back what was there. Writing the
# same file, and reading MetaImage, leaves the locale alone. From then on Python's open() without an
# encoding reads and writes ASCII in this process: a text with a degree sign that could be read before
# is a UnicodeDecodeError after. Whoever reads VTK volumes should put the locale back.
#
# Output seen:
#   after reading MHA: UTF-8
#   after writing VTK: UTF-8
#   after reading VTK: ANSI_X3.4-1968
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet SimpleITK==2.5.7 numpy==2.2.6
cd "$folder"
env -u LC_ALL -u LC_CTYPE LANG=C.UTF-8 "$folder/venv/bin/python" - <<'PYTHON'
import locale

import numpy as np
import SimpleITK as sitk

image = sitk.GetImageFromArray(np.arange(64, dtype=np.int16).reshape(4, 4, 4))
sitk.WriteImage(image, "a.mha")
sitk.ReadImage("a.mha")
known = {"reading MHA": locale.nl_langinfo(locale.CODESET)}
sitk.WriteImage(image, "a.vtk")
known["writing VTK"] = locale.nl_langinfo(locale.CODESET)
sitk.ReadImage("a.vtk")
known["reading VTK"] = locale.nl_langinfo(locale.CODESET)
for what, encoding in known.items():
    print(f"after {what}: {encoding}")
raise SystemExit(0 if list(known.values()) == ["UTF-8", "UTF-8", "ANSI_X3.4-1968"] else 1)
PYTHON
