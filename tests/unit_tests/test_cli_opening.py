"""What `--model` and `--to` open: the right encoder of a model, the right index of a target."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from langchain_hfembed.commands.opening import (
    index_exists,
    is_index,
    open_index,
    open_model,
    place_of,
)
from langchain_hfembed.commands.progress import Pace, duration
from langchain_hfembed.embeddings import (
    BGEM3Embeddings,
    HuggingFaceEmbeddings,
    HuggingFaceEndpointEmbeddings,
    HuggingFaceMultiVectorEmbeddings,
    HuggingFaceSparseEmbeddings,
)
from langchain_hfembed.embeddings.model_kind import require_kind
from langchain_hfembed.errors import CheckpointError, HybridIndexError, InvalidInputError
from langchain_hfembed.index.sqlite.index import SQLiteIndex
from langchain_hfembed.ingestion import Step
from tests.command_line import hfembed

# Models


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"sparse_linear.pt": None}, BGEM3Embeddings),
        ({"config.json": {"architectures": ["XLMRobertaModel"]}}, HuggingFaceEmbeddings),
        (
            {"modules.json": [], "config_sentence_transformers.json": {"model_type": "Other"}},
            HuggingFaceEmbeddings,
        ),
        (
            {
                "modules.json": [],
                "config_sentence_transformers.json": {"model_type": "SparseEncoder"},
            },
            HuggingFaceSparseEmbeddings,
        ),
        (
            {"modules.json": [], "config_sentence_transformers.json": {"model_type": "ColBERT"}},
            HuggingFaceMultiVectorEmbeddings,
        ),
        ({"config.json": {"architectures": ["HF_ColBERT"]}}, HuggingFaceMultiVectorEmbeddings),
    ],
)
def test_a_folder_is_opened_as_the_kind_of_model_that_it_says(
    files: dict[str, Any], kind: type, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert type(open_model(str(tmp_path))) is kind


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b'{"architectures": ["XLM'),
        ("config.json", b"\xff{}"),
        ("config.json", b"[]"),
        ("modules.json", b""),
        ("config_sentence_transformers.json", b"<html>"),
        ("config_sentence_transformers.json", b"[1]"),
    ],
)
def test_a_damaged_file_of_a_model_is_named(file: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        open_model(str(tmp_path))
    with pytest.raises(CheckpointError, match=file):
        require_kind("SparseEncoder", str(tmp_path), cache_folder=None, revision=None)


def test_a_folder_is_named_so_that_it_is_found_from_anywhere(
    xlmr_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(xlmr_folder.parent)
    model = open_model(xlmr_folder.name)
    assert isinstance(model, BGEM3Embeddings)
    assert model.model_name == str(xlmr_folder.resolve())


def test_the_demo_model_has_its_instructions_by_either_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "langchain_hfembed.demo.search.demo_embeddings", lambda: asked.append("demo") or "demo"
    )
    for name in ("demo", "/cache/multilingual-e5-small-q4-0123456789ab"):
        assert open_model(name) == "demo"
    assert len(asked) == 2


def test_a_url_is_a_server_that_embeds_and_gets_only_the_token_that_is_meant_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    model = open_model("http://localhost:8080")
    assert isinstance(model, HuggingFaceEndpointEmbeddings)
    assert model.endpoint_url == "http://localhost:8080"
    assert model.headers == {}


def test_without_a_network_a_model_is_left_to_bge_m3_whose_error_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    def unreachable(*_: object) -> bool:
        raise HfHubHTTPError.__bases__[0]("Name or service not known")

    monkeypatch.setattr("huggingface_hub.file_exists", unreachable)
    assert isinstance(open_model("some/model"), BGEM3Embeddings)


def test_a_model_that_nobody_has_is_left_to_bge_m3_whose_error_says_so() -> None:
    """Without a network, as in all tests."""
    for name in ("/nowhere/model", "nobody/has-this"):
        assert isinstance(open_model(name), BGEM3Embeddings)


# Indexes


def test_a_url_is_a_qdrant_server_with_its_collection_and_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "langchain_hfembed.index.qdrant.index.QdrantIndex",
        lambda *args, **kwargs: asked.append({**kwargs, "collection": args}),
    )
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    open_index("http://localhost:6333")
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    open_index("https://host", "notes")
    open_index("edge:some/folder")
    assert asked == [
        {"url": "http://localhost:6333", "api_key": None, "collection": ("hfembed",)},
        {"url": "https://host", "api_key": "secret", "collection": ("notes",)},
        {"path": str(Path("some/folder")), "collection": ()},
    ]


@pytest.mark.parametrize("url", ["http://me:pa55@h:6333", "https://pa55@h", "http://me:pa/55@h"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    asks: tuple[Callable[[str], object], ...] = (open_index, place_of)
    for ask in asks:
        with pytest.raises(InvalidInputError, match="QDRANT_API_KEY") as caught:
            ask(url)
        assert "55" not in str(caught.value)
    for arguments in (
        ("search", url, "x"),
        ("index", url, "--to", "k.db"),
        ("index", url, "--to", url),
        ("index", __file__.replace("test_cli_opening.py", "__init__.py"), "--to", url),
    ):
        result = hfembed(*arguments)
        assert result.code == 1
        assert "55" not in result.out + result.err


def test_a_password_in_a_url_of_another_scheme_is_not_repeated() -> None:
    with pytest.raises(InvalidInputError) as caught:
        open_index("grpc://me:pa55@h:6333")
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://localhost:6333", "http://localhost:6333/"),
        ("http://localhost", "http://127.0.0.1:6333"),
        ("http://[::1]:6333", "http://LOCALHOST:6333"),
        ("https://Host.example/qdrant/", "https://host.example:6333/qdrant"),
        ("k.db", "./k.db"),
        ("edge:k", "edge:./k/"),
    ],
)
def test_one_index_has_one_place_however_it_is_spelt(one: str, other: str) -> None:
    assert place_of(one) == place_of(other)


def test_other_servers_collections_and_files_are_other_places() -> None:
    places = [
        place_of("http://localhost:6333"),
        place_of("http://localhost:6333", "notes"),
        place_of("http://localhost:6334"),
        place_of("http://localhost:6333/a"),
        place_of("http://localhost:6333/A"),
        place_of("http://host:6333"),
        place_of("k.db"),
        place_of("other/k.db"),
        place_of("edge:k"),
        place_of(f"edge:{Path('j').resolve()}"),
    ]
    assert len(set(places)) == len(places)
    assert place_of("edge:k") == place_of(f"edge:{Path('k').resolve()}")
    assert place_of("http://h", "hfembed") == place_of("http://h")


@pytest.mark.parametrize("url", ["http://host:port", "http://[::1", "http://"])
def test_a_url_without_a_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError):
        place_of(url)


def test_what_is_an_index_is_told_by_its_contents(tmp_path: Path) -> None:
    with SQLiteIndex(tmp_path / "k.md"):
        pass
    (tmp_path / "note.db").write_text("text")
    (tmp_path / "empty").touch()
    assert is_index(str(tmp_path / "k.md"))
    assert is_index("edge:x")
    assert is_index("https://host")
    for name in ("note.db", "empty", "nothing", "."):
        assert not is_index(str(tmp_path / name))
    assert not index_exists(str(tmp_path / "empty"))
    assert not index_exists(str(tmp_path / "nothing"))
    with pytest.raises(HybridIndexError):
        open_index(str(tmp_path / "note.db"))


# Whole runs


def test_a_model_indexes_and_is_found_again_by_the_index(xlmr_folder: Path, tmp_path: Path) -> None:
    notes, target = tmp_path / "notes", tmp_path / "k.db"
    notes.mkdir()
    (notes / "seoul.md").write_text("# Seoul\n\nThe capital of Korea is Seoul.\n")
    (notes / "cats.txt").write_text("고양이는 햇볕에서 잠을 자고 개는 공원에서 뛴다.")
    first = hfembed("index", notes, "--to", target, "--model", xlmr_folder, "--json")
    assert first.json["indexed"] == 2, first.err
    assert hfembed("index", notes, "--to", target, "--json").json["skipped"] == 2
    result = hfembed("search", target, "고양이는", "잠을", "--json", "--explain", "-k", 1)
    [hit] = result.json["hits"]
    assert result.json["model"] == str(xlmr_folder.resolve())
    assert hit["id"] == "notes/cats.txt#0"
    for view in ("dense", "sparse", "multi_vector"):
        total = sum(match["contribution"] for match in hit["explanation"][view])
        assert total == pytest.approx(hit["scores"][view], abs=1e-3)


# Progress


def test_the_time_left_is_that_of_what_was_embedded_after_the_model_was_loaded() -> None:
    now = 100.0
    pace = Pace(1000, clock=lambda: now)
    assert str(pace) == "0 indexed"
    for _ in range(400):
        pace.add(Step("skipped", 1, 1.0))
    assert pace.seconds_left is None
    now += 60  # to load the model, and for the first batch
    pace.add(Step("indexed", 10, 100.0))
    assert pace.seconds_left == pytest.approx(500 * 60 / 100)
    for _ in range(2):
        now += 4
        pace.add(Step("indexed", 20, 100.0))
    assert pace.seconds_left == pytest.approx(300 * 4 / 100)
    assert pace.rate == pytest.approx(5)
    assert str(pace) == "50 indexed, 400 unchanged, 5.0 a second, 12 s left"


def test_times_are_short_to_read() -> None:
    assert [duration(seconds) for seconds in (0.2, 59.4, 185, 3725)] == [
        "0 s",
        "59 s",
        "3:05 min",
        "1:02:05 h",
    ]
