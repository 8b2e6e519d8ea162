"""The process of one job: ``python -m mednerf_kit.view.job_process FOLDER``.

It projects the X-ray of the folder as ``job.json`` there asks, tells in ``progress.json`` and
``progress.png`` how far it is, and gives the result its place when all of it is there. It ends with
the exit codes of the command line, in good order on SIGINT and SIGTERM, and when the pipe on its
standard input is closed: whoever started it is gone then.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import files
from ..core.errors import RunError, UserError
from ..core.parent import INTERRUPTED, end_with_parent

if TYPE_CHECKING:
    from ..invert.progress import Progress

PICTURE_SECONDS = 1.0  # at least, between two pictures
ORPHAN_GRACE_S = 10.0


class Reporter:
    """Writes down how far the work is, each time anew; a full disk does not stop the work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages: list[dict[str, Any]] = []  # name, text and seconds, in their order
        self.curve: list[tuple[str, int, float]] = []  # part, step, PSNR in dB
        self.pictures = 0
        self._stage_since = self._picture_at = -1e9

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        if not self.stages or self.stages[-1]["name"] != progress.stage:
            self._close_stage(now)
            self.stages.append({"name": progress.stage, "text": progress.text, "seconds": None})
        told = {"part": progress.text, "step": progress.step, "steps": progress.steps}
        if progress.held_out_mse is not None:
            from ..metrics.image import psnr_from_mse_db

            psnr_db = psnr_from_mse_db(progress.held_out_mse)
            self.curve.append((progress.text, progress.step, round(psnr_db, 2)))
        if progress.pictures is not None and now - self._picture_at >= PICTURE_SECONDS:
            self._show(progress.pictures())
            self._picture_at = now
        self._write(told)

    def finished(self, result: str) -> None:
        """The last word: the name of the folder that the result became."""
        self._close_stage(time.perf_counter())
        self._write({"result": result})

    def _close_stage(self, now: float) -> None:
        if self.stages:
            self.stages[-1]["seconds"] = round(now - self._stage_since, 1)
        self._stage_since = now

    def _show(self, pictures: Any) -> None:
        import numpy as np

        from ..viz import colours, figures

        rows = []
        for xray, projection in zip(*pictures, strict=True):
            grey = [figures.coloured(image, (0, 1), colours.GREY) for image in (xray, projection)]
            error = figures.signed_error_picture(projection, xray)
            rows.append(np.concatenate([*grey, error], 1))
        try:
            figures.write_png8(self.folder / "progress.png", np.concatenate(rows))
            self.pictures += 1
        except RunError:
            return

    def _write(self, told: dict[str, Any]) -> None:
        stage_seconds = round(time.perf_counter() - self._stage_since, 1)
        values = {
            "stages": self.stages,
            "stage_seconds": stage_seconds,
            "curve": self.curve,
            "pictures": self.pictures,
            **told,
        }
        try:
            files.write_json(self.folder / "progress.json", values)
        except RunError:
            return


def main(folder: Path) -> int:
    """Do what the folder asks; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    end_with_parent(grace_s=ORPHAN_GRACE_S)
    try:
        _project(folder)
    except UserError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted.", INTERRUPTED)
    except Exception as error:
        text = (str(error).strip().splitlines() or ["without a message"])[0]
        return _complain(f"unexpected {type(error).__name__}: {text}.", 1)
    finally:
        shutil.rmtree(folder / "result", ignore_errors=True)
    return 0


def _project(folder: Path) -> None:
    from ..invert.reconstruct import project

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    reporter = Reporter(folder)
    result = project(
        xray=[folder / job["xray"]], outdir=folder / "result", watch=reporter, **job["options"]
    )
    reporter.finished(published(result, folder.parent.parent, job["name"]).name)


def published(result: Path, outdir: Path, name: str) -> Path:
    """Give a finished folder its place: ``outdir/name``, numbered where there is one already."""
    for n in itertools.count(1):
        place = outdir / (name if n == 1 else f"{name}-{n}")
        if not place.exists():
            try:
                os.rename(result, place)
            except OSError as error:
                raise RunError(
                    f"could not make folder '{place.name}' ({error.strerror})",
                    "wanted a place for the results",
                    "choose another name",
                ) from None
            return place
    raise AssertionError


def _complain(message: str, exit_code: int) -> int:
    print("Error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
