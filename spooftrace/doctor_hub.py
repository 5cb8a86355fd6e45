"""Is the Hugging Face Hub in reach, and does it take the token? The token itself is never shown.

Standard library only, so that it works where huggingface_hub does not. The token is looked for where huggingface_hub
keeps it: HF_TOKEN, then the file that `hf auth login` writes. Tokens that have to be fetched or refreshed over the
network (OIDC, notebook vaults) are not tried.
"""

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from spooftrace.doctor import FAIL, OK, WARN, Check


DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 5.0

_TRUE = {"1", "ON", "YES", "TRUE"}
_ANSWER_BYTES = 100_000
_LOG_IN = "make a token at https://huggingface.co/settings/tokens and run: hf auth login"
_OFFLINE_USE = "detection works without it; to publish or fetch models check the network, proxies and HF_ENDPOINT"


def check_hub(*, offline: bool = False) -> Iterator[Check]:
    """Reachability, then the token; both skipped where the user, or HF_HUB_OFFLINE, says so."""
    variable = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_set(name)), None)
    token = find_token()
    present = "present, not tried" if token else "none; only private and gated models and publishing need one"
    if offline or variable:
        yield Check("hub", OK, f"not tried ({'--offline' if offline else variable + ' is set'})")
        yield Check("hub token", OK, present)
        return
    endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    reach = check_reachable(endpoint)
    yield reach
    if token and reach.status == OK:
        yield check_token(endpoint, token)
    else:
        yield Check("hub token", OK, present)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in _TRUE


def find_token() -> str | None:
    """The token by the environment or the login file; None where there is none."""
    # os.path's expanduser, since Path's raises for a user without a home
    cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = os.path.expanduser(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface"))
    file = Path(os.path.expanduser(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")))
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if not token:
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None
    return token.strip() or None


def check_reachable(endpoint: str) -> Check:
    """Whether the endpoint answers at all; 4xx is an answer, 5xx is not a healthy one."""
    shown = _shown(endpoint)
    if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
        return Check(
            "hub", FAIL, f"HF_ENDPOINT={shown!r} is no http(s) address", f"unset it, or use {DEFAULT_ENDPOINT}"
        )
    try:
        status, _ = _get(f"{endpoint}/api/models?limit=1")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Check("hub", WARN, f"{shown} can't be reached ({_reason(error)})", _OFFLINE_USE)
    if status >= 500:
        return Check("hub", WARN, f"{shown} answers with HTTP status {status}", "try again later")
    return Check("hub", OK, f"{shown} answers")


def check_token(endpoint: str, token: str) -> Check:
    """Whether the endpoint takes the token; it is sent to no other host, nor unencrypted over a network."""
    name = "hub token"
    if not re.fullmatch(r"[!-~]+", token):
        return Check(name, FAIL, "holds characters that no token has", _LOG_IN)
    address = urlsplit(endpoint)
    if address.scheme == "http" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        return Check(name, WARN, "present, not sent over unencrypted http", "use an https HF_ENDPOINT")
    try:
        status, answer = _get(f"{endpoint}/api/whoami-v2", token)
    except (OSError, ValueError, http.client.HTTPException):
        return Check(name, WARN, "present, but the Hub did not answer when asked about it", "try again later")
    if status == 200:
        return Check(name, OK, f"valid{_user(answer, token)}")
    if status in (401, 403):
        return Check(name, FAIL, "the Hub refuses it, and with it every download", f"{_LOG_IN}; or unset HF_TOKEN")
    return Check(name, WARN, f"present, but the Hub answers with HTTP status {status}", "try again later")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib repeats all headers, the token with them, to wherever a redirect points."""

    def redirect_request(self, *arguments):
        return None


def _get(url: str, token: str | None = None) -> tuple[int, bytes]:
    headers = {"User-Agent": "spooftrace-doctor"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as answer:
            return answer.status, answer.read(_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""


def _user(answer: bytes, token: str) -> str:
    try:
        user = json.loads(answer)["name"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f", user {user}" if isinstance(user, str) and re.fullmatch(r"[\w.-]{1,96}", user) and user != token else ""


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", error) or type(error).__name__).split())[:200]


def _shown(endpoint: str) -> str:
    """The endpoint without a user name and password in it."""
    return re.sub(r"//[^/@]*@", "//", endpoint)
