"""The functions of the studies, to be called by hand.

    mt.studies.category_selectivity.figures.rsa_profile(rsa)

They are found where the workflow finds them: in `studies/` of the working directory, then in that
of Microtome. Of a study, a file is imported when it is first used.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

# Which makes this module a package. The last folder is there where Microtome is installed without
# its repository.
__path__ = [
    str(Path.cwd() / "studies"),
    str(Path(__file__).parents[1] / "studies"),
    str(Path(__file__).with_suffix("")),
]


class Study(ModuleType):
    """A study's folder, with its README as the docstring and its Python files as attributes."""

    def __getattr__(self, name: str) -> ModuleType:
        """Import a file when it is first used."""
        if name in dir(self):
            return import_module(f"{self.__name__}.{name}")
        raise AttributeError(
            f"{self.__name__} has no {name}.py; it has {', '.join(dir(self)) or 'no functions'}"
        )

    def __dir__(self) -> list[str]:
        """Names for tab completion."""
        return sorted({file.stem for folder in self.__path__ for file in Path(folder).glob("*.py")})


def __getattr__(name: str) -> ModuleType:
    """Make a study of a folder; one that is written later is found too."""
    if name not in __dir__():
        raise AttributeError(f"no study {name!r}; there are {', '.join(__dir__())}")
    study = import_module(f"microtome.studies.{name}")
    study.__class__ = Study
    readmes = [Path(folder, "README.md") for folder in study.__path__]
    study.__doc__ = next((file.read_text("utf-8") for file in readmes if file.is_file()), None)
    return study


def __dir__() -> list[str]:
    """Names for tab completion."""
    files = [file for base in __path__ for file in Path(base).glob("*/study.yaml")]
    return sorted({file.parent.name for file in files if file.parent.name.isidentifier()})


for _name in __dir__():  # folders are imported without their code, which takes no time
    __getattr__(_name)
