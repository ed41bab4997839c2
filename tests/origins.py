"""What checkpoints are fetched from: tiny models, traps that lie beside them, a stand-in hub."""

import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from microtome.errors import MicrotomeError

COMMIT, LATER = (hashlib.sha1(name).hexdigest() for name in (b"a commit", b"a later commit"))
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


#: Sizes that most types take, with experts for those that have any.
SIZES = {
    "vocab_size": 64,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def save(folder: Path, model_type: str, dtype: torch.dtype = torch.float32, **changes) -> None:
    """Save a random model of some type as save_pretrained does, without tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SIZES | changes))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict]) -> None:
    """Store other tensors in a folder's model.safetensors."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def edit(folder: Path, **values: object) -> str:
    """Change keys of a folder's config.json; return its name."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return file.name


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


def shard(folder: Path) -> list[Path]:
    """Save the folder's model anew in several files with an index."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    return shards


class StandInHub:
    """Enough of the hub's API for snapshot_download: a commit's file tree, and its files.

    Attributes:
        repositories: the files of each repository by commit; `main` points at the last.
        refusals: for a repository, status and error code of every answer about its files.
        trees_refused: the same, for its file tree.
        torn: names of files whose transfer breaks off half-way.
        requests: what was asked for, as "METHOD path".
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.trees_refused: dict[str, tuple[int, str]] = {}
        self.torn: set[str] = set()
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def add(self, repository: str, folder: Path, commit: str = COMMIT) -> None:
        self.repositories.setdefault(repository, {})[commit] = contents(folder)

    def files(self, repository: str, revision: str) -> dict[str, bytes]:
        return self.repositories[repository][self.commit(repository, revision)]

    def commit(self, repository: str, revision: str) -> str:
        return [*self.repositories[repository]][-1] if revision == "main" else revision

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
                    case ["api", "models" | "datasets", owner, name, "tree", revision]:
                        self.tree(f"{owner}/{name}", revision)
                    case ["api", "models" | "datasets", owner, name, "revision", revision]:
                        self.revision(f"{owner}/{name}", revision)
                    case [owner, name, "resolve", revision, *file] | [
                        "datasets",
                        owner,
                        name,
                        "resolve",
                        revision,
                        *file,
                    ]:
                        self.file(f"{owner}/{name}", revision, "/".join(file))
                    case _:
                        self.answer(404, b"")

            def found(self, repository: str, revision: str, refusals: dict) -> bool:
                if repository in refusals:
                    status, code = refusals[repository]
                    self.answer(status, b"", **({"X-Error-Code": code} if code else {}))
                elif repository not in hub.repositories:
                    self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
                elif revision not in (*hub.repositories[repository], "main"):
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
                        for path, content in hub.files(repository, revision).items()
                    ]
                    self.answer(200, json.dumps(entries).encode())

            def revision(self, repository: str, revision: str) -> None:
                if self.found(repository, revision, hub.trees_refused):
                    found = {"id": repository, "sha": hub.commit(repository, revision)}
                    self.answer(200, json.dumps(found).encode())

            def file(self, repository: str, revision: str, path: str) -> None:
                if not self.found(repository, revision, hub.refusals):
                    return
                content = hub.files(repository, revision)[path]
                commit = hub.commit(repository, revision)
                etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
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
