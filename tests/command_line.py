"""Runs `hfembed` in this process, which loads the libraries once for all tests."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

from tests.encoders import HashEncoder


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def play_models(monkeypatch: pytest.MonkeyPatch, *commands: str) -> list[HashEncoder]:
    """Encoders without a model, for these commands; those that they open are added to the list."""
    opened: list[HashEncoder] = []

    def open_model(name: str) -> HashEncoder:
        opened.append(HashEncoder(model_name=name))
        return opened[-1]

    for command in commands:
        monkeypatch.setattr(f"langchain_hfembed.commands.{command}.open_model", open_model)
    return opened


def hfembed(*arguments: object) -> Result:
    from langchain_hfembed.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["hfembed", *map(str, arguments)]),
        patch.dict("os.environ", {"COLUMNS": "120"}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Result(code, out.getvalue(), err.getvalue())
