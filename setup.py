"""Lists the packages, which pyproject.toml alone cannot: three of them live outside src/ (see `package-dir` there).

Folders that hold only YAML or templates count as packages too, because setuptools wants data to belong to one.
"""

from setuptools import find_namespace_packages, setup

EXCLUDE = ["*__pycache__*", "*.egg-info"]

packages = find_namespace_packages("src", EXCLUDE)
for folder in ("conf", "experiments", "sweeps"):
    packages.append(f"meld.{folder}")
    packages.extend(f"meld.{folder}.{name}" for name in find_namespace_packages(folder, EXCLUDE))

setup(packages=packages)
