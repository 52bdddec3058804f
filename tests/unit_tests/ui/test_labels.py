"""The page says the same in both languages."""

from __future__ import annotations

import re
from dataclasses import asdict, fields

import pytest

from langchain_hfembed.ui.labels import ENGLISH, KOREAN, Labels
from langchain_hfembed.ui.rankings import FUSIONS
from langchain_hfembed.vectors import VIEWS


@pytest.mark.parametrize("name", [field.name for field in fields(Labels)])
def test_every_label_has_words_in_both_languages(name: str) -> None:
    english, korean = asdict(ENGLISH)[name], asdict(KOREAN)[name]
    if not isinstance(english, dict):
        english, korean = {name: english}, {name: korean}
    assert english.keys() == korean.keys()
    for key, words in english.items():
        assert words
        assert not re.search("[가-힣]", words)
        assert re.search("[가-힣]", korean[key])


def test_every_method_and_view_has_a_label() -> None:
    assert ENGLISH.methods.keys() == FUSIONS.keys()
    assert ENGLISH.views.keys() == {*VIEWS}
