"""`hfembed ui`: a page that shows three rankings, and their fusion as the weights move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from langchain_hfembed.commands.opening import is_server, require_index
from langchain_hfembed.errors import InvalidInputError

_PAGE = Path(__file__).parents[1] / "ui" / "page.py"


def ui(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[INDEX]",
            help="The index: a file, the URL of a Qdrant server, edge:FOLDER. Texts if absent.",
        ),
    ] = None,
    *,
    collection: Annotated[
        str | None, typer.Option(help="Of the Qdrant server; hfembed if absent.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="As for hfembed index; else the index's own, and for texts that of .env, or demo."
        ),
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option(help="Settings such as USE_HF_API; .env here or above, if absent."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. Nobody is asked for a password.")
    ] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Likewise.")] = 8501,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Open a page to play with: a question, three rankings, and weights to drag.

    The model may be an endpoint or one on this machine: USE_HF_API, HF_MODEL_ID, HF_ENDPOINT_URL
    and the tokens are read from .env, unless the environment has them already. Stop it with Ctrl-C.
    """
    try:
        from dotenv import find_dotenv, load_dotenv
        from streamlit.web import cli
    except ImportError as error:
        raise ImportError(
            f'{error}; the page needs: pip install "langchain-hfembed[ui]"'
        ) from error

    if target is not None:
        require_index(target)
    if collection is not None and (target is None or not is_server(target)):
        raise InvalidInputError(
            f"--collection is for Qdrant servers; INDEX is {target or 'absent'}"
        )
    if env_file is not None and not env_file.is_file():
        raise InvalidInputError(f"--env-file {env_file} is no file")
    load_dotenv(env_file or find_dotenv(usecwd=True))
    options = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "false" if browser else "true",
        "server.showEmailPrompt": "false",
        "server.fileWatcherType": "none",  # nobody is editing the page
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    settings = json.dumps({"index": target, "collection": collection, "model": model})
    cli.main(["run", str(_PAGE), *flags, "--", settings], prog_name="streamlit")
