"""What the code may import and call, by layer; and what may not stand in a file of the project."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.checkout import ROOT, skip_or_fail

LARGEST_BYTES = 20_000_000

# The folder, and what it must not import: an arrow that points back, or what the layer does not know.
NOT_FOR = {
    "models/*": ("operators", "app", "pydicom", "highdicom", "pynetdicom"),
    "operators/*": ("app",),
    "*": ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch.load"),
}
# The module, and the only files that may import it.
ONLY_FOR = {
    "monai.deploy": ("operators/nodes.py", "app/application.py"),
    "holoscan": ("operators/nodes.py", "app/application.py"),
    "holoscan_cli": ("app/cli/monai_deploy.py", "app/packaging/*"),
    "highdicom": ("operators/sr/*", "operators/dicom_out/*"),
    "pynetdicom": ("app/pacs/*",),
}


def violations(path: str, source: str) -> list[str]:
    """What a source file at this place, relative to the root, must not do; a line each, empty where all is well."""
    tree = ast.parse(source)
    found = [
        f"{path} imports {name}"
        for name in imported(tree, package=path.split("/")[:-1])
        if any(fnmatch(path, where) and within(name, banned) for where, banned in NOT_FOR.items())
        or any(within(name, (rare,)) and not fits(path, places) for rare, places in ONLY_FOR.items())
    ]
    aliases = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    return found + [f"{path} {wrong}" for call in calls(tree) for wrong in wrong_in_call(call, aliases)]


def imported(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Each imported thing by its full name, wherever in the file it is imported, and by whatever means."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def fits(path: str, places: tuple[str, ...]) -> bool:
    return any(fnmatch(path, place) for place in places)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def wrong_in_call(call: ast.Call, aliases: dict[str, str]) -> Iterator[str]:
    root, *attributes = ast.unparse(call.func).split(".")
    name = ".".join([aliases.get(root, root), *attributes])
    flags = {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}
    if name == "print":
        yield f"line {call.lineno} prints"
    if name == "torch.load" and flags.get("weights_only") != "True":
        yield f"line {call.lineno} calls torch.load without weights_only=True"
    if flags.get("allow_pickle", "False") != "False":
        yield f"line {call.lineno} allows pickle"


SOURCES = {
    str(path.relative_to(ROOT)): path.read_text()
    for package in ("app", "operators", "models")
    for path in sorted((ROOT / package).rglob("*.py"))
}
# Edges of a cycle that running work still has: (from, to). The list only shrinks.
KNOWN_CYCLES: set[tuple[str, str]] = set()
# At the top of operators/, what is no stage; the packages below may import these and nothing else from the top.
NO_STAGE = {"operators"} | {
    f"operators.{name}"
    for name in (
        "codes",
        "errors",
        "instance",
        "printable",
        "record",
        "system_error",
        "temporary_folder",
        "types",
        "uids",
    )
}


def modules() -> dict[str, str]:
    """Path of each module by its full name; a package has the name of its folder."""
    return {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in SOURCES}


def module_graph() -> dict[str, set[str]]:
    """Which modules of ours each module imports, wherever in the file."""
    known = modules()

    def ours(name: str) -> str | None:
        return name if name in known else name.rpartition(".")[0] if name.rpartition(".")[0] in known else None

    return {
        name: {one for other in imported(ast.parse(SOURCES[path]), path.split("/")[:-1]) if (one := ours(other))}
        - {name}
        for name, path in known.items()
    }


def package_graph() -> dict[str, set[str]]:
    """The same by packages; a module at the top of a layer is a node of its own."""
    known = modules()

    def node(name: str) -> str:
        package = name if known[name].endswith("__init__.py") else name.rpartition(".")[0]
        return name if "." not in package else package

    graph: dict[str, set[str]] = {}
    for name, others in module_graph().items():
        graph.setdefault(node(name), set()).update(node(other) for other in others if node(other) != node(name))
    return graph


def cycle_in(graph: dict[str, set[str]]) -> tuple[str, ...]:
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return tuple(error.args[1])
    return ()


def test_each_source_file_keeps_to_its_layer():
    assert [wrong for path, source in SOURCES.items() for wrong in violations(path, source)] == []


def test_the_graph_of_modules_has_no_cycle():
    graph = module_graph()
    assert {(name, other) for name, other in KNOWN_CYCLES if other not in graph[name]} == set(), "shrink the list"
    assert (
        cycle_in({name: {o for o in others if (name, o) not in KNOWN_CYCLES} for name, others in graph.items()}) == ()
    )


def test_the_graph_of_packages_has_no_cycle():
    assert cycle_in(package_graph()) == ()


def test_a_cycle_would_be_found():
    assert set(cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert {"operators.sr", "operators.types", "operators.encode", "app.cli.bundle", "models.spec"} <= set(
        package_graph()
    )


def test_the_packages_of_operators_import_no_stage():
    found = {
        (name, other)
        for name, others in module_graph().items()
        for other in others
        if name.count(".") > 1 and name.startswith("operators.")
        if other.count(".") < 2 and other.startswith("operators") and modules()[other].count("/") == 1
        if other not in NO_STAGE
    }
    assert found == set()


def test_each_package_says_in_one_line_what_belongs_in_it():
    def first_line(path: str) -> str:
        return (ast.get_docstring(ast.parse(SOURCES[path])) or "").partition("\n")[0]

    packages = {str(Path(path).parent / "__init__.py") for path in SOURCES}
    assert sorted(packages - set(SOURCES)) == [], "a package without __init__.py"
    assert [path for path in sorted(packages) if not re.fullmatch(r".{20,}\.", first_line(path))] == []


# What the docstring of a function begins with; extend it by verbs.
VERBS = frozenset(
    (
        *("Accept", "Account", "Add", "Answer", "Append", "Ask", "Assign", "Begin", "Bind", "Blend", "Build"),
        *("Check", "Close", "Compare", "Compile", "Connect", "Continue", "Convolve", "Copy", "Correct"),
        *("Correlate", "Count", "Create", "Decide", "Declare", "Decode", "Delete", "Describe", "Divide"),
        *("Draw", "Drop", "Emit", "Encode", "End", "Enter", "Export", "Fetch", "Fill", "Find", "Flush"),
        *("Follow", "Forget", "Free", "Give", "Guard", "Hand", "Hold", "Import", "Index", "Install", "Iterate"),
        *("Join", "Judge", "Keep", "Leave", "Let", "List", "Listen", "Log", "Look", "Make", "Measure", "Move"),
        *("Name", "Note", "Number", "Open", "Parse", "Print", "Probe", "Prolong", "Put", "Queue", "Raise"),
        *(
            "Read",
            "Receive",
            "Record",
            "Relay",
            "Remember",
            "Remove",
            "Repeat",
            "Replace",
            "Report",
            "Resample",
            "Return",
        ),
        *("Run", "Scale", "See", "Send", "Serve", "Set", "Show", "Split", "Standardise", "Start", "Stop"),
        *("Store", "Strip", "Take", "Test", "Train", "Turn", "Undo", "Unpack", "Update", "Wait", "Wake"),
        *("Work", "Write", "Yield"),
    )
)
# Names that do not say what they hold or do.
MISLEADING = frozenset(("said", "of", "met", "asked", "told"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def misworded(source: str) -> list[str]:
    """Functions whose docstring does not begin with a verb (a property's may be a noun), and misleading names."""
    tree = ast.parse(source)
    nouns = [
        f"line {node.lineno}: {first}"
        for node in functions(tree)
        if not any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
        for first in (ast.get_docstring(node) or "Return").split(maxsplit=1)[:1]
        if first.strip(".,") not in VERBS
    ]
    variables = [
        f"line {node.lineno}: {node.id if isinstance(node, ast.Name) else node.arg}"
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in MISLEADING)
        or (isinstance(node, ast.arg) and node.arg in MISLEADING)
    ]
    named = [f"line {node.lineno}: {node.name}" for node in functions(tree) if node.name.lstrip("_") in MISLEADING]
    return nouns + variables + named


def test_docstrings_begin_with_a_verb_and_names_do_not_mislead():
    found = {path: misworded(source) for path, source in SOURCES.items()}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


def test_a_noun_and_a_misleading_name_would_be_found():
    assert misworded('def f(of):\n    """The sum."""\n    told = of') == ["line 1: The", "line 1: of", "line 3: told"]
    assert misworded("def _said():\n    pass") == ["line 1: _said"]
    assert misworded('@property\ndef f():\n    """The sum."""') == []


# Lines of a function's body (without its docstring), and of a module. What is longer stands here, with the reason.
MOST_LINES_OF_A_FUNCTION, MOST_LINES_OF_A_MODULE = 60, 400
LONGER: dict[str, str] = {}


def too_long(path: str, source: str) -> list[str]:
    """What of a file is longer than a reader can hold: it itself, and functions by name."""
    found = [path] if source.count("\n") > MOST_LINES_OF_A_MODULE else []
    for node in functions(ast.parse(source)):
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if body and (body[-1].end_lineno or 0) - body[0].lineno + 1 > MOST_LINES_OF_A_FUNCTION:
            found.append(f"{path}:{node.name}")
    return found


def test_functions_and_modules_can_be_read_in_a_sitting():
    found = {name for path, source in SOURCES.items() for name in too_long(path, source)}
    assert found == set(LONGER), "split along the ideas in it, or give the reason in LONGER"


def test_a_long_function_and_a_long_module_would_be_found():
    line = "    a = 1\n"
    documented = 'def f():\n    """Return."""\n'
    assert too_long("a.py", documented + line * 60) == []
    assert too_long("a.py", documented + line * 61) == ["a.py:f"]
    assert too_long("a.py", "a = 1\n" * 401) == ["a.py"]


def sleeps(source: str) -> bool:
    """Whether a test guesses how fast the machine is: programs that it starts, which are text, may."""
    tree = ast.parse(source)
    return any(isinstance(call.func, ast.Attribute) and call.func.attr == "sleep" for call in calls(tree)) or (
        "time.sleep" in imported(tree, [])
    )


def test_no_test_sleeps_but_where_all_wait():
    found = [path for path in (ROOT / "tests").rglob("*.py") if sleeps(path.read_text())]
    assert found == [ROOT / "tests" / "support" / "waiting.py"], "use `until`, or a `Clock` that the test advances"


def test_a_sleep_would_be_found():
    assert sleeps("import time\ntime.sleep(1)") and sleeps("from time import sleep\nsleep(1)")
    assert not sleeps("run('import time; time.sleep(60)')")


def test_the_tests_mirror_the_layers():
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert sorted(str(folder) for folder in folders if not (ROOT / folder).is_dir()) == []
    allowed = {"test_architecture.py", "test_docs.py", "test_environment.py"}
    assert {path.name for path in (ROOT / "tests").glob("test_*.py")} == allowed


WRONG = [
    ("models/bad.py", "import operators.types", "imports operators.types"),
    ("models/bad.py", "def late():\n    from operators import types", "imports operators.types"),
    ("models/bad.py", "from app import encode", "imports app.encode"),
    ("models/bad.py", "import pydicom", "imports pydicom"),
    ("models/deep/bad.py", "from ...operators import types", "imports operators.types"),
    ("operators/bad.py", "from app.settings import load", "imports app.settings.load"),
    ("operators/bad.py", "import importlib\nimportlib.import_module('app.encode')", "imports app.encode"),
    ("operators/bad.py", "from importlib import import_module\nimport_module('app')", "imports app"),
    ("operators/bad.py", "if TYPE_CHECKING:\n    import app", "imports app"),
    ("operators/bad.py", "import monai.deploy.core as md", "imports monai.deploy.core"),
    ("operators/bad.py", "from monai import deploy", "imports monai.deploy"),
    ("app/bad.py", "from holoscan.core import Operator", "imports holoscan.core.Operator"),
    ("app/cli/nodes.py", "import holoscan", "imports holoscan"),
    ("app/cli/bad.py", "import holoscan_cli", "imports holoscan_cli"),
    ("operators/build_volume.py", "import highdicom", "imports highdicom"),
    ("app/sr/write.py", "import highdicom", "imports highdicom"),
    ("app/cli/bad.py", "from pynetdicom import AE", "imports pynetdicom.AE"),
    ("app/bad.py", "import pickle", "imports pickle"),
    ("models/bad.py", "import torch\ntorch.load(f)", "line 2 calls torch.load without weights_only=True"),
    ("models/bad.py", "import torch as t\nt.load(f, weights_only=False)", "line 2 calls torch.load"),
    ("models/bad.py", "from torch import load", "imports torch.load"),
    ("models/bad.py", "np.load(f, allow_pickle=True)", "line 1 allows pickle"),
    ("operators/bad.py", "print('x')", "line 1 prints"),
]
RIGHT = [
    ("app/good.py", "from operators.types import Series\nfrom models import bundle"),
    ("operators/good.py", "from models.bundle.store import Bundle"),
    ("operators/nodes.py", "from monai.deploy.core import Fragment\nimport holoscan"),
    ("operators/sr/write.py", "import highdicom as hd"),
    ("operators/dicom_out/pdf.py", "import highdicom as hd"),
    ("models/good.py", "from monai.networks.nets import VarAutoEncoder"),
    ("models/good.py", "import torch\ntorch.load(f, weights_only=True)"),
    ("models/good.py", "from .bundle import Bundle"),
    ("app/pacs/listener.py", "from pynetdicom import AE"),
]


def test_a_made_up_file_is_found_if_it_breaks_a_rule_and_left_alone_if_not():
    found = [(path, source, violations(path, source)) for path, source, _ in WRONG]
    said = [(path, source, f"{path} {wrong}") for path, source, wrong in WRONG]
    missed = [one for one, want in zip(found, said, strict=True) if len(one[2]) != 1 or want[2] not in one[2][0]]
    assert missed == []
    assert [(path, source) for path, source in RIGHT if violations(path, source)] == []


def test_inference_on_a_cpu_loads_neither_torch_nor_monai(phantom_ct: Path):
    heavy = loaded_after(f"from app import encode\nassert list(encode({str(phantom_ct)!r}, device='cpu'))")
    assert heavy == ""


def test_the_graph_loads_neither_torch_nor_monai(phantom_ct: Path, tmp_path: Path):
    arguments = ["-i", str(phantom_ct), "-o", str(tmp_path), "-m", "models"]
    assert loaded_after(f"from app.__main__ import main\nassert main({arguments!r}) == 0") == "holoscan"


def test_the_graph_is_built_of_the_classes_that_the_sdk_names():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.deploy.core as sdk

        import app.application as ours
        import operators.nodes as nodes

    used = vars(nodes) | vars(ours)
    names = {name for name in vars(sdk) if name in used and not name.startswith("_")}
    assert {"Application", "Operator", "Fragment", "OperatorSpec", "InputContext"} <= names
    assert [name for name in names if vars(sdk)[name] is not used[name]] == []


def test_the_check_of_what_is_loaded_sees_torch():
    assert loaded_after("import torch.version") == "torch"


def loaded_after(program: str) -> str:
    """Which of the heavy packages a fresh Python has loaded when it has run the program."""
    program += "\nimport sys\nprint(*sorted({'torch', 'monai', 'holoscan', 'lightning'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def files_of_the_project() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        skip_or_fail("not a git checkout")
    return [path for name in listed.stdout.split(b"\0") if name and (path := ROOT / os.fsdecode(name)).is_file()]


def machine_paths() -> re.Pattern[bytes]:
    """Paths that name a developer's machine: the usual homes, and where this checkout and this user's home are."""
    here = [re.escape(str(place)) for place in (ROOT, Path.home()) if len(place.parts) > 2]
    return re.compile(
        rf"(?<![\w.<\-/])(?:/(?:work|root)|/(?:home|Users)/\w+|{'|'.join(here) or '(?!)'})(?![\w\-])".encode()
    )


def test_no_file_names_a_place_on_the_machine_that_it_was_written_on():
    pattern = machine_paths()
    assert [path.name for path in files_of_the_project() if pattern.search(path.read_bytes())] == []


def test_such_a_place_is_recognised():
    pattern = machine_paths()
    for home in ("root", "work", "home/jane"):
        assert pattern.search(f"see '/{home}/ct'".encode())
        assert not pattern.search(f"https://example.org/{home}/ct and my/{home} and /{home}-bench".encode())


def test_no_file_names_a_package_index():
    """Where packages come from is the affair of the machine that installs them."""
    configured = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    urls = re.findall(r"https?://[^\s'\"]+", configured)
    hosts = {host for url in urls if (host := urlsplit(url).hostname)} - {"pypi.org", "files.pythonhosted.org"}
    hosts |= {"--index-url", "--extra-index-url", "--trusted-host"}
    named = [
        (path.name, host) for path in files_of_the_project() for host in hosts if host.encode() in path.read_bytes()
    ]
    assert [(name, host) for name, host in named if name != Path(__file__).name] == []


def test_no_file_is_larger_than_20_mb():
    assert [path.name for path in files_of_the_project() if path.stat().st_size > LARGEST_BYTES] == []
