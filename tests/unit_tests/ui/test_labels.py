"""The page says the same in both languages."""

from __future__ import annotations

import re
from dataclasses import asdict, fields

import pytest

from langchain_hfembed.ui.labels import ENGLISH, KOREAN, Labels


@pytest.mark.parametrize("name", [field.name for field in fields(Labels)])
def test_every_label_has_words_in_both_languages(name: str) -> None:
    english, korean = str(asdict(ENGLISH)[name]), str(asdict(KOREAN)[name])
    assert english
    assert re.search("[가-힣]", korean)
    assert not re.search("[가-힣]", english)
