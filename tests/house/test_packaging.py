"""What is installed is what is in the folders: all of it, and nothing beside `dmspec`.

The builds run on a copy of the tree in a folder of their own, with setuptools called directly: a build in the
checkout would leave files there, and pip's isolated build would want a network.
"""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOOR = ROOT / "src" / "dmspec"
LINKS = {"compiler": "compiler", "grammar": "grammar", "runtime": "runtime", "library": "specs/lib"}
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src", "grammar", "compiler", "runtime", "specs")
DATA = ("*.py", "*.lark", "*.dms", "*.css", "*.j2", "*.js", "py.typed")


def listed_packages() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages: list[str] = project["tool"]["setuptools"]["packages"]
    return packages


def package_folders() -> dict[str, Path]:
    """Return each folder with Python files that is reached from src/dmspec/, by its package's name."""
    found: dict[str, Path] = {}
    waiting = [("dmspec", DOOR)]
    while waiting:
        name, folder = waiting.pop()
        if any(folder.glob("*.py")):
            found[name] = folder
        children = [child for child in folder.iterdir() if child.is_dir() and child.name != "__pycache__"]
        waiting += [(f"{name}.{child.name}", child) for child in children]
    return found


def expected_files() -> set[str]:
    """Return the files that a wheel must have, by their place in it."""
    return {
        f"{name.replace('.', '/')}/{file.name}"
        for name, folder in package_folders().items()
        for pattern in DATA
        for file in folder.glob(pattern)
    }


def copy_tree(folder: Path) -> Path:
    """Copy what a build reads, links as links; never the checkout's own build leftovers."""
    tree = folder / "tree"
    tree.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, tree / name)
    return tree


def build(tree: Path, what: str, into: Path) -> subprocess.CompletedProcess[str]:
    """Build a wheel or an sdist as pip would, without pip."""
    into.mkdir(exist_ok=True)
    code = f"import sys; from setuptools import build_meta; build_meta.build_{what}(sys.argv[1])"
    command = [sys.executable, "-c", code, str(into)]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


def the_file(folder: Path, pattern: str) -> Path:
    [file] = folder.glob(pattern)
    return file


def files_of_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel made from the tree, and below sdist/ an sdist with the wheel made from that."""
    folder = tmp_path_factory.mktemp("build")
    tree = copy_tree(folder)
    wheel = build(tree, "wheel", folder / "wheel")
    assert wheel.returncode == 0, wheel.stderr
    shutil.rmtree(tree)
    tree = copy_tree(folder)
    sdist = build(tree, "sdist", folder / "sdist")
    assert sdist.returncode == 0, sdist.stderr
    archive = the_file(folder / "sdist", "*.tar.gz")
    subprocess.run(["tar", "-xzf", archive, "-C", folder / "sdist"], check=True)
    second = build(the_file(folder / "sdist", "dmspec-*[0-9]"), "wheel", folder / "wheel-of-sdist")
    assert second.returncode == 0, second.stderr
    return folder


@pytest.mark.parametrize("name", LINKS)
def test_the_links_are_relative_and_lead_home(name: str) -> None:
    link = DOOR / name
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == (ROOT / LINKS[name]).resolve()


def test_the_list_of_packages_is_the_folders() -> None:
    assert sorted(listed_packages()) == sorted(package_folders())


def test_every_package_has_its_init() -> None:
    for name, folder in package_folders().items():
        assert (folder / "__init__.py").is_file(), name


def test_the_grammar_is_among_the_files() -> None:
    assert any(file.startswith("dmspec/grammar/") and file.endswith(".lark") for file in expected_files())


@pytest.mark.parametrize("wheel", ["wheel", "wheel-of-sdist"])
def test_a_wheel_has_every_file_and_only_dmspec(built: Path, wheel: str) -> None:
    files = files_of_wheel(the_file(built / wheel, "*.whl"))
    inside = {name for name in files if ".dist-info/" not in name}
    assert inside == expected_files()
    assert {name.partition("/")[0] for name in inside} == {"dmspec"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files)


def test_the_installed_wheel_runs_outside_the_checkout(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(the_file(built / "wheel", "*.whl")) as archive:
        archive.extractall(tmp_path / "site")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import importlib.util
import dmspec
assert dmspec.__file__.startswith(sys.argv[1]), dmspec.__file__
for name in sys.argv[2:]:
    importlib.import_module(name)
for name in ("compiler", "grammar", "runtime", "library"):
    assert importlib.util.find_spec(name) is None, name
from dmspec.cli import main
main(["--version"])
"""
    importable = [name for name in listed_packages() if name != "dmspec.runtime.fuse"]  # may load libfuse
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "site"), *importable]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("dmspec ")


@pytest.mark.parametrize("lost", [*LINKS, "all"])
@pytest.mark.parametrize("replaced_by", ["nothing", "a file"])
def test_a_build_without_the_links_stops(tmp_path: Path, lost: str, replaced_by: str) -> None:
    """A zip download turns a link into a small file with its target in it; some copies drop it."""
    tree = copy_tree(tmp_path)
    for name in LINKS if lost == "all" else [lost]:
        link = tree / "src" / "dmspec" / name
        target = str(link.readlink())
        link.unlink()
        if replaced_by == "a file":
            link.write_text(target)
    assert build(tree, "wheel", tmp_path / "wheel").returncode != 0
    assert list((tmp_path / "wheel").glob("*.whl")) == []
