"""The shape of a model that is not fetched yet."""

import re
from functools import cache

from microtome.errors import MicrotomeError, in_short
from microtome.models.sources import Folder, Hub, Package
from microtome.sweeps import cost


@cache
def of_config(source: Folder | Hub | Package) -> cost.Model:
    """The shape of a model, from its config: no weights are read.

    Args:
        source: a folder with a config.json, a GGUF, or a repository, which is asked for it.

    Returns:
        What `cost.model` makes of the manifest of a fetched one.

    Raises:
        MicrotomeError: there is no config, no network, or no such architecture.
    """
    from transformers import AutoConfig

    from microtome.models.checkpoint import read_config, sizes
    from microtome.models.float8 import FLOAT8, is_float8
    from microtome.models.packages import shipped
    from microtome.models.skeleton import head_of, skeleton

    try:
        match source:
            case Folder(path):
                config = read_config(path)
            case Hub(repository, revision):
                config = AutoConfig.from_pretrained(
                    repository, revision=revision, trust_remote_code=False
                )
            case Package(is_gguf=True):
                gguf = shipped(source)
                config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
            case Package():
                config = read_config(shipped(source))
    except Exception as error:  # no network, no such package, no such file in it
        raise MicrotomeError(f"unknown until it is fetched ({in_short(error)})") from error
    # A GGUF is unpacked into float32; other checkpoints are kept in their own dtype.
    unpacked = isinstance(source, Package) and source.is_gguf
    own = None if unpacked else config.dtype or config.get_text_config().dtype
    dtype = str(own or "float32").removeprefix("torch.")
    matrix = FLOAT8 if is_float8(config.to_dict()) else dtype  # of blocks; the head is not float8
    tensors = {
        name: {
            "dtype": matrix if tensor.ndim > 1 and re.search(r"\.\d+\.", name) else dtype,
            "shape": list(tensor.shape),
        }
        for name, tensor in skeleton(config).named_parameters()
    }
    about = {"architecture": config.model_type, "head": head_of(config), **sizes(config)}
    return cost.model({**about, "tensors": tensors})
