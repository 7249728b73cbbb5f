"""Asking an OPA server, through `opa-python-client`, never for longer than said.

Rules:
- A call ends at its deadline, whatever hangs: a name that does not resolve, a server that is stopped, or one that
  sends a byte now and then. The calling thread waits for a thread of ours, and goes when the time is over.
- A server that did not answer is not asked again for a pause, which doubles with each failure: of many actions that
  wait, one pays for a dead server, and all are denied. Whether we are pausing is shown (`Told`).
- One action that takes long to judge does not make a server dead: as long as it says that it is up, it is left alone
  only after several such actions on end. So nobody denies others their answers by an action of this kind.
- Nothing is retried, no redirect followed, no proxy or `.netrc` of the environment used: one question, one server.
- No text holds what was asked or answered, but the name of a built-in that failed, and where.
"""

from __future__ import annotations

import re
import socket
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from http import HTTPStatus
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import requests
import urllib3
from opa_client.opa import OpaClient  # type: ignore[import-untyped]
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from exequatur.trust.canonical import Json
from pdp.engine.answer import AnswerError
from pdp.engine.reading import sentence
from pdp.opa_address import OpaAddress

ANSWER_BYTES: Final = 2**20
"""The longest answer that is read."""

PAUSE_S: Final = (0.1, 2.0)
"""The first and the longest pause after a failure, in seconds: with a call's 0.2 s, a tenth of the time is lost."""

ALIVE_S: Final = 0.1
"""How long a server that was too slow may take to say that it is up, in seconds."""

SLOW: Final = 3
"""After how many slow answers on end a server that is up is left alone."""

_ASKED: Final = {"provenance": "true", "strict-builtin-errors": "true"}
_BUILTIN: Final = re.compile(r"([a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*): ")
_REFUSED: Final = (401, 403)
_UNREADABLE: Final = (
    requests.JSONDecodeError,
    requests.TooManyRedirects,
    requests.exceptions.ContentDecodingError,
)
_LATE: Final = (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError)
_UNREACHABLE: Final = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)

Told: TypeAlias = Callable[[bool], None]
"""Hears whether the server is being left alone."""

_Work: TypeAlias = tuple["Future[Json]", Callable[[], Json]]


class Breaker:
    """Whether to ask. Pure: times are `time.monotonic`'s, in seconds."""

    def __init__(self) -> None:
        """Begin by asking."""
        self._pause_s = 0.0
        self._until = 0.0
        self._slow = 0

    @property
    def down(self) -> bool:
        """Whether the last question had no answer."""
        return self._pause_s > 0

    def lets_through(self, now: float) -> bool:
        """Whether to ask now."""
        return now >= self._until

    def failed(self, now: float) -> None:
        """Leave the server alone for a pause, twice as long as the last one."""
        first, longest = PAUSE_S
        self._pause_s = min(max(first, self._pause_s * 2), longest)
        self._until = now + self._pause_s

    def slow(self, now: float) -> None:
        """Leave a server that is up alone only if it is slow time and again."""
        self._slow += 1
        if self._slow >= SLOW:
            self.failed(now)

    def answered(self) -> None:
        """Ask as before."""
        self._pause_s = self._until = 0.0
        self._slow = 0


class Connection:
    """The way to one server, for one asking thread at a time."""

    def __init__(
        self, address: OpaAddress, *, timeout_s: float, told: Told = lambda _: None, shared: bool = False
    ) -> None:
        """Ask the server at `address`, each time for at most `timeout_s` seconds; connects when first asked."""
        self.shared: Final = shared
        self._client = _Client(address, timeout_s)
        self._timeout_s, self._told = timeout_s, told
        self._breaker = Breaker()
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        Thread(target=_serve, args=(self._work,), name="opa", daemon=True).start()
        weakref.finalize(self, self._work.put, None)
        told(False)

    def close(self) -> None:
        """Let go of the server; it may not be asked any more."""
        self._work.put(None)
        self._client.close_connection()

    def ask(self, rule: str, document: Mapping[str, Json]) -> Json:
        """Ask `rule` about `document`; gives the body of the answer. Raises `AnswerError`."""
        if not self._breaker.lets_through(time.monotonic()):
            raise AnswerError("the OPA server does not answer, and is left alone for a moment")
        try:
            return self._heard(lambda: self._client.query_rule(document, rule, query_params=_ASKED))
        finally:
            self._told(self._breaker.down)

    def _heard(self, question: Callable[[], Json]) -> Json:
        """Ask, and remember what that says about the server."""
        try:
            body = self._within(question, self._timeout_s)
        except requests.HTTPError as error:
            self._breaker.answered()
            raise AnswerError(_said(error.response)) from None
        except _UNREADABLE:
            self._breaker.answered()
            raise AnswerError("the OPA server's answer cannot be read, or is too long") from None
        except _LATE:
            self._late()
            raise AnswerError(f"the OPA server did not answer within {self._timeout_s * 1000:.0f} ms") from None
        except _UNREACHABLE:
            self._breaker.failed(time.monotonic())
            raise AnswerError("the OPA server cannot be reached") from None
        self._breaker.answered()
        return body

    def _late(self) -> None:
        """Find out whether it was this question, or is the server."""
        try:
            self._within(self._client.is_up, ALIVE_S)
        except _UNREACHABLE:
            self._breaker.failed(time.monotonic())
        else:
            self._breaker.slow(time.monotonic())

    def _within(self, work: Callable[[], Json], timeout_s: float) -> Json:
        """Have `work` done on our thread; raises `TimeoutError` when it takes too long, and leaves it behind."""
        future: Future[Json] = Future()
        self._work.put((future, work))
        try:
            return future.result(timeout_s)
        finally:
            future.cancel()  # what was not begun, behind something that hangs, is never begun


def look(address: OpaAddress, rule: str, *, timeout_s: float) -> Json:
    """Ask once, blocking, about nothing: for the provenance alone. Raises `AnswerError`."""
    client = _Client(address, timeout_s)
    try:
        return client.query_rule({}, rule, query_params={"provenance": "true"})  # type: ignore[no-any-return]
    except requests.HTTPError as error:
        raise AnswerError(_said(error.response)) from None
    except _UNREACHABLE as error:
        raise AnswerError(f"it cannot be reached: {type(error).__name__}") from None
    finally:
        client.close_connection()


def is_up(address: OpaAddress, *, timeout_s: float) -> bool:
    """Tell whether a server answers and has its bundle; blocks."""
    client = _Client(address, timeout_s)
    try:
        return client.is_up()
    except _UNREACHABLE:
        return False
    finally:
        client.close_connection()


def _serve(work: SimpleQueue[_Work | None]) -> None:
    """Do what is put into `work`, until None is."""
    while (item := work.get()) is not None:
        future, ask = item
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(ask())
            except BaseException as error:  # noqa: BLE001  whoever waits is told
                future.set_exception(error)
        del item, future, ask  # or the last question would keep everything alive


def _said(response: requests.Response | None) -> str:
    """Put into words why OPA gave no result: its own code, the built-in and the place, never its message."""
    if response is None:
        return "the OPA server gave no answer"
    if response.status_code in _REFUSED:
        return "the OPA server does not let us ask: check the token, and its authorization policy"
    try:
        error = response.json()["errors"][0]
        place = f"`{error['location']['file']}:{error['location']['row']}`"
        builtin = _BUILTIN.match(error["message"])
        if error["code"] == "eval_builtin_error" and builtin is not None:
            return sentence(f"the built-in `{builtin[1]}` failed at {place}")
        return sentence(f"OPA reports `{error['code']}` at {place}")
    except (requests.JSONDecodeError, LookupError, TypeError):
        return f"the OPA server answered with status {response.status_code}"


class _Client(OpaClient):  # type: ignore[misc]
    """The client, on a session of ours."""

    def __init__(self, address: OpaAddress, timeout_s: float) -> None:
        self._address = address
        url = urlsplit(address.url)
        host = url.hostname or ""
        super().__init__(
            host=f"[{host}]" if ":" in host else host,
            port=url.port or (443 if url.scheme == "https" else 80),
            ssl=url.scheme == "https",
            timeout=timeout_s,
            retries=0,
        )

    def is_up(self) -> bool:
        """Tell whether it has its bundle; raises where nobody answers."""
        url = f"{self.schema}{self.host}:{self.port}/health?bundles"
        found: bool = self._session.get(url, timeout=self.timeout).status_code == HTTPStatus.OK
        return found

    def _init_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.max_redirects = 0
        address = self._address
        session.verify = True if address.roots is None else str(address.roots)
        if address.token_file is not None:
            session.auth = _Bearer(address.token_file)
        session.mount("http://", _Adapter() if address.socket is None else _UnixAdapter(address.socket))
        session.mount("https://", _Adapter())
        return session


class _Bearer(requests.auth.AuthBase):
    """Our token, read each time: whoever rotates it writes the file anew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._path.read_text(encoding='ascii').strip()}"
        return request


class _Adapter(HTTPAdapter):
    """Reads an answer whole, and no more than an answer may have."""

    def send(  # noqa: PLR0917  as its base has it
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        response = super().send(request, stream=True, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
        data = response.raw.read(ANSWER_BYTES + 1, decode_content=True)
        if len(data) > ANSWER_BYTES:
            response.close()
            raise requests.exceptions.ContentDecodingError("the answer is too long")
        response._content = data  # noqa: SLF001  there is no other way to give what was read
        response._content_consumed = True  # noqa: SLF001
        return response


class _UnixAdapter(_Adapter):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._pool = _UnixPool(path)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        super().close()
        self._pool.close()


class _UnixPool(HTTPConnectionPool):
    def __init__(self, path: Path) -> None:
        super().__init__("opa", maxsize=1)
        self._path = str(path)

    def _new_conn(self) -> HTTPConnection:
        self.num_connections += 1
        return _UnixConnection(self._path)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("opa")
        self._path = path

    def _new_conn(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout)
            made.connect(self._path)
        except OSError:
            made.close()
            raise
        return made
