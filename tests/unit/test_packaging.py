"""The repository's root is the package: what is built from it, and that it is one package under one name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import cloner
from cloner import utils

ROOT = Path(__file__).parents[2]
NOT_INSTALLED = {"__pycache__", "build", "dist", "docs", "scripts", "tests"}  # of the folders at the top
INSTALLED = {".conf", ".json", ".py", ".typed"}  # of the files at the top
BUILD = "from setuptools import build_meta; print(build_meta.build_{}('..'))"
HELP = "import cloner, runpy, sys; print(cloner.__file__); sys.argv[1:] = ['--help']; runpy.run_module('cloner')"


def folders() -> list[Path]:
    """The folders at the top that belong to the package."""
    found = [path for path in ROOT.iterdir() if path.is_dir() and path.name.isidentifier()]
    return [path for path in found if path.name not in NOT_INSTALLED]


def is_ours(path: Path) -> bool:
    """Whether a file belongs to the package by its place."""
    return path.parent == ROOT or any(path.is_relative_to(folder) for folder in folders())


def installed_files() -> set[str]:
    """What an installation has to have, relative to the root."""
    found = [path for path in ROOT.iterdir() if path.suffix in INSTALLED]
    found += [path for folder in folders() for path in folder.rglob("*.*") if path.suffix != ".pyc"]
    return {str(path.relative_to(ROOT)) for path in found if path.is_file()}


def run(code: str, folder: Path) -> str:
    """What a piece of Python prints that runs in a folder and prefers the modules there."""
    env = os.environ | {"PYTHONPATH": str(folder)}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a source distribution of a copy of the tree."""
    place = tmp_path_factory.mktemp("build")
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, place / "any-name.1", ignore=unwanted)
    sdist = place / run(BUILD.format("sdist"), place / "any-name.1").splitlines()[-1]
    run(f"import shutil; shutil.unpack_archive({sdist.name!r})", place)  # Python 3.11.2 and 3.12 disagree on how
    return place / run(BUILD.format("wheel"), place / sdist.name.removesuffix(".tar.gz")).splitlines()[-1]


def test_every_package_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {path.parent.relative_to(ROOT) for path in ROOT.rglob("__init__.py") if is_ours(path)}
    assert set(settings["tool"]["setuptools"]["packages"]) == {".".join(("cloner", *path.parts)) for path in packages}


def test_the_wheel_has_every_file_and_no_other(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.removeprefix("cloner/") for name in names} == installed_files()


def test_the_wheel_has_the_version_of_the_package(wheel: Path) -> None:
    assert wheel.name == f"cloner-{cloner.__version__}-py3-none-any.whl"


def test_the_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    assert run(HELP, tmp_path).startswith(f"{tmp_path}/cloner/__init__.py\n")


def test_the_installed_package_is_this_folder() -> None:
    assert Path(utils.__file__) == ROOT / "utils.py"


def test_the_package_is_imported_under_one_name() -> None:
    """A second copy of a module would have locks, clocks and exceptions of its own."""
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    names = {name for name, file in files.items() if file and is_ours(Path(file))}
    assert {name for name in names if name.split(".")[0] != "cloner"} == set()
