"""What pyproject.toml cannot say: the studies are installed below the package, from `studies/`."""

from pathlib import Path

from setuptools import find_packages, setup

STUDIES = {
    f"microtome.studies.{file.parent.name}": str(file.parent)
    for file in Path("studies").glob("*/study.yaml")
}

setup(
    packages=[*find_packages(include=["microtome*"]), *STUDIES],
    package_dir=STUDIES,
    package_data={name: ["README.md", "study.yaml"] for name in STUDIES},
)
