"""The sparse view as other packages' sparse embeddings: their classes, their types, our weights."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from langchain_hfembed import InvalidInputError
from langchain_hfembed.embeddings.sparse_adapters import SparseAdapters
from tests.encoders import HashEncoder
from tests.integration_tests.interop.helpers import TEXTS

QUERY = "the capital of Korea"


class Encoder(SparseAdapters, HashEncoder):
    """Any encoder; its queries have other weights than the same documents."""


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(("sparse",))


def _weights(vector) -> dict[int, float]:
    """A vector of either package as token weights."""
    if isinstance(vector, dict):
        return vector
    return dict(zip(vector.indices, vector.values, strict=True))


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.fixture(params=["qdrant", "milvus"])
def package(request) -> str:
    return request.param


@pytest.fixture
def adapt(package):
    return lambda encoder: getattr(encoder, f"as_{package}_sparse")()


def test_an_adapter_is_what_the_package_asks_for(encoder):
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
    from langchain_qdrant import SparseEmbeddings

    assert isinstance(encoder.as_qdrant_sparse(), SparseEmbeddings)
    assert isinstance(encoder.as_milvus_sparse(), BaseSparseEmbedding)


def test_an_adapter_gives_the_sparse_view_of_documents_and_of_queries(adapt, bge_m3, encoder):
    for ours in (bge_m3, encoder):
        adapter = adapt(ours)
        documents = [each.sparse.to_dict() for each in ours.encode_documents(TEXTS, ("sparse",))]
        [query] = ours.encode_queries([QUERY], ("sparse",))
        assert [_weights(each) for each in adapter.embed_documents(TEXTS)] == documents
        assert _weights(adapter.embed_query(QUERY)) == query.sparse.to_dict() != {}
    [as_document] = encoder.encode_documents([QUERY])
    assert _weights(adapter.embed_query(QUERY)) != as_document.sparse.to_dict()


async def test_an_adapters_coroutines_give_the_same(adapt, encoder):
    adapter = adapt(encoder)
    assert await adapter.aembed_query(QUERY) == adapter.embed_query(QUERY)
    assert await adapter.aembed_documents(TEXTS) == adapter.embed_documents(TEXTS)


def test_weights_are_plain_numbers(adapt, bge_m3):
    # repr tells numpy's numbers from Python's, and 1 from 1.0.
    weights = _weights(adapt(bge_m3).embed_query(QUERY))
    assert {(type(index), type(value)) for index, value in weights.items()} == {(int, float)}


def test_milvuss_client_takes_the_weights_as_they_are(bge_m3):
    from pymilvus.client.entity_helper import sparse_rows_to_proto
    from pymilvus.client.utils import sparse_parse_single_row

    adapter = bge_m3.as_milvus_sparse()
    weights = [*adapter.embed_documents(TEXTS), adapter.embed_query(QUERY)]
    sent = sparse_rows_to_proto(weights)
    assert [sparse_parse_single_row(row) for row in sent.contents] == weights


def test_no_texts_give_no_vectors(adapt, encoder):
    assert adapt(encoder).embed_documents([]) == []


def test_a_text_without_weights_gives_an_empty_vector(adapt, encoder):
    assert [_weights(each) for each in adapt(encoder).embed_documents([""])] == [{}]


def test_a_lone_string_for_documents_is_refused(adapt, encoder):
    with pytest.raises(InvalidInputError, match="list of texts"):
        adapt(encoder).embed_documents("a text")


@pytest.mark.parametrize(
    "travel", [copy.deepcopy, lambda adapter: pickle.loads(pickle.dumps(adapter))]
)
def test_an_adapter_travels_with_its_encoder(adapt, bge_m3, travel):
    adapter = adapt(bge_m3)
    arrived = travel(adapter)
    assert arrived.encoder is not bge_m3
    assert arrived.embed_query(QUERY) == adapter.embed_query(QUERY)


def test_a_pair_pickled_together_stays_together(adapt, bge_m3):
    dense, sparse = pickle.loads(pickle.dumps((bge_m3, adapt(bge_m3))))
    assert sparse.encoder is dense


def test_an_encoder_without_the_sparse_view_has_no_adapter(adapt):
    with pytest.raises(InvalidInputError, match="hash has no sparse view, only dense"):
        adapt(Encoder(("dense",)))


def test_a_missing_package_is_named_with_its_pip_command(package):
    code = (
        f"import sys; sys.modules['langchain_{package}'] = None\n"
        "from langchain_hfembed import BGEM3Embeddings\n"
        f"try: BGEM3Embeddings().as_{package}_sparse()\n"
        "except ImportError as error: print(error)"
    )
    finished = _run(code)
    assert f'pip install "langchain-{package}' in finished.stdout, finished.stderr


def test_importing_an_encoder_imports_neither_package():
    code = (
        "import sys; from langchain_hfembed import BGEM3Embeddings; BGEM3Embeddings()\n"
        "print([name for name in sys.modules if 'qdrant' in name or 'milvus' in name])"
    )
    finished = _run(code)
    assert finished.stdout.strip() == "[]", finished.stderr
