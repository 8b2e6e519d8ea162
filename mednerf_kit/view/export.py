"""One result as one file that opens by double click: no server, no network.

The modules of the page travel inside it, by an import map of ``data:`` addresses; views, voxels and
pictures are compressed and packed as text.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .. import DISCLAIMER
from . import slices
from .shown import Shown, as_json, pixels

STATIC = Path(__file__).resolve().parent / "static"
ENTRY = "saved.js"  # of static/lib
STYLES = ("app.css", "rooms/result.css")
VIEWER = "vendor/niivue.umd.js"
IMPORTED = re.compile(r'(?<= from ")\./([a-z]+\.js)(?=";)')
# nothing from elsewhere is loaded, whatever stands in the page
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src data: blob:; worker-src blob:"
)
PAGE = """<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title} – mednerf-kit</title>
<style>{styles}</style>
<script type="importmap">{modules}</script>
{viewer}
</head>
<body>
<header>
<p class="brand">mednerf-kit</p>
<p class="note" role="note">{note}</p>
<button id="theme" type="button" aria-label="Light or dark">◐</button>
</header>
<main id="main"></main>
<p id="told" role="status" aria-live="polite"></p>
<noscript><p class="problem">This page needs JavaScript.</p></noscript>
<script type="application/json" id="content">{content}</script>
<script type="module">import "{entry}";</script>
</body>
</html>
"""


def page(shown: Shown, name: str) -> str:
    """The whole page of a result as HTML."""
    content: dict[str, Any] = {
        "about": {"name": name, **shown.about(), "colours": slices.COLOURS},
        "frames": {kind: packed(steps(pixels(files))) for kind, files in shown.views.items()},
        "volume": None,
        "voxels": {},
    }
    names = [file for file, _ in content["about"]["pictures"]]
    for files in ((content["about"]["rendered"] or {}).get("kinds") or {}).values():
        names += files
    content["pictures"] = {
        file: f"data:image/png;base64,{base64.b64encode((shown.home / file).read_bytes()).decode()}"
        for file in names
    }
    viewer = ""
    if content["about"]["has_volume"]:
        content["volume"] = slices.about(shown)
        for one in ("volume", *shown.overlays):
            content["voxels"][one] = packed(slices.nifti(slices.voxels(shown, one)))
        # whatever could end the element early is written otherwise
        text = (STATIC / VIEWER).read_text(encoding="utf-8").replace("</script", r"<\/script")
        viewer = f"<script>{text}</script>"
    return PAGE.format(
        policy=escape(POLICY),
        title=escape(name),
        styles="\n".join((STATIC / style).read_text(encoding="utf-8") for style in STYLES),
        modules=as_json({"imports": dict(modules(ENTRY))}),
        viewer=viewer,
        note=escape(DISCLAIMER),
        content=as_json(content),
        entry=ENTRY,
    )


def packed(content: bytes) -> str:
    """Bytes as text: gzip, then base64."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def steps(levels: np.ndarray) -> bytes:
    """Levels [V, rows, cols] as differences along the rows, high bytes first: they pack better."""
    differences = np.diff(levels.astype("<u2"), axis=-1, prepend=np.uint16(0))
    return (differences >> 8).astype(np.uint8).tobytes() + differences.astype(np.uint8).tobytes()


def modules(entry: str) -> Iterator[tuple[str, str]]:
    """A module of ``static/lib`` and all that it imports, as (name, ``data:`` address)."""
    waiting, done = [entry], {entry}
    while waiting:
        name = waiting.pop()
        text = (STATIC / "lib" / name).read_text(encoding="utf-8")
        for other in IMPORTED.findall(text):
            if other not in done:
                done.add(other)
                waiting.append(other)
        plain = IMPORTED.sub(r"\1", text)
        yield name, f"data:text/javascript;base64,{base64.b64encode(plain.encode()).decode()}"
