"""How well a store retrieves, by each view and by their fusion, and which weights suit it best.

Needs the extra `eval`. Test collections are in BEIR's form: documents, queries, and judgements of
which documents are relevant for which query.
"""

from langchain_hfembed.evaluation.collection import Collection, load_beir
from langchain_hfembed.evaluation.report import Difference, Evaluation, evaluate
from langchain_hfembed.evaluation.tuning import Tuning, tune_weights

__all__ = [
    "Collection",
    "Difference",
    "Evaluation",
    "Tuning",
    "evaluate",
    "load_beir",
    "tune_weights",
]
