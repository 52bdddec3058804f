"""The command `hfembed eval`, as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from langchain_hfembed import HybridVectorStore
from langchain_hfembed.evaluation import evaluate
from tests.command_line import hfembed, play_models
from tests.encoders import HashEncoder
from tests.unit_tests.evaluation.conftest import DOCUMENTS, QRELS, QUERIES, write_qrels

pytest.importorskip("typer")
pytest.importorskip("rich")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indexes are kept."""
    monkeypatch.setenv("HFEMBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[HashEncoder]:
    """The encoders of the models that commands have opened, one a command."""
    return play_models(monkeypatch, "evaluate")


def test_measures_are_printed_and_the_second_run_only_searches(
    beir: Path, encoders: list[HashEncoder], cache: Path
) -> None:
    first = hfembed("eval", beir, "--model", "some/model")
    assert first.code == 0, first.err
    assert "small: 6 documents, model some/model" in first.out
    assert "nDCG@10 vs fusion" in first.out
    [index] = cache.rglob("*.db")
    assert str(index) in first.err.replace("\n", "")
    second = hfembed("eval", beir, "--model", "some/model", "--json")
    assert [len(encoder.encoded) for encoder in encoders] == [6, 0]
    store = HybridVectorStore(HashEncoder())
    store.add_texts(list(DOCUMENTS.values()), ids=list(DOCUMENTS))
    expected = evaluate(store, QUERIES, QRELS).to_dict()
    assert {name: second.json[name] for name in expected} == expected
    assert second.json["tuning"] is None
    assert (second.json["collection"], second.json["documents"]) == ("small", 6)
    assert second.json["seconds"].keys() == {"indexing", "measuring"}


def test_another_corpus_or_model_gets_another_index(
    beir: Path, encoders: list[HashEncoder], cache: Path
) -> None:
    hfembed("eval", beir, "--model", "a")
    hfembed("eval", beir, "--model", "b")
    corpus = beir / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("loaf", "cake"))
    hfembed("eval", beir, "--model", "a")
    assert len(list(cache.rglob("*.db"))) == 3


def test_weights_are_tuned_and_drawn(
    beir: Path, encoders: list[HashEncoder], tmp_path: Path
) -> None:
    plot = tmp_path / "weights.png"
    command = ("eval", beir, "--model", "m", "--tune", "--folds", "3", "--plot", plot)
    shown = hfembed(*command)
    assert shown.code == 0, shown.err
    assert "Tuned on the same queries" in shown.out
    assert "held out" in shown.out
    assert "tuned" not in shown.out.partition("Tuned on")[0]  # in-sample figures stay out
    assert plot.read_bytes().startswith(b"\x89PNG")
    tuning = hfembed(*command, "--json").json["tuning"]
    assert (tuning["split"], len(tuning["fold_weights"])) == (None, 3)


def test_weights_are_tuned_on_one_split_and_measured_on_another(
    beir: Path, encoders: list[HashEncoder]
) -> None:
    write_qrels(beir / "qrels.train.tsv", {q: QRELS[q] for q in ("q1", "q2", "q3", "q4")})
    write_qrels(beir / "qrels.tsv", {q: QRELS[q] for q in ("q5", "q6")})
    command = ("eval", beir, "--model", "m", "--tune-on", "train", "--folds", "2")
    found = hfembed(*command, "--json").json
    assert (found["queries"], found["tuning"]["queries"]) == (2, 4)
    assert list(found["measures"])[-2:] == ["fusion", "tuned"]
    assert "Tuned on the split train" in hfembed(*command).out


def test_an_index_that_exists_needs_no_corpus(
    beir: Path, encoders: list[HashEncoder], tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "mine.db"
    with HybridVectorStore(HashEncoder(model_name="mine"), path=path) as store:
        store.add_texts(list(DOCUMENTS.values()), ids=list(DOCUMENTS))
    (beir / "corpus.jsonl").unlink()
    found = hfembed("eval", beir, "--index", path, "-k", "3", "--json")
    assert found.code == 0, found.err
    assert found.json["model"] == "mine"
    assert list(found.json["measures"]["dense"]) == ["nDCG@3", "RR@3", "R@3"]
    assert not cache.exists()
    assert [encoder.encoded for encoder in encoders] == [[]]


def test_a_stopped_run_goes_on(
    beir: Path, encoders: list[HashEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_hfembed.commands.evaluate._BATCH", 2)
    iterate = HashEncoder.iter_encode_documents

    def stop(self, texts, views=None):
        if len(self.encoded) >= 4:
            raise KeyboardInterrupt
        return iterate(self, texts, views)

    with monkeypatch.context() as patched:
        patched.setattr(HashEncoder, "iter_encode_documents", stop)
        stopped = hfembed("eval", beir, "--model", "m")
    assert stopped.code == 130
    assert "goes on from here" in stopped.err
    assert hfembed("eval", beir, "--model", "m").code == 0
    assert [len(encoder.encoded) for encoder in encoders] == [4, 2]


MISTAKES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "plot without tuning": (("--plot", "a.png"), 2, "add --tune"),
    "plot of another kind": (("--tune", "--plot", "a.jpeg"), 2, "must end in .png"),
    "plot in no folder": (("--tune", "--plot", "no/a.png"), 2, "there is no folder"),
    "no such split": (("--split", "dev"), 1, "no qrels.dev.tsv"),
    "no such index": (("--index", "no.db"), 1, "there is no index"),
    "too many folds": (("--tune", "--folds", "9"), 1, "folds=9"),
    "k": (("--k", "0"), 2, "--k"),
    "plot is a folder": (("--tune", "--plot", "folder.png"), 2, "is a folder"),
    "collection of no server": (("--collection", "c"), 2, "give --index"),
    "tuned on what is measured": (
        ("--split", "again", "--tune-on", "again", "--folds", "2"),
        2,
        "6 of its queries",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named_before_anything_takes_long(
    case: str, beir: Path, encoders: list[HashEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    options, code, said = MISTAKES[case]
    monkeypatch.chdir(beir)
    Path("folder.png").mkdir()
    write_qrels(beir / "qrels.again.tsv", QRELS)
    found = hfembed("eval", beir, *options)
    assert not any(encoder.encoded for encoder in encoders)
    assert (found.code, said in " ".join(found.err.replace("│", " ").split())) == (code, True), (
        found.err
    )


@pytest.mark.parametrize("missing", ["pytrec_eval", "matplotlib.figure"])
def test_what_is_not_installed_is_named_before_anything_takes_long(
    missing: str, beir: Path, encoders: list[HashEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in list(sys.modules):
        if name.startswith("langchain_hfembed.evaluation"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    found = hfembed("eval", beir, "--tune", "--plot", "a.png")
    assert found.code == 1
    assert 'pip install "langchain-hfembed[eval]"' in found.err.replace("\n", " ")
    assert encoders == []
