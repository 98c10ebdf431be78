"""Setup tools: their refusals, and the placeholder for compiled ops."""

import email
import importlib.util
import os
import re
import subprocess
import zipfile

import pytest

import focal_plugin_doctor as doctor

from .conftest import ROOT

SETUP = ROOT / "tools" / "setup"


def load(name):
    spec = importlib.util.spec_from_file_location(name, SETUP / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def placeholder():
    module = type(os)("detectron2._C")
    exec(load("install_detectron2_wheel").PLACEHOLDER, module.__dict__)
    return module


@pytest.fixture
def foreign_wheel(tmp_path):
    """Build a wheel with a compiled extension for one Python, and metadata like the real one's."""
    tool = load("install_detectron2_wheel")
    info = "sal_detectron2-0.7.2.dist-info"
    files = {
        "detectron2/__init__.py": "",
        "detectron2/layers.py": "unmodified = True\n",
        "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "for another Python",
        "tools/train_net.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: sal-detectron2\nVersion: 0.7.2\n"
        "Requires-Dist: yacs\nRequires-Dist: numpy<2\nRequires-Dist: black\n"
        'Provides-Extra: all\nRequires-Dist: timm; extra == "all"\n\n',
        f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: cp310-cp310-linux_x86_64\n",
        f"{info}/top_level.txt": "detectron2\ntools\n",
    }
    root = tmp_path / "source"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    tool.wheel_tool("pack", "--dest-dir", tmp_path, root)
    return next(tmp_path.glob("*.whl"))


def test_a_wheel_with_one_changed_byte_is_refused(tmp_path):
    wheel = tmp_path / "detectron2.whl"
    wheel.write_bytes(b"not the wheel")
    with pytest.raises(SystemExit, match="not installed"):
        load("install_detectron2_wheel").verify(wheel)


def test_the_wheel_becomes_one_for_every_python_with_the_placeholder(foreign_wheel, tmp_path):
    tool = load("install_detectron2_wheel")
    wheel = tool.repack(foreign_wheel, tmp_path / "work")
    assert wheel.name == "sal_detectron2-0.7.2+python.only-py3-none-any.whl"
    info = "sal_detectron2-0.7.2+python.only.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        python = {name for name in archive.namelist() if not name.startswith(info)}
        assert python == {"detectron2/__init__.py", "detectron2/layers.py", "detectron2/_C.py"}
        assert archive.read("detectron2/layers.py") == b"unmodified = True\n"
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        assert archive.read(f"{info}/top_level.txt") == b"detectron2\n"
        assert b"detectron2/_C.py,sha256=" in archive.read(f"{info}/RECORD")
    assert metadata.get_all("Version") == ["0.7.2+python.only"]
    assert set(metadata.get_all("Requires-Dist")) == {"yacs", *tool.ADDED_REQUIREMENTS}
    assert metadata.get_all("Provides-Extra") is None


def test_a_missing_compiled_op_is_named_on_use(placeholder):
    with pytest.raises(ImportError, match=r"detectron2\._C\.deform_conv_forward is a compiled op"):
        getattr(placeholder, "deform_conv_forward")  # noqa: B009
    assert not placeholder.has_cuda()
    assert "none" in placeholder.get_compiler_version()


def test_a_dunder_lookup_raises_attribute_error(placeholder):
    assert not hasattr(placeholder, "__wrapped__")


def test_the_matching_pair_is_pinned_in_one_place():
    bootstrap = load("bootstrap")
    assert [pin.partition("==")[0] for pin in bootstrap.TORCH_PAIR] == ["torch", "torchvision"]
    others = [ROOT / "pyproject.toml", *ROOT.glob("*.py"), *SETUP.glob("*.py")]
    assert not any(pin in file.read_text() for file in others for pin in bootstrap.TORCH_PAIR)


class FakeEnvironment:
    """Fake environment with given modules that records what is installed into it."""

    python = "python"

    def __init__(self, has, runtime="Python only"):
        self.has, self.installed, self._runtime = set(has), [], runtime

    def can_import(self, *modules):
        return set(modules) <= self.has

    def pip(self, *arguments):
        self.installed.append(" ".join(map(str, arguments)))

    def runtime(self):
        return self._runtime


def install(monkeypatch, env, *, repository, python=(3, 11)):
    bootstrap = load("bootstrap")
    monkeypatch.setattr(bootstrap, "repository_answers", lambda: repository)
    monkeypatch.setattr(bootstrap, "run", lambda command: env.installed.append(str(command[1:])))
    monkeypatch.setattr(bootstrap.sys, "version_info", python)
    bootstrap.install_everything(env)
    return env.installed


def test_a_working_environment_gets_our_package_and_nothing_else(monkeypatch):
    env = FakeEnvironment({"torch", "torchvision", "detectron2", "cv2"}, runtime="compiled")
    installed = install(monkeypatch, env, repository=True)
    assert not any("torch" in line or "detectron2" in line for line in installed[:-1])
    assert installed[-1].endswith("[dev]")
    assert "opencv" not in installed[-1]


@pytest.mark.parametrize(("repository", "source"), [(True, "git+https"), (False, "_wheel.py")])
def test_detectron2_comes_from_its_repository_or_else_from_the_wheel(
    monkeypatch, repository, source
):
    env = FakeEnvironment({"torch", "torchvision"})
    installed = install(monkeypatch, env, repository=repository)
    assert sum("git+https" in line or "_wheel.py" in line for line in installed) == 1
    assert any(source in line for line in installed)
    assert "opencv-python-headless" in installed[-1]


def test_a_broken_torch_pair_is_reinstalled(monkeypatch):
    installed = install(monkeypatch, FakeEnvironment({"torch", "detectron2"}), repository=False)
    assert any("--force-reinstall torch==" in line for line in installed)


def test_detectron2_is_pinned_by_commit_and_by_hash():
    assert re.fullmatch(r"[0-9a-f]{40}", load("bootstrap").DETECTRON2_COMMIT)
    assert load("bootstrap").DETECTRON2_COMMIT in doctor.BUILD_DETECTRON2
    assert re.fullmatch(r"[0-9a-f]{64}", load("install_detectron2_wheel").SHA256)


def test_make_lists_its_targets():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("setup", "demo", "test", "lint", "clean"):
        assert f"make {target}" in shown.stdout


def test_ci_calls_make_test_and_nothing_else():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [x for x in lines if x and not x.startswith(("#", "set ", "cd "))]
    assert commands == ["exec make test"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
