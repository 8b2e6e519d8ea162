"""Fitting photographs loads what it needs, and nothing of the X-ray priors and inversions."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST = 40  # modules of the package, folders included
FORBIDDEN = ("invert", "prior", "recon", "gan", "study")


def test_the_session_of_a_scene_loads_few_modules():
    code = (
        "import sys, mednerf_kit.engine.session, mednerf_kit.scene.setup; "
        "print(*(m for m in sys.modules if m.startswith('mednerf_kit')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    loaded = done.stdout.split()
    assert "mednerf_kit.scene.fit" in loaded and len(loaded) <= MOST, sorted(loaded)
    assert [m for m in loaded if m.split(".")[1:2] and m.split(".")[1] in FORBIDDEN] == []
