"""The public names resolve, and what must not be imported or called is not."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import deploycomp

PACKAGE = Path(deploycomp.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
MODULES = sorted(info.name for info in pkgutil.walk_packages([str(PACKAGE)], "deploycomp."))


def imported(tree: ast.AST, *, at_start: bool = False) -> Iterator[str]:
    """Names of imported modules, everywhere or only those that an import of the file brings in."""
    nodes = _at_start(tree) if at_start else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _at_start(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements that run on import: not in functions, not under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _at_start(node)


def users_of(library: str, *, at_start: bool = False) -> set[str]:
    """Rooms and files that import a library."""
    return {
        name.split("/")[0] if "/" in name else name
        for name, tree in TREES.items()
        if any(module.split(".")[0] == library for module in imported(tree, at_start=at_start))
    }


@pytest.mark.parametrize("name", ["deploycomp", *MODULES])
def test_public_names_resolve(name: str):
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    assert len(set(public)) == len(public)
    assert [each for each in public if not hasattr(module, each)] == []
    assert module.__doc__ or Path(module.__file__ or "").read_text(encoding="utf-8") == "", (
        f"{name} says nothing of itself"
    )


@pytest.mark.parametrize("name", [name for name, tree in TREES.items() if name.endswith("__init__.py")])
def test_unknown_names_are_attribute_errors(name: str):
    module = importlib.import_module(".".join(["deploycomp", *Path(name).parts[:-1]]))
    with pytest.raises(AttributeError, match="has no attribute 'nonesuch'"):
        _ = module.nonesuch


def test_modules_that_others_use_name_what_is_public():
    silent = [
        name
        for name, tree in TREES.items()
        if not name.endswith(("__init__.py", "__main__.py", "worker.py"))
        and name != "cli/app.py"
        and not any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in tree.body)
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("torch", {"compress", "models", "export", "demo"}),
        ("transformers", {"models", "export", "demo"}),
        ("typer", {"cli"}),
        ("click", set()),
        ("pickle", set()),
        ("marshal", set()),
        ("shelve", set()),
        ("dill", set()),
        ("joblib", set()),
        ("requests", set()),
        ("urllib", set()),
        ("socket", set()),
    ],
)
def test_libraries_stay_in_their_rooms(library: str, rooms: set[str]):
    assert users_of(library, at_start=True) <= rooms


def test_torch_outside_its_rooms_is_only_for_the_child_that_measures_it_and_for_the_source_that_judges():
    assert users_of("torch") <= {"compress", "models", "export", "demo", "measure", "evaluate"}
    rooms = ("measure/", "evaluate/")
    inside = {name for name, tree in TREES.items() if name.startswith(rooms) and "torch" in imported(tree)}
    assert inside <= {"measure/device.py", "measure/engines.py", "evaluate/library.py"}


@pytest.mark.parametrize("library", ["typer", "click", "pickle", "marshal", "shelve", "dill", "joblib", "requests"])
def test_and_not_in_functions_either(library: str):
    assert users_of(library) <= ({"cli"} if library == "typer" else set())


HEAVY = {
    "torch", "transformers", "onnxruntime", "onnx", "onnx_ir", "onnxscript", "datasets", "sklearn", "scipy", "pandas",
    "matplotlib", "optimum", "neural_compressor", "tokenizers", "huggingface_hub",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in TREES if name.endswith("__init__.py")])
def test_packages_import_nothing_heavy(name: str):
    assert not {module.split(".")[0] for module in imported(TREES[name], at_start=True)} & HEAVY


# ------------------------------------------------------------ calls that run or trust foreign bytes

FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "numpy.load",
    "np.load",
    "pickle.load",
    "pickle.loads",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "tempfile.mktemp",
    "breakpoint",
}
FORBIDDEN_ARGUMENTS = {("trust_remote_code", True), ("shell", True), ("allow_pickle", True), ("weights_only", False)}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


@pytest.mark.parametrize("name", TREES)
def test_no_call_runs_foreign_bytes(name: str):
    for call in calls(TREES[name]):
        assert ast.unparse(call.func) not in FORBIDDEN, f"{name}:{call.lineno}"
        for keyword in call.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            assert (keyword.arg, value) not in FORBIDDEN_ARGUMENTS, f"{name}:{call.lineno}"


def test_the_scan_sees_what_it_looks_for():
    tree = ast.parse("import torch\ntorch.load('x')\neval('1')\nf(shell=True)\ndef f():\n    import pickle")
    assert {ast.unparse(call.func) for call in calls(tree)} & FORBIDDEN == {"torch.load", "eval"}
    assert set(imported(tree)) == {"torch", "pickle"}
    assert set(imported(tree, at_start=True)) == {"torch"}


@pytest.mark.parametrize("name", [name for name in TREES if not name.startswith("cli/")])
def test_the_library_never_prints(name: str):
    prints = [call.lineno for call in calls(TREES[name]) if ast.unparse(call.func) == "print"]
    assert prints == [] or name == "measure/worker.py", f"{name}:{prints}"
