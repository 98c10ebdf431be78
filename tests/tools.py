"""Import of the scripts of tools/ as modules."""

import importlib.util
import sys

from .conftest import ROOT


def load_tool(name):
    """Import `tools/NAME.py`, which may import other scripts of its folder."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    tool = importlib.util.module_from_spec(spec)
    sys.modules[name] = tool  # dataclasses look up their module there
    spec.loader.exec_module(tool)
    return tool
