"""Stands in for the process of a job: says that it searches, and waits to be told how it ends.

``python fake_job.py FOLDER`` follows the options of ``job.json`` there: with ``seed`` 0 it waits
until there is a file ``go`` beside the folder of results, with 1 it is done at once, with 2 it
fails with a sentence, with 3 it is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

PICTURE = bytes.fromhex(  # one black pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c636060600000"
    "00040001f61738550000000049454e44ae426082"
)


def main(folder: Path) -> int:
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    job = json.loads((folder / "job.json").read_text())
    told = {"stages": [{"name": "read", "text": "", "seconds": 0.1}], "curve": [], "pictures": 0}
    told["stages"].append({"name": "invert", "text": "", "seconds": None})
    told |= {"part": "codes", "step": 10, "steps": 40, "curve": [["codes", 10, 21.5]]}
    (folder / "progress.png").write_bytes(PICTURE)
    (folder / "progress.json").write_text(json.dumps(told | {"pictures": 1}))
    (folder / "result").mkdir()
    seed, outdir = job["options"]["seed"], folder.parent.parent
    while seed == 0 and not (outdir.parent / "go").exists():
        time.sleep(0.02)
    if seed == 2:
        print(f"Error: got '{folder / job['xray']}', a cat; wanted an X-ray: try another.")
        print(f"Error: got '{folder / job['xray']}', a cat; wanted an X-ray.", file=sys.stderr)
        return 2
    if seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    place = outdir / job["name"]
    (place / "orbit").mkdir(parents=True)
    (place / "metrics.json").write_text(json.dumps({"orbit": {"views": 72}}))
    (folder / "progress.json").write_text(json.dumps(told | {"result": job["name"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
