"""``python -m mednerf_kit``: the command line without the installed script, and what torchrun
starts several times.
"""

import contextlib
import os
import sys

from .cli import main

if __name__ == "__main__":
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as stack:
        if os.environ.get("RANK", "0") != "0" and not os.environ.get("MEDNERF_KIT_DEBUG"):
            # the first process speaks for all (see engine/distributed.py)
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        sys.exit(main())
