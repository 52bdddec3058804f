"""The clients that `benchmarks.endpoint` compares: how each is made, and called with many texts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

BATCH_SIZE = 32
CONCURRENCY = 8
_MODEL = "org/model"  # some clients ask for a name; the server has one model

Vectors = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Calls:
    """What is timed of a client.

    Attributes:
        embed: Vectors of what `prepare` made.
        aembed: Likewise, on an event loop.
        prepare: What the client takes in the place of texts; made before the clock starts.
        close: Closes its connections.
    """

    embed: Callable[[Any], Vectors]
    aembed: Callable[[Any], Awaitable[Vectors]]
    prepare: Callable[[list[str]], Any] = list
    close: Callable[[], None] | None = None


@dataclass(frozen=True)
class Client:
    """A client to compare.

    Attributes:
        name: In the table.
        packages: Distributions it needs.
        in_flight: Requests at a time, sync and async.
        connect: Makes it, from the server's URL.
    """

    name: str
    packages: tuple[str, ...]
    in_flight: tuple[int, int]
    connect: Callable[[str], Calls]


def _ours(url: str) -> Calls:
    from langchain_hfembed.embeddings.endpoint import HuggingFaceEndpointEmbeddings

    # Both numbers come by themselves: 32 from the server's `/info`, and 8 is the default.
    embeddings = HuggingFaceEndpointEmbeddings(endpoint_url=url)
    return Calls(embeddings.embed_documents, embeddings.aembed_documents, close=embeddings.close)


def _llama_index(url: str) -> Calls:
    module = import_module("llama_index.embeddings.text_embeddings_inference")
    embeddings = module.TextEmbeddingsInference(
        model_name=_MODEL, base_url=url, embed_batch_size=BATCH_SIZE
    )
    # By default its async side sends all requests at once, and TEI refuses more than 512 texts.
    embeddings.num_workers = CONCURRENCY
    return Calls(embeddings.get_text_embedding_batch, embeddings.aget_text_embedding_batch)


def _haystack(url: str, **settings: int) -> Calls:
    document = import_module("haystack.dataclasses").Document
    module = import_module("haystack_integrations.components.embedders.huggingface_api")
    embedder = module.HuggingFaceAPIDocumentEmbedder(
        api_type="text_embeddings_inference",
        api_params={"url": url},
        token=None,
        batch_size=BATCH_SIZE,
        progress_bar=False,
        **settings,
    )

    def vectors(result: Any) -> Vectors:
        return [document.embedding for document in result["documents"]]

    async def aembed(documents: Any) -> Vectors:
        return vectors(await embedder.run_async(documents))

    return Calls(
        lambda documents: vectors(embedder.run(documents)),
        aembed,
        prepare=lambda texts: [document(content=text) for text in texts],
    )


def _langchain_openai(url: str) -> Calls:
    embeddings = import_module("langchain_openai").OpenAIEmbeddings(
        model=_MODEL,
        base_url=f"{url}/v1",
        api_key="none",
        chunk_size=BATCH_SIZE,
        check_embedding_ctx_length=False,  # else it sends OpenAI's token ids
    )
    return Calls(embeddings.embed_documents, embeddings.aembed_documents)


def _huggingface_hub(url: str) -> Calls:
    module = import_module("huggingface_hub")
    client = module.InferenceClient(f"{url}/embed")
    async_client = module.AsyncInferenceClient(f"{url}/embed")

    async def aembed(texts: list[str]) -> Any:
        return (await async_client.feature_extraction(texts)).tolist()

    return _looped(lambda texts: client.feature_extraction(texts).tolist(), aembed)


def _langchain_huggingface(url: str) -> Calls:
    hub = import_module("huggingface_hub")
    embeddings = import_module("langchain_huggingface").HuggingFaceEndpointEmbeddings(model=_MODEL)
    # It refuses a URL as its model, but not clients that have one.
    embeddings.client = hub.InferenceClient(f"{url}/embed")
    embeddings.async_client = hub.AsyncInferenceClient(f"{url}/embed")
    return _looped(embeddings.embed_documents, embeddings.aembed_documents)


def _looped(
    embed: Callable[[list[str]], Vectors], aembed: Callable[[list[str]], Awaitable[Vectors]]
) -> Calls:
    """A client that sends whatever it gets in one request, called with 32 texts at a time."""

    def batches(texts: list[str]) -> Iterator[list[str]]:
        return (texts[at : at + BATCH_SIZE] for at in range(0, len(texts), BATCH_SIZE))

    async def aembed_all(texts: list[str]) -> Vectors:
        return [vector for batch in batches(texts) for vector in await aembed(batch)]

    return Calls(
        lambda texts: [vector for batch in batches(texts) for vector in embed(batch)], aembed_all
    )


OURS = Client("langchain-hfembed", ("langchain-hfembed",), (CONCURRENCY, CONCURRENCY), _ours)
_HAYSTACK = ("haystack-ai", "huggingface-api-haystack")
_LLAMA_INDEX = ("llama-index-core", "llama-index-embeddings-text-embeddings-inference")
_OPENAI = ("langchain-openai", "openai")
CLIENTS = (
    OURS,
    Client("Haystack, HuggingFaceAPIDocumentEmbedder", _HAYSTACK, (1, 4), _haystack),
    Client(
        "Haystack, the same with concurrency_limit=8", _HAYSTACK, (1, CONCURRENCY),
        partial(_haystack, concurrency_limit=CONCURRENCY),
    ),
    Client("LlamaIndex, TextEmbeddingsInference", _LLAMA_INDEX, (1, CONCURRENCY), _llama_index),
    Client("langchain-openai, to /v1/embeddings", _OPENAI, (1, 1), _langchain_openai),
    Client("huggingface_hub, in a loop", ("huggingface-hub",), (1, 1), _huggingface_hub),
    Client(
        "langchain-huggingface, in a loop, its client replaced",
        ("langchain-huggingface",), (1, 1), _langchain_huggingface,
    ),
)  # fmt: skip
