"""Puts the recipes and targets, which stand beside the package, into wheels; all else is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("export", "training", "engines")


class BuildWithSettings(build_py):
    """As ever, and FOLDER/*.toml as sr_deploy/data/FOLDER/*.toml; an editable install reads the folders themselves."""

    def build_package_data(self) -> None:
        super().build_package_data()
        for folder in FOLDERS:
            files = sorted(Path(folder).glob("*.toml"))
            if not files:
                raise FileNotFoundError(f"{folder}/*.toml: missing; build from the whole source tree")
            target = Path(self.build_lib) / "sr_deploy" / "data" / folder
            self.mkpath(str(target))
            for file in files:
                self.copy_file(str(file), str(target / file.name))


setup(cmdclass={"build_py": BuildWithSettings})
