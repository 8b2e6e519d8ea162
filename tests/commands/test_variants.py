"""What `list` reads from the source is what importing every module registers."""

from __future__ import annotations

import inspect

from mednerf_kit.commands.about import registries
from mednerf_kit.commands.variants import variants


def test_the_source_says_what_importing_it_registers():
    registered = {
        kind: {
            name: (inspect.getdoc(entry) or "").partition("\n")[0]
            for name, entry in registry.entries.items()
        }
        for kind, registry in registries().items()
    }
    read = variants()
    assert read == registered
    assert list(read) == sorted(read)
    assert all(list(entries) == sorted(entries) for entries in read.values())
