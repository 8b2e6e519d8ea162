"""The rules of the house, checked on the source itself; every checker is first shown a small bad
example it must catch.

Imports point down, siblings never import each other; :data:`LAYER` ranks every package.
"""

from __future__ import annotations

import ast
import configparser
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "mednerf_kit"
# Every package has a rank: imports go to a lower one. A folder with a rank of its own
# (rays/samplers) is a package; one without (imaging/phantoms) belongs to the package around it.
LAYER = {
    "core": 0,
    "imaging": 1,
    "rays.samplers": 1,
    "rays.selectors": 1,
    "fields": 1,
    "rays": 2,
    "gan": 3,
    "data": 3,
    "metrics": 3,
    "viz": 3,
    "engine": 4,
    "recon": 4,
    "prior": 5,
    "scene": 5,
    "invert": 6,
    "study": 7,
    "view": 8,
    "view.rooms": 9,
}
TOP = 1 + max(LAYER.values())
STRANGERS = {("rays", "imaging"), ("rays", "fields")}  # below, and yet unknown to each other
SURFACE = {"", "__main__", "cli", "commands", "doctor"}
CONSTANTS = {"__version__", "DISCLAIMER"}  # what every layer may take from the package itself
HEAVY = {
    "SimpleITK",
    "nibabel",
    "kornia",
    "lpips",
    "matplotlib",
    "imageio",
    "skimage",
    "pydicom",
    "torchvision",
}
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"}
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 500, 80

Modules = dict[str, str]  # dotted name -> source


parsed = functools.cache(ast.parse)  # every checker reads the whole package


def read_package() -> Modules:
    modules = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(
            encoding="utf-8"
        )
    return modules


def nodes(tree: ast.AST, *, functions: bool = True, types: bool = True) -> Iterator[ast.AST]:
    """Every node below ``tree``; on request without the bodies of functions, or without what only a
    type checker sees.
    """
    for node in ast.iter_child_nodes(tree):
        if not functions and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if (
            not types
            and isinstance(node, ast.If)
            and ast.unparse(node.test).endswith("TYPE_CHECKING")
        ):
            continue
        yield node
        yield from nodes(node, functions=functions, types=types)


def imports(name: str, modules: Modules, *, types: bool = True) -> Iterator[tuple[str, str]]:
    """Every import inside the package, in functions too, as (module, imported name or "")."""
    is_folder = any(other.startswith(name + ".") for other in modules) or name == PACKAGE
    for node in nodes(parsed(modules[name]), types=types):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == PACKAGE:
                    yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - (1 if is_folder else 0)
                parts = name.split(".")
                base = ".".join(parts[: len(parts) - up] + ([node.module] if node.module else []))
            if base.partition(".")[0] == PACKAGE:
                for alias in node.names:
                    whole = f"{base}.{alias.name}"
                    yield (whole, "") if whole in modules else (base, alias.name)


def unit(name: str) -> str:
    """The ranked package a module belongs to; "surface" for everything a person touches."""
    parts = name.split(".")[1:]
    for n in range(len(parts), 0, -1):
        if ".".join(parts[:n]) in LAYER:
            return ".".join(parts[:n])
    return "surface" if not parts or parts[0] in SURFACE else parts[0]


def layer_faults(modules: Modules) -> list[str]:
    faults = []
    for name in modules:
        here = unit(name)
        if here != "surface" and here not in LAYER:
            faults.append(f"{name} belongs to no layer")
            continue
        for target, what in imports(name, modules):
            there = unit(target)
            if here == there or (target == PACKAGE and what in CONSTANTS):
                continue
            if LAYER.get(there, TOP) >= LAYER.get(here, TOP) or (here, there) in STRANGERS:
                faults.append(f"{name} imports {target} {what}".strip())
    return faults


def cycle_faults(modules: Modules) -> list[str]:
    """Modules that reach themselves, by imports in functions too; two modules may know each other's
    types.
    """
    edges = {
        name: {
            there
            for there, what in imports(name, modules, types=False)
            if there in modules and what not in CONSTANTS
        }
        - {name}
        for name in modules
    }
    faults = []
    for start in modules:
        seen: set[str] = set()
        front = set(edges[start])
        while front:
            seen |= front
            front = set().union(*(edges[name] for name in front)) - seen
        if start in seen:
            faults.append(f"{start} imports itself in a circle")
    return faults


def size_faults(modules: Modules) -> list[str]:
    faults = []
    for name, source in modules.items():
        if source.count("\n") > MAX_MODULE_LINES:
            faults.append(f"{name} has {source.count(chr(10))} lines")
        for node in ast.walk(parsed(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    faults.append(f"{name}.{node.name} has {lines} lines")
    return faults


def heavy_import_faults(modules: Modules) -> list[str]:
    faults = []
    for name, source in modules.items():
        for node in nodes(parsed(source), functions=False, types=False):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            faults += [
                f"{name} imports {heavy} on import"
                for heavy in names
                if heavy.partition(".")[0] in HEAVY
            ]
    return faults


def says(call: ast.Call, keyword: str, value: bool) -> bool:
    """Whether a call passes this literal."""
    return any(
        k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is value
        for k in call.keywords
    )


def pickle_faults(modules: Modules) -> list[str]:
    """Pickles written or read; torchvision's own .pth files may be read by a torch.load that says
    weights_only=True.
    """
    faults = []
    for name, source in modules.items():
        tree = parsed(source)
        safe = {
            id(call.func)
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and says(call, "weights_only", True)
        }
        for node in ast.walk(tree):
            named: list[str] = []
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                named = [
                    node.module or "",
                    *(f"{node.module}.{alias.name}" for alias in node.names),
                ]
            elif isinstance(node, ast.Attribute) and id(node) not in safe:
                named = [ast.unparse(node)]
            elif isinstance(node, ast.Call) and any(
                keyword.arg == "allow_pickle" for keyword in node.keywords
            ):
                faults += [] if says(node, "allow_pickle", False) else [f"{name} allows pickles"]
            faults += [
                f"{name} uses {word}"
                for word in named
                if word.partition(".")[0] in PICKLERS or word in ("torch.load", "torch.save")
            ]
    return faults


def unfinished_faults(modules: Modules) -> list[str]:
    """Comments that promise work."""
    faults = []
    for name, source in modules.items():
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and re.search(
                r"\b(TODO|FIXME|XXX|HACK)\b", token.string
            ):
                faults.append(f"{name}:{token.start[0]} {token.string}")
    return faults


LONG_FUNCTION = "def f():\n" + "    pass\n" * MAX_FUNCTION_LINES
BAD = [
    (
        layer_faults,
        {"mednerf_kit.core.a": "from ..imaging import volume", "mednerf_kit.imaging.volume": ""},
    ),
    (
        layer_faults,
        {
            "mednerf_kit.core.a": "def f():\n    from ..engine.loop import x",
            "mednerf_kit.engine.loop": "",
        },
    ),
    (
        layer_faults,
        {"mednerf_kit.rays.a": "from ..fields.nerf import x", "mednerf_kit.fields.nerf": ""},
    ),
    (
        layer_faults,
        {"mednerf_kit.gan.a": "import mednerf_kit.data.xray", "mednerf_kit.data.xray": ""},
    ),
    (
        layer_faults,
        {"mednerf_kit.engine.a": "from .. import cli", "mednerf_kit.cli": "", "mednerf_kit": ""},
    ),
    (layer_faults, {"mednerf_kit.engine.a": "from .. import load_prior", "mednerf_kit": ""}),
    (layer_faults, {"mednerf_kit.helpers.a": ""}),
    (
        cycle_faults,
        {
            "mednerf_kit.gan.a": "from . import b",
            "mednerf_kit.gan.b": "def f():\n    from .a import x",
        },
    ),
    (
        cycle_faults,
        {
            "mednerf_kit.gan.a": "from .b import x",
            "mednerf_kit.gan.b": "from .c import x",
            "mednerf_kit.gan.c": "from .a import x",
        },
    ),
    (size_faults, {"mednerf_kit.core.a": "x = 1\n" * (MAX_MODULE_LINES + 1)}),
    (size_faults, {"mednerf_kit.core.a": LONG_FUNCTION}),
    (
        size_faults,
        {
            "mednerf_kit.core.a": "class A:\n"
            + "".join("    " + line + "\n" for line in LONG_FUNCTION.splitlines())
        },
    ),
    (heavy_import_faults, {"mednerf_kit.core.a": "import SimpleITK as sitk"}),
    (
        heavy_import_faults,
        {
            "mednerf_kit.core.a": "try:\n    from kornia.filters import "
            "sobel\nexcept ImportError:\n    pass"
        },
    ),
    (heavy_import_faults, {"mednerf_kit.core.a": "class A:\n    import matplotlib.pyplot"}),
    (pickle_faults, {"mednerf_kit.core.a": "import torch\ntorch.load('x')"}),
    (pickle_faults, {"mednerf_kit.core.a": "import torch\ntorch.load('x', weights_only=False)"}),
    (pickle_faults, {"mednerf_kit.core.a": "import torch\ntorch.save({}, 'x')"}),
    (pickle_faults, {"mednerf_kit.core.a": "from torch import load"}),
    (pickle_faults, {"mednerf_kit.core.a": "def f():\n    import pickle"}),
    (pickle_faults, {"mednerf_kit.core.a": "import numpy as np\nnp.load('x', allow_pickle=True)"}),
    (unfinished_faults, {"mednerf_kit.core.a": "x = 1  # TODO: more\n"}),
    (unfinished_faults, {"mednerf_kit.core.a": "# FIXME\n"}),
]
GOOD = {
    "mednerf_kit": "__version__ = '1'\nDISCLAIMER = 'x'\ndef f():\n    from .engine.loop import "
    "x\n",
    "mednerf_kit.cli": "from . import DISCLAIMER\nfrom .commands.base import x\n",
    "mednerf_kit.commands.base": "from .. import DISCLAIMER\nfrom ..core.a import x\n",
    "mednerf_kit.core": "",
    "mednerf_kit.core.a": "import json\nfrom .. import __version__\nfrom . import b\nx = 'a TODO "
    "in a string'\n",
    "mednerf_kit.core.b": "if TYPE_CHECKING:\n    from .a import x\ndef f():\n    import "
    "SimpleITK\n",
    "mednerf_kit.engine": "from .loop import x\n",
    "mednerf_kit.engine.loop": "from ..core.a import x\nnp.load('x', "
    "allow_pickle=False)\ntorch.load('x', weights_only=True)\n",
}
CHECKERS = [
    layer_faults,
    cycle_faults,
    size_faults,
    heavy_import_faults,
    pickle_faults,
    unfinished_faults,
]


@pytest.mark.parametrize(("checker", "modules"), BAD)
def test_a_bad_example_is_caught(checker, modules):
    assert checker(modules)


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_good_example_passes(checker):
    assert checker(GOOD) == []


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_package_keeps_the_rule(checker):
    modules = read_package()
    assert len(modules) > 10
    assert checker(modules) == []


@pytest.mark.parametrize("checker", [size_faults, pickle_faults, unfinished_faults])
def test_the_scripts_keep_the_rule(checker):
    assert (
        checker(
            {
                path.name: path.read_text(encoding="utf-8")
                for path in (ROOT / "scripts").rglob("*.py")
            }
        )
        == []
    )


@pytest.mark.parametrize("checker", [pickle_faults, unfinished_faults])
def test_the_tests_keep_the_rule(checker):
    assert (
        checker(
            {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
        )
        == []
    )


def test_every_module_says_what_it_is():
    for name, source in read_package().items():
        assert ast.get_docstring(parsed(source)), f"{name} has no docstring"


def test_setup_cfg_lists_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / PACKAGE).rglob("__init__.py")
    }
    assert listed == on_disk | {f"{PACKAGE}.configs"}


def test_every_recipe_travels_in_the_wheel():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"][f"{PACKAGE}.configs"].split()
    shipped = {path for pattern in patterns for path in (ROOT / "configs").glob(pattern)}
    assert shipped == set((ROOT / "configs").rglob("*.yaml"))


def test_every_data_file_travels_in_the_wheel():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    shipped = {
        path
        for package, patterns in setup["options.package_data"].items()
        for pattern in patterns.split()
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = {path for path in (ROOT / PACKAGE).rglob("*") if path.is_file()}
    data = {p for p in files if p.suffix not in (".py", ".pyc") and p.name != ".DS_Store"}
    assert data and data <= shipped


README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_files_that_a_guide_names_are_there(guide):
    text = guide.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    paths = re.findall(r"`((?:mednerf_kit|configs|docs|tests|scripts)/[\w./-]*)`", text)
    missing = [link for link in links if not (guide.parent / link).exists()]
    assert missing + [path for path in paths if not (ROOT / path).exists()] == []


def fenced(first: str) -> list[str]:
    """The lines of README's code block that begins with these words."""
    return README.partition(f"```\n{first}")[2].partition("\n```")[0].splitlines()


def test_readme_draws_the_layers():
    drawn = [
        {word.strip("/").replace("/", ".") for word in line.split() if word.endswith("/")}
        for line in fenced("cli commands/ doctor")[1:]
    ]
    ranks = sorted(set(LAYER.values()), reverse=True)
    assert drawn == [{name for name, rank in LAYER.items() if rank == here} for here in ranks]


@pytest.mark.parametrize(
    ("start", "end", "most"),
    [
        ("cli.py → commands/project.py", "imaging/volume.py", 15),
        ("cli.py → commands/train.py", "fields/hyper.py", 9),
    ],
)
def test_readme_leads_a_reader_along_the_code(start, end, most):
    """Each file is known, by an import or by its name, to one that was read before."""
    path = (start + " ".join(fenced(start))).replace("→", " ").split()
    assert path[-1] == end
    assert len(set(path)) == len(path) <= most
    modules, read = read_package(), []
    for name in (f"{PACKAGE}.{file.removesuffix('.py').replace('/', '.')}" for file in path):
        by_name = re.compile(rf'"[\w.]*\b{name.rpartition(".")[2]}:')
        assert not read or any(
            name in {target for target, _ in imports(other, modules)}
            or by_name.search(modules[other])
            for other in read
        ), f"{name} is not reached from {read}"
        read.append(name)
