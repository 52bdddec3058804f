"""Why a document ranks where it does: which tokens met, and what each of them added."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from langchain_core.documents import Document

from langchain_hfembed.embeddings.base import HybridEncoder
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.fusion import Fusion, fuse
from langchain_hfembed.hits import document_of
from langchain_hfembed.index.base import HybridIndex
from langchain_hfembed.index.filters import Filter
from langchain_hfembed.scoring import Scores, unit_embedding
from langchain_hfembed.vectors import (
    FloatArray,
    HybridEmbedding,
    PerView,
    SparseVector,
    View,
    view_title,
)

_SHOWN = 12  # matches of a view in a table
_COLOUR = "255, 170, 0"
_ROW = "display: flex; flex-wrap: wrap; gap: 0 3em"


@dataclass(frozen=True)
class TokenMatch:
    """What one token of the query finds in the document.

    Attributes:
        query_token: The token; in the dense view, which has none, the whole query.
        document_token: Likewise, of the document.
        contribution: What this adds to the view's score. Those of a view sum to it.
        query_weight: In the sparse view, the weight of the token in the query.
        document_weight: Likewise, in the document. Their product is the contribution.
        position: In the multi-vector view, the row of the document's token.
    """

    query_token: str
    document_token: str
    contribution: float
    query_weight: float | None = None
    document_weight: float | None = None
    position: int | None = None


@dataclass(frozen=True, repr=False)
class Explanation:
    """The scores of a document for a query, taken apart. Coloured in notebooks, text elsewhere.

    Attributes:
        query: The query.
        document: The document, with its id.
        score: The fused score, as in a search.
        scores: The score in each view; None for a view that is absent.
        shares: What each view adds to the fused score, where the fusion is a sum of views.
        dense: One match of everything with everything.
        sparse: The tokens that both have, the largest contribution first.
        multi_vector: For each token of the query, in order, the nearest one of the document.
        tokens: The document's tokens, one for each of its token vectors; none where these are
            pooled.
        prompt_tokens: How many of them come of what the model is given in front of a document.
    """

    query: str
    document: Document
    score: float
    scores: PerView[float]
    shares: PerView[float]
    dense: tuple[TokenMatch, ...] | None = None
    sparse: tuple[TokenMatch, ...] | None = None
    multi_vector: tuple[TokenMatch, ...] | None = None
    tokens: tuple[str, ...] = ()
    prompt_tokens: int = 0

    def __str__(self) -> str:
        lines = [f"{self.query!r} finds document {self.document.id!r}: {self.score:.4f}"]
        for view, score in self.scores.present():
            share = getattr(self.shares, view)
            added = "" if share is None else f", which adds {share:.4f}"
            lines.append(f"{view_title(view)} {score:.4f}{added}")
            lines += [f"  {_line(match)}" for match in self._best(view)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The document's text, coloured by contribution, and the matches of each view."""
        views = "".join(self._view_html(view, score) for view, score in self.scores.present())
        return (
            f"<p><b>{html.escape(self.query)}</b> finds "
            f"<code>{html.escape(str(self.document.id))}</code>: {self.score:.4f}</p>"
            f'<p style="white-space: pre-wrap">{self._coloured()}</p>'
            f'<div style="{_ROW}">{views}</div>'
        )

    def _view_html(self, view: View, score: float) -> str:
        """A view's score, and under it its matches."""
        share = getattr(self.shares, view)
        added = "" if share is None else f", adds {share:.4f}"
        rows = "".join(
            f"<tr><td>{html.escape(match.query_token)}</td>"
            f"<td>{html.escape(match.document_token)}</td>"
            f'<td style="{_background(match.contribution, score)}">'
            f"{match.contribution:.4f}</td></tr>"
            for match in self._best(view)
        )
        return (
            f"<div><p><b>{view_title(view)}</b> {score:.4f}{added}</p><table>{rows}</table></div>"
        )

    def _best(self, view: View) -> list[TokenMatch]:
        """The matches worth showing, the largest first."""
        if view == "dense":
            return []
        matches: tuple[TokenMatch, ...] = getattr(self, view) or ()
        return sorted(matches, key=lambda match: -match.contribution)[:_SHOWN]

    def _coloured(self) -> str:
        text = self.document.page_content
        weights = np.zeros(len(text))
        for (start, end), weight in self._weighted_spans():
            weights[start:end] = np.maximum(weights[start:end], weight)
        # Cosines lie near to each other; from just below the smallest on, one sees which is larger.
        lowest = 0.9 * min((weight for weight in weights if weight > 0), default=0.0)
        pieces, start = [], 0
        for end in [*np.flatnonzero(np.diff(weights)) + 1, len(text)]:
            piece = html.escape(text[start:end])
            style = ""
            if end > start and weights[start] > 0:
                style = _background(weights[start] - lowest, weights.max() - lowest)
            pieces.append(f'<span style="{style}">{piece}</span>' if style else piece)
            start = end
        return "".join(pieces)

    def _weighted_spans(self) -> list[tuple[tuple[int, int], float]]:
        """Where in the text tokens stand that something found, and what they added."""
        text = self.document.page_content
        if self.multi_vector and self.tokens:
            # The largest, not their sum: what has no counterpart, such as the tokens of a prompt,
            # meets in one filler word.
            added: dict[int, float] = {}
            for match in self.multi_vector:
                if match.position is not None:
                    best = added.get(match.position, match.contribution)
                    added[match.position] = max(best, match.contribution)
            spans = _spans(text, self.tokens, self.prompt_tokens)
            return [(spans[at], weight) for at, weight in added.items() if at in spans]
        return [
            (found.span(), match.contribution)
            for match in self.sparse or ()
            for found in re.finditer(re.escape(_word(match.document_token)), text, re.IGNORECASE)
            if found.group()
        ]


def explain(
    index: HybridIndex,
    encoder: HybridEncoder,
    query: str,
    id_: str,
    *,
    fetch_k: int,
    fusion: Fusion,
    filter_: Filter | None = None,
) -> Explanation:
    """Take the scores of one document apart.

    Args:
        index: Where it is stored.
        encoder: What the index was made with.
        query: What was looked for.
        id_: The document's id.
        fetch_k: Candidates of the dense and of the sparse view, each, as in the search: fused
            scores may depend on the other candidates.
        fusion: How the scores become one.
        filter_: Which documents the candidates are chosen from; None for all.

    Raises:
        InvalidInputError: If there is no such document.
    """
    [encoded] = encoder.encode_queries([query])
    with index.snapshot():
        found = index.get([id_], views=encoded.views)
        if not found:
            raise InvalidInputError(f"there is no document {id_!r} to explain")
        ids = index.candidates(encoded, fetch_k, filter_)
        ids = ids if id_ in ids else [*ids, id_]
        scores = index.score(encoded, ids)
    [record] = found
    position = ids.index(id_)
    stored, unit = record.embedding, unit_embedding(encoded)  # stored at length 1
    query_tokens: list[str] = []
    tokens: list[str] = []
    if stored.multi_vector is not None:
        query_tokens = encoder.tokenize(query, is_query=True)
        tokens = encoder.tokenize(record.text)
        if len(tokens) != len(stored.multi_vector):  # pooled: a vector is no token's
            tokens = []
    return Explanation(
        query=query,
        document=document_of(record),
        score=float(fuse(fusion, scores)[position]),
        scores=PerView(**{view: float(values[position]) for view, values in scores.present()}),
        shares=_shares(fusion, scores, position),
        dense=_dense(query, record.text, unit, stored),
        sparse=_sparse(unit.sparse, stored.sparse, encoder.decode_token),
        multi_vector=_multi_vector(
            query_tokens,
            unit.multi_vector,
            tokens,
            stored.multi_vector,
        ),
        tokens=tuple(tokens),
        prompt_tokens=_common_beginning(tokens, encoder.tokenize("")) if tokens else 0,
    )


def _shares(fusion: Fusion, scores: Scores, position: int) -> PerView[float]:
    shares = getattr(fusion, "shares", None)  # a function of the user's own may have none
    if shares is None:
        return PerView()
    return PerView(**{view: float(values[position]) for view, values in shares(scores).items()})


def _dense(
    query: str, text: str, encoded: HybridEmbedding, stored: HybridEmbedding
) -> tuple[TokenMatch, ...] | None:
    if encoded.dense is None or stored.dense is None:
        return None
    return (TokenMatch(query, text, float(encoded.dense @ stored.dense)),)


def _sparse(
    query: SparseVector | None, document: SparseVector | None, decode: Callable[[int], str]
) -> tuple[TokenMatch, ...] | None:
    if query is None or document is None:
        return None
    shared, of_query, of_document = np.intersect1d(
        query.indices, document.indices, assume_unique=True, return_indices=True
    )
    matches = [
        TokenMatch(decode(int(token)), decode(int(token)), float(ours * theirs), ours, theirs)
        for token, ours, theirs in zip(
            shared,
            query.values[of_query].tolist(),
            document.values[of_document].tolist(),
            strict=True,
        )
    ]
    return tuple(sorted(matches, key=lambda match: -match.contribution))


def _multi_vector(
    query_tokens: Sequence[str],
    query: FloatArray | None,
    tokens: Sequence[str],
    document: FloatArray | None,
) -> tuple[TokenMatch, ...] | None:
    if query is None or document is None:
        return None
    cosines = query @ document.T
    nearest = cosines.argmax(axis=1)
    return tuple(
        TokenMatch(
            _name(query_tokens, len(query), row),
            _name(tokens, len(document), int(at)),
            float(cosines[row, at]) / len(query),
            position=int(at),
        )
        for row, at in enumerate(nearest)
    )


def _common_beginning(some: Sequence[str], others: Sequence[str]) -> int:
    """How many tokens both begin with."""
    return next(
        (at for at, (one, other) in enumerate(zip(some, others, strict=False)) if one != other),
        min(len(some), len(others)),
    )


def _name(tokens: Sequence[str], rows: int, row: int) -> str:
    """The token of a row; its number where rows are no tokens, as after pooling."""
    return tokens[row] if len(tokens) == rows else f"#{row}"


def _spans(text: str, tokens: Sequence[str], first: int) -> dict[int, tuple[int, int]]:
    """Where tokens from the first one on stand in a text, by number; not those it has not."""
    spans: dict[int, tuple[int, int]] = {}
    start = 0
    for number, token in enumerate(tokens[first:], first):
        word = _word(token)
        # One far ahead is another one: the tokenizer has normalised this one away.
        end = start + 3 * len(word) + 20
        found = re.compile(re.escape(word), re.IGNORECASE).search(text, start, end)
        if word and found:
            spans[number] = found.span()
            start = found.end()
    return spans


def _word(token: str) -> str:
    return token.replace("▁", " ").removeprefix("##").strip()


def _line(match: TokenMatch) -> str:
    if match.query_weight is None:
        return f"{match.contribution:+.4f}  {match.query_token!r} ~ {match.document_token!r}"
    return (
        f"{match.contribution:+.4f}  {match.query_token!r}: {match.query_weight:.4f} x "
        f"{match.document_weight:.4f}"
    )


def _background(value: float, most: float) -> str:
    strength = value / most if most > 0 else 0
    return f"background: rgba({_COLOUR}, {min(strength, 1):.2f})" if strength > 0.01 else ""
