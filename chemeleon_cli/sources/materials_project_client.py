"""Requests to the Materials Project through its own client, with retries; complete answers are saved at once.

The key is sent to the server and nowhere else.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.streams import write_lines

if TYPE_CHECKING:
    from mp_api.client.core.client import BaseRester

Rester = TypeVar("Rester", bound="BaseRester")
Result = TypeVar("Result")

PAUSES = (1.0, 3.0, 10.0, 30.0, 60.0)
"""Seconds to wait before each new attempt, after the client's own three quick attempts."""
TIMEOUT = 120
"""Seconds to wait for data; a batch of structures is about 5 MB."""
GREETING_TIMEOUT = 20
"""Seconds to wait for the first answer, which is one line."""
KEY_HINT = "get a free key at https://next-gen.materialsproject.org/api; pass --api-key, or set MP_API_KEY"


class Incomplete(ValueError):
    """An answer with fewer documents than the server has announced."""


def find_key(api_key: str | None) -> str:
    """The given key, or the one in the environment or in pymatgen's settings."""
    from pymatgen.core import SETTINGS

    key = api_key or os.environ.get("MP_API_KEY") or SETTINGS.get("PMG_MAPI_KEY")
    if not key:
        hint = f"{KEY_HINT}; sets that need no key: --source mp-20, --source starter"
        raise UserError("no key for the Materials Project", hint)
    if len(key) != 32:
        raise UserError(f"the key for the Materials Project has {len(key)} characters; keys have 32", KEY_HINT)
    return str(key)


def client(rester: type[Rester], key: str, report: Callable[[str], object]) -> Rester:
    """A connected instance of one of the client's classes.

    Raises:
        UserError: there is no connection.
    """
    import requests
    from mp_api.client.core.utils import validate_endpoint

    endpoint = os.environ.get("MP_API_ENDPOINT") or None

    def connect() -> Rester:
        # the client sends the same request without a time-out and could wait forever
        requests.get(f"{validate_endpoint(endpoint)}heartbeat", timeout=GREETING_TIMEOUT)
        made = rester(
            api_key=key, endpoint=endpoint, use_document_model=False, mute_progress_bars=True, timeout=TIMEOUT
        )
        made._query_resource = functools.partial(_whole, made._query_resource)
        return made

    report("connecting to the Materials Project")
    return _with_retries(connect, key, report, attempts=3)  # fail soon when offline


def _whole(ask: Callable[..., dict[str, Any]], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """An answer with all its pages; the client itself stops at an empty page and does not check the total."""
    answer = ask(*args, **kwargs)
    total = answer.get("meta", {}).get("total_doc")
    if total is not None and len(answer["data"]) != total:
        raise Incomplete(f"{len(answer['data']):,} of {total:,} documents came")
    return answer


def same_or_fresh(folder: Path, request: dict[str, Any]) -> None:
    """Make the folder, and delete the batches of another request in it."""
    text = json.dumps(request, sort_keys=True)
    before = folder / "request.json"
    if before.is_file() and before.read_bytes() == text.encode():
        return
    for old in folder.glob("*.json*"):
        old.unlink()
    write_lines(before, [text])


def kept(path: Path, ask: Callable[[], Result], key: str, report: Callable[[str], object]) -> Result:
    """An answer, from disk if it is there and not damaged; an empty answer is not saved."""
    if path.is_file():
        try:
            return json.loads(gzip.decompress(path.read_bytes()))
        except (OSError, EOFError, ValueError, zlib.error):
            report(f"{path.name} is damaged: downloading it again")
            path.unlink()
    answer = _with_retries(ask, key, report)
    if answer:
        write_lines(path, [json.dumps(answer)])
    return answer


def _with_retries(
    ask: Callable[[], Result], key: str, report: Callable[[str], object], attempts: int = len(PAUSES) + 1
) -> Result:
    """An answer; retries after rate limits, server errors, time-outs and invalid or incomplete answers.

    Raises:
        UserError: the server refused the request, or did not answer in any of the attempts.
    """
    from mp_api.client.core.exceptions import MPRestError
    from requests.exceptions import RequestException

    problem = ""
    for attempt in range(attempts):
        if attempt:
            pause = PAUSES[attempt - 1]
            report(f"Materials Project: {problem}; next attempt in {pause:g} s")
            time.sleep(pause)
        try:
            return ask()
        except (json.JSONDecodeError, KeyError, Incomplete) as error:
            problem = f"invalid answer ({error})"
        except (MPRestError, RequestException, ValueError, TypeError, IndexError) as error:
            problem = " ".join(str(error).replace(key, "(key)").split())[:300] or type(error).__name__
            status = re.search(r"status code (\d+)", problem)
            network = isinstance(error, RequestException) or isinstance(error.__context__, RequestException)
            _refuse(problem, int(status.group(1)) if status else None, network)
    raise UserError(
        f"Materials Project: no answer in {attempts} attempts: {problem}",
        "the downloaded part is kept: run the same command later to continue",
    )


def _refuse(problem: str, status: int | None, network: bool) -> None:
    """Raise the error if another attempt cannot help."""
    if status in (401, 403):
        raise UserError(f"the Materials Project refused the key (status {status})", KEY_HINT)
    if not network and (status is None or (status < 500 and status != 429)):
        raise UserError(f"the Materials Project refused the query: {problem}", "check `query:` and `fields:`")
