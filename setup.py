"""What pyproject.toml cannot say: an installation without the repository has the studies too."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STUDIES = [str(file) for file in Path("studies").glob("*/*.*") if file.suffix != ".pyc"]


class BuildWithStudies(build_py):
    """Builds the package with `studies/` in it, as `microtome.studies` finds it."""

    def run(self) -> None:
        """Copy the studies too, unless the package is used where it is."""
        super().run()
        for file in [] if self.editable_mode else STUDIES:
            target = Path(self.build_lib, "microtome", file)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(file, str(target))

    def get_source_files(self) -> list[str]:
        """The files that a source distribution needs."""
        return [*super().get_source_files(), *STUDIES]


setup(cmdclass={"build_py": BuildWithStudies})
