"""Files become documents: nothing is lost or altered, and what can't be read is named."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_hfembed.corpus import JSONLines, TextFiles, open_corpus, split
from langchain_hfembed.errors import InvalidInputError

pytest.importorskip("langchain_text_splitters")


def documents(corpus: TextFiles | JSONLines) -> list[Document]:
    return [piece.document for piece in corpus]


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def lines(folder: Path, *entries: object) -> JSONLines:
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries))
    return JSONLines(path)


# Cutting

MARKDOWN = st.lists(
    st.sampled_from(["# Title\n", "\n## Part\n", "word ", "\n", "\n\n", "```\ncode\n```\n", "긴글"])
    | st.text(max_size=30),
    max_size=40,
).map("".join)


@given(text=MARKDOWN, size=st.integers(1, 60), markdown=st.booleans())
def test_pieces_are_the_text_itself_without_white_space_at_the_cuts(
    text: str, size: int, markdown: bool
) -> None:
    pieces = split(text, size, markdown=markdown)
    end = 0
    for start, piece in pieces:
        assert piece
        assert len(piece) <= size
        assert text[start : start + len(piece)] == piece
        assert not text[end:start].strip()
        end = start + len(piece)
    assert not text[end:].strip()


def test_markdown_is_cut_at_headings_and_other_text_at_paragraphs() -> None:
    text = "# One\n\nalpha\n\n# Two\n\nbeta\n"
    assert [piece for _, piece in split(text, 20, markdown=True)] == [
        "# One\n\nalpha",
        "# Two\n\nbeta",
    ]
    assert [piece for _, piece in split(text, 20)] == ["# One\n\nalpha\n\n# Two", "beta"]


def test_a_chunk_size_of_0_leaves_files_whole() -> None:
    assert split("word\r\n" * 1000, 0) == [(0, "word\r\n" * 1000)]
    assert split(" \n", 0) == split(" \n", 5) == []


# Folders


def test_a_folder_gives_its_text_files_in_order_with_stable_ids(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "notes",
        {
            "b.md": "bread\r\n",
            "a.txt": "apple",
            "deep/er/c.MARKDOWN": "\ufeffcake",
            "page.html": "no",
            "empty.md": " \n",
            ".hidden.md": "no",
            ".git/d.md": "no",
        },
    )
    corpus = open_corpus(folder)
    assert isinstance(corpus, TextFiles)
    found = documents(corpus)
    assert [(document.id, document.page_content) for document in found] == [
        ("notes/a.txt#0", "apple"),
        ("notes/b.md#0", "bread\r\n"),
        ("notes/deep/er/c.MARKDOWN#0", "cake"),
    ]
    assert found[2].metadata == {
        "source": "notes/deep/er/c.MARKDOWN",
        "chunk": 0,
        "start_index": 0,
    }
    assert corpus.lengths == {
        "notes/a.txt": 1,
        "notes/b.md": 1,
        "notes/deep/er/c.MARKDOWN": 1,
        "notes/empty.md": 0,
    }
    assert corpus.problems.count == 0


def test_ids_do_not_depend_on_how_the_folder_is_named_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "notes", {"a.txt": "apple"})
    monkeypatch.chdir(folder)
    for path in (folder, Path(), "../notes", "../notes/"):
        assert [document.id for document in documents(TextFiles(path))] == ["notes/a.txt#0"]
    assert [d.id for d in documents(TextFiles(folder, name="mine"))] == ["mine/a.txt#0"]
    assert [d.id for d in documents(TextFiles("a.txt"))] == ["a.txt#0"]
    assert [d.id for d in documents(TextFiles("a.txt", name="notes/a.txt"))] == ["notes/a.txt#0"]


def test_the_pieces_of_a_file_know_where_they_start_and_share_its_size(tmp_path: Path) -> None:
    text = "\n\n".join(f"# Part {n}\n\n" + "word " * 30 for n in range(5))
    folder = write(tmp_path / "notes", {"long.md": text, "short.txt": "한글"})
    corpus = TextFiles(folder, chunk_size=100)
    pieces = list(corpus)
    assert corpus.lengths["notes/long.md"] > 5
    for piece in pieces[:-1]:
        start = piece.document.metadata["start_index"]
        assert text[start:].startswith(piece.document.page_content)
    assert corpus.size == len(text) + 6
    assert sum(piece.size for piece in pieces) == pytest.approx(corpus.size)


def test_a_file_that_is_not_utf_8_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "notes", {"a.txt": "apple", "b.txt": "Äpfel".encode("latin-1"), "c.txt": "cake"}
    )
    corpus = TextFiles(folder)
    assert [document.page_content for document in documents(corpus)] == ["apple", "cake"]
    assert corpus.problems.count == 1
    assert str(folder / "b.txt") in corpus.problems.messages[0]
    assert "UTF-8" in corpus.problems.messages[0]
    assert "notes/b.txt" in corpus.sources
    assert "notes/b.txt" not in corpus.lengths


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such names can't be made")
def test_a_file_whose_name_is_not_utf_8_is_named_and_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "notes", {"a.txt": "apple"})
    (folder / os.fsdecode(b"\xff.txt")).write_text("text")
    corpus = TextFiles(folder)
    assert [document.id for document in documents(corpus)] == ["notes/a.txt#0"]
    assert "\\udcff.txt" in corpus.problems.messages[0]


def test_a_broken_link_is_a_problem_and_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "notes", {"a.txt": "apple"})
    (folder / "broken.txt").symlink_to("nowhere")
    (folder / "around").symlink_to(folder, target_is_directory=True)
    corpus = TextFiles(folder)
    assert [document.id for document in documents(corpus)] == ["notes/a.txt#0"]
    assert corpus.problems.count == 1
    assert "broken.txt" in corpus.problems.messages[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_what_is_no_file_is_a_problem_and_is_not_waited_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "notes", {"a.txt": "apple"})
    os.mkfifo(folder / "pipe.txt")
    (folder / "zero.txt").symlink_to("/dev/zero")
    corpus = TextFiles(folder)
    assert [document.id for document in documents(corpus)] == ["notes/a.txt#0"]
    assert corpus.problems.messages == [
        f"{folder / name} can't be read: it is not a regular file"
        for name in ("pipe.txt", "zero.txt")
    ]
    assert corpus.is_complete


def test_what_cannot_be_indexed_is_said(tmp_path: Path) -> None:
    write(tmp_path, {"page.html": "no"})
    with pytest.raises(InvalidInputError, match=r"no \.txt, \.md or \.markdown file in the folder"):
        open_corpus(tmp_path)
    with pytest.raises(InvalidInputError, match=r"page\.html is neither a folder nor"):
        open_corpus(tmp_path / "page.html")
    with pytest.raises(InvalidInputError, match="there is no file or folder"):
        open_corpus(tmp_path / "nothing.md")


# JSON Lines


def test_lines_of_every_known_form_become_documents(tmp_path: Path) -> None:
    corpus = lines(
        tmp_path,
        {"id": "1", "text": "a\r\nb", "metadata": {"year": 2024, "deep": {"x": [1.0, None]}}},
        "",
        {"_id": "2", "title": "Seoul", "text": "A capital.", "metadata": {}},
        Document(id="3", page_content="LangChain's", metadata={"k": 1}).model_dump(),
        {"id": 4, "text": "", "title": "", "year": 2020},
        {"text": "no id", "metadata": None},
    )
    assert documents(corpus) == [
        Document(
            id="1", page_content="a\r\nb", metadata={"year": 2024, "deep": {"x": [1.0, None]}}
        ),
        Document(id="2", page_content="Seoul A capital."),
        Document(id="3", page_content="LangChain's", metadata={"k": 1}),
        Document(id="4", page_content="", metadata={"year": 2020}),
        Document(id="corpus.jsonl#6", page_content="no id"),
    ]
    assert corpus.problems.count == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "Expecting"),
        ("[1]", "a line is an object"),
        ('{"id": "1"}', "the text is missing"),
        ('{"text": 3}', "the text is 3, not a string"),
        ('{"id": true, "text": "a"}', "the id is True"),
        ('{"text": "a", "page_content": "b"}', "has both text and page_content"),
        ('{"text": "a", "metadata": [1]}', r"the metadata is \[1\]"),
        ('{"text": "a", "year": 1, "metadata": {"year": 2}}', "year is in the metadata and beside"),
        ('{"text": "a", "metadata": {"x": NaN}}', "NaN is not JSON"),
        ('{"text": "a", "metadata": {"x": 1e999}}', "1e999 is too large"),
        ('{"text": "\\uD800"}', "surrogate"),
        ('{"text": ' + "[" * 100_000, "."),
        (b'{"text": "\xe9"}', "utf-8"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_the_others_are_read(
    line: str | bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "corpus.jsonl"
    line = line.encode() if isinstance(line, str) else line
    path.write_bytes(b'\xef\xbb\xbf{"text": "first"}\n' + line + b'\r\n{"text": "last"}')
    corpus = JSONLines(path)
    assert [(d.id, d.page_content) for d in documents(corpus)] == [
        ("corpus.jsonl#1", "first"),
        ("corpus.jsonl#3", "last"),
    ]
    [problem] = corpus.problems.messages
    assert f"{path}, line 2: " in problem
    assert re.search(says, problem)


def test_of_many_bad_lines_the_first_are_kept_and_all_counted(tmp_path: Path) -> None:
    corpus = lines(tmp_path, *["nonsense"] * 1000)
    assert documents(corpus) == []
    assert corpus.problems.count == 1000
    assert len(corpus.problems.messages) == 20


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    """Else a corpus would have to fit in memory."""
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "x"}\n' * 100_000)
    first = next(iter(JSONLines(path)))
    assert first.document.id == "corpus.jsonl#1"
    assert first.size == 14
    assert JSONLines(path).size == 14 * 100_000
