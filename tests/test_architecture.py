"""Allowed imports between the parts of the package, and docstrings of public names."""

import ast
import re
import sys

import pytest

from .conftest import ROOT

PACKAGE = ROOT / "focal_plugin"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A part may import the parts on its right. Modules that are no package are below all packages.
# `focal_plugin_allocator` and `focal_plugin_doctor` are outside and import none of them.
ALLOWED = {
    "init": {
        "compare",
        "engine",
        "audit",
        "data",
        "init",
        "arms",
        "components",
        "config",
        "files",
        "names",
    },
    "prediction": {
        "compare",
        "engine",
        "data",
        "prediction",
        "components",
        "config",
        "files",
        "json_file",
        "run_folder",
        "score_thresholds",
    },
    "compare": {
        "arms",
        "data",
        "diagnostics",
        "engine",
        "losses",
        "audit",
        "compare",
        "components",
        "config",
        "config_file",
        "checks",
        "files",
        "forked",
        "garbage_collection",
        "json_file",
        "names",
        "ops",
        "pages",
        "run_folder",
        "score_thresholds",
        "signals",
        "yaml_text",
    },
    "engine": {
        "arms",
        "audit",
        "modeling",
        "data",
        "diagnostics",
        "losses",
        "registry",
        "engine",
        "checks",
        "components",
        "config",
        "config_file",
        "files",
        "names",
        "random_state",
        "run_folder",
        "score_thresholds",
        "signals",
    },
    "audit": {
        "arms",
        "ops",
        "modeling",
        "data",
        "diagnostics",
        "losses",
        "mining",
        "registry",
        "audit",
        "checks",
        "components",
        "config",
        "config_file",
        "files",
        "json_file",
        "names",
        "pages",
        "random_state",
    },
    "audit_command": {
        "audit",
        "components",
        "config",
        "config_file",
        "data",
        "dataset_config",
        "engine",
        "files",
    },
    "check_data_command": {"components", "config", "data", "dataset_config"},
    "dataset_config": {"config", "config_file", "config_node", "data"},
    "modeling": {
        "ops",
        "losses",
        "mining",
        "assignment",
        "modeling",
        "registry",
        "checks",
    },
    "data": {"data", "checks", "files", "garbage_collection", "names", "random_state", "signals"},
    "diagnostics": {"losses", "mining", "diagnostics", "files", "json_file", "names"},
    "losses": {"ops", "losses", "registry", "checks"},
    "mining": {"ops", "mining", "registry", "checks"},
    "assignment": {"ops", "assignment", "checks"},
    "ops": {"ops", "checks"},
    "pages": {"pages"},
    "env": {"config", "doctor"},
    "components": {"files", "registry"},
    "registry": {"checks", "names"},
    "arms": {"config_file", "names", "yaml_text"},
    "checks": set(),
    "config": {"config_node", "registry"},
    "config_node": {"names", "yaml_text"},
    "compiler_import": set(),
    "config_file": {"names"},
    "doctor": set(),
    "files": set(),
    "forked": set(),
    "garbage_collection": set(),
    "json_file": set(),
    "names": set(),
    "random_state": set(),
    "run_folder": set(),
    "score_thresholds": set(),
    "signals": set(),
    "yaml_text": set(),
}
# LOW_LAYERS import only PyTorch, except for these two names for configuration.
LOW_LAYERS = {"losses", "mining", "assignment", "ops"}
DETECTRON2_IN_REGISTRY = {"detectron2.config.configurable", "detectron2.utils.registry.Registry"}


def test_the_architecture_page_lists_the_same_imports():
    packages = {part for part in ALLOWED if (PACKAGE / part).is_dir()}
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]*\? \|(.*)\|$", page, re.MULTILINE)
    told = {part: set(re.findall(r"`(\w+)`", below)) for part, below in rows}
    assert told == {part: (ALLOWED[part] & packages) - {part} for part in packages}


def part_of(module):
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(module):
    """Return absolute dotted names, `package.module.name` for a from-import."""
    package = ("focal_plugin", *module.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def test_a_part_imports_only_what_it_may_know():
    assert len(MODULES) > 100
    for module in MODULES:
        part = part_of(module)
        for name in imported_names(module) if part != "__init__" else ():
            pieces = name.split(".")
            if pieces[0] == "focal_plugin" and len(pieces) > 1:
                assert pieces[1] in ALLOWED[part], f"{module} imports {name}"
            if pieces[0] == "detectron2":
                assert part not in {"losses", "mining", "assignment", "ops"}, (
                    f"{module} imports {name}"
                )
                assert part != "registry" or name in DETECTRON2_IN_REGISTRY, name


def name_of(module):
    """Return the dotted name of a file; a package has the name of its folder."""
    parts = ("focal_plugin", *module.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(module): module for module in MODULES}


def imports_at_module_level(tree):
    """Yield the import statements that run when the module is imported."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_at_module_level(ast.Module(node.orelse, []))
        elif isinstance(node, ast.If | ast.Try | ast.With):
            inner = [*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            yield from imports_at_module_level(ast.Module(inner, []))


def modules_that_run(name, source):
    """
    Return the modules of the package that an import of module ``name`` imports first.

    Importing a module also runs the `__init__` of every package that it lies in. A package that
    ``name`` lies in itself is running already, so it counts only if a name is taken from it.
    """
    is_package = NAMES[name].name == "__init__.py"
    package = name if is_package else name.rpartition(".")[0]
    found = set()
    for node in imports_at_module_level(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            levels = package.split(".")
            base = levels[: len(levels) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            members = [f"{stem}.{alias.name}" for alias in node.names]
            targets = [member if member in NAMES else stem for member in members]
        for target in filter(NAMES.__contains__, targets):
            found.add(target)
            parts = target.split(".")
            around = {".".join(parts[:i]) for i in range(1, len(parts))}
            found |= {p for p in around if p != name and not name.startswith(f"{p}.")}
    return found - {name}


def circle_in(graph):
    """Return the modules of one import circle, or None."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return None
        path.append(name)
        for target in sorted(graph[name]):
            circle = visit(target)
            if circle:
                return circle
        path.pop()
        done.add(name)
        return None

    return next(filter(None, map(visit, sorted(graph))), None)


def import_graph(**changed):
    """Return module -> modules that it imports; ``changed`` replaces the source of modules."""
    sources = {name: module.read_text() for name, module in NAMES.items()} | changed
    return {name: modules_that_run(name, source) for name, source in sources.items()}


def test_no_modules_import_each_other_in_a_circle():
    assert circle_in(import_graph()) is None


def test_a_circle_is_found():
    low = NAMES["focal_plugin.compare.runs.status"].read_text()
    planted = low + "\nfrom ..analysis.summary import Summary\n"
    circle = circle_in(import_graph(**{"focal_plugin.compare.runs.status": planted}))
    assert {"focal_plugin.compare.runs.status", "focal_plugin.compare.analysis.summary"} <= {
        *circle
    }


# A room of `compare` may import the rooms on its right; the commands import all of them.
ROOMS = {
    "plan": set(),
    "runs": {"plan"},
    "running": {"plan", "runs"},
    "analysis": {"plan", "runs"},
    "report": {"plan", "runs", "analysis"},
    "export": {"plan", "runs", "analysis", "report"},
}


def rooms_of(name):
    """Return the room of a module of `compare`; "" for the commands."""
    parts = name.split(".")
    return parts[2] if len(parts) > 2 and parts[2] in ROOMS else ""


def test_a_room_of_compare_imports_only_the_rooms_below_it():
    assert {file.parent.name for file in (PACKAGE / "compare").glob("*/__init__.py")} == set(ROOMS)
    for name, module in NAMES.items():
        if not name.startswith("focal_plugin.compare."):
            continue
        room = rooms_of(name)
        for target in imported_names(module):
            if target.startswith("focal_plugin.compare") and room:
                allowed = ROOMS[room] | {room}
                assert rooms_of(target) in allowed, f"{name} imports {target}"


def test_every_module_public_class_and_public_function_has_a_docstring():
    for module in MODULES:
        tree = ast.parse(module.read_text())
        assert ast.get_docstring(tree), module
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if node.name in {"main", "register_all"}:
                    continue
                assert ast.get_docstring(node), f"{module}: {node.name}"


def test_the_trainer_has_the_shape_of_detectron2s_own_script():
    source = (PACKAGE / "engine" / "train.py").read_text()
    assert len(source.splitlines()) <= 70
    functions = [n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    assert functions == ["main", "invoke_main"]


@pytest.mark.parametrize("module", ["focal_plugin_allocator", "focal_plugin_doctor"])
def test_a_module_outside_imports_nothing_but_the_standard_library_at_first(module):
    tree = ast.parse((ROOT / f"{module}.py").read_text())
    for node in tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert all(name.split(".")[0] in sys.stdlib_module_names for name in names)
