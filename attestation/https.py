"""A service named by its URL in; whole answers of status 200 and of bounded size out."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx2

from attestation.errors import ConfigError, Undecidable


class Https:
    """Connections to one service, open inside a `with` block.

    What it says is signed by somebody else, so `authority` only keeps strangers from wasting the
    caller's time; `None` stands for the system's. No proxy or certificate of the environment is
    used.
    """

    def __init__(
        self,
        url: str,
        *,
        authority: ssl.SSLContext | None,
        timeout_s: float,
        limit: int,
        who: str,
        wanted: str,
        code: str,
    ) -> None:
        """Take the most bytes of an answer, and words and `code` for the refusals of `ask`."""
        self._url = url.rstrip("/")
        self._limit = limit
        self._who, self._wanted, self._code = who, wanted, code
        self._client = httpx2.Client(verify=authority or True, trust_env=False, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(
        self, path: str, *, what: str, sent: tuple[str, bytes] | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        """Return headers, their names in lower case, and body of an answer about `what`.

        `sent` is the media type and body of a POST; without it this is a GET. Raises `Undecidable`
        with the code of this service, also for any status but 200 and for too long an answer, and
        `ConfigError` `service-url`.
        """
        media, content = sent or ("", None)
        method, headers = ("GET", {}) if sent is None else ("POST", {"content-type": media})
        body = bytearray()
        try:
            with self._client.stream(
                method, self._url + path, content=content, headers=headers
            ) as answer:
                if answer.status_code != 200:
                    raise self._away(f"{self._who} answered {answer.status_code} for {what}")
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > self._limit:
                        raise self._away(f"an answer of {self._who} is over {self._limit} bytes")
                return {k.lower(): v for k, v in answer.headers.items()}, bytes(body)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            why = f"the URL of {self._who} is not https://host[:port][/path]"
            raise ConfigError("service-url", why) from None
        except httpx2.HTTPError as error:
            kind = type(error).__name__
            raise self._away(f"no {self._wanted} from {self._who}: {kind}") from None

    def _away(self, why: str) -> Undecidable:
        return Undecidable(self._code, why)
