"""A chain of retriever, prompt and chat model: what the retriever finds reaches the prompt."""

from __future__ import annotations

import itertools

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from langchain_hfembed import HybridRetriever, HybridVectorStore
from tests.integration_tests.interop.helpers import ANSWERS, TEXTS

REPLY = "It says so in the context."


@pytest.fixture
def prompts() -> list[str]:
    """What the chat model was asked, in the order of the calls."""
    return []


@pytest.fixture
def chain(bge_m3, prompts):
    store = HybridVectorStore.from_texts(TEXTS, bge_m3)
    retriever = HybridRetriever(store=store, k=1)
    prompt = ChatPromptTemplate.from_template("Context: {context}\nQuestion: {question}")

    def seen(value):
        prompts.append(value.to_string())
        return value

    return (
        {
            "context": retriever | (lambda found: "\n".join(each.page_content for each in found)),
            "question": RunnablePassthrough(),
        }
        | prompt
        | RunnableLambda(seen)
        | GenericFakeChatModel(messages=itertools.repeat(REPLY))
        | StrOutputParser()
    )


def _prompt(question: str) -> str:
    return f"Human: Context: {ANSWERS[question]}\nQuestion: {question}"


@pytest.mark.parametrize("question", ANSWERS)
def test_the_best_document_reaches_the_prompt(chain, prompts, question):
    assert chain.invoke(question) == REPLY
    assert prompts == [_prompt(question)]


async def test_the_best_document_reaches_the_prompt_from_a_coroutine(chain, prompts):
    [question, *_] = ANSWERS
    assert await chain.ainvoke(question) == REPLY
    assert prompts == [_prompt(question)]


def test_a_batch_gives_each_question_its_own_document(chain, prompts):
    assert chain.batch(list(ANSWERS)) == [REPLY] * len(ANSWERS)
    assert sorted(prompts) == sorted(map(_prompt, ANSWERS))


async def test_a_batch_of_coroutines_gives_each_question_its_own_document(chain, prompts):
    assert await chain.abatch(list(ANSWERS)) == [REPLY] * len(ANSWERS)
    assert sorted(prompts) == sorted(map(_prompt, ANSWERS))


def test_a_stream_comes_in_pieces_after_the_best_document_was_found(chain, prompts):
    [question, *_] = ANSWERS
    pieces = list(chain.stream(question))
    assert len(pieces) > 1
    assert "".join(pieces) == REPLY
    assert prompts == [_prompt(question)]


async def test_an_async_stream_comes_in_pieces_after_the_best_document_was_found(chain, prompts):
    [question, *_] = ANSWERS
    pieces = [piece async for piece in chain.astream(question)]
    assert len(pieces) > 1
    assert "".join(pieces) == REPLY
    assert prompts == [_prompt(question)]


async def test_events_tell_what_the_retriever_found_and_with_which_scores(chain):
    [question, *_] = ANSWERS
    found = [
        event["data"]["output"]
        async for event in chain.astream_events(question, version="v2")
        if event["event"] == "on_retriever_end"
    ]
    [[document]] = found
    assert document.page_content == ANSWERS[question]
    assert document.metadata["scores"].keys() == {"dense", "sparse", "multi_vector"}
