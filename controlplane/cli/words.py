"""What went wrong in an operator's words: who is to blame, and what to do. Options go by the names they have here."""

import json
import re
from collections.abc import Mapping

import aiohttp
import click

REFUSAL = "X-Ringfence-Refusal"
"""A proxy's answers that refuse carry it; a control plane's do not."""

TOKEN = re.compile(r"[!-~]+")
"""What a header can hold. Whether it is a live operator token is the server's to say."""


REMEDIES = {"unauthorized": "Give a live operator token (rfo_...), in RINGFENCE_TOKEN or with --token"}
"""Where the API's remedy is not the command line's."""


def explain(url: str, status: int, headers: Mapping[str, str], text: str) -> str:
    """Of an error answer: the control plane's own words with its remedy, or that it is none."""
    if REFUSAL in headers:
        return (
            f"{url} is a proxy, which serves agents. Operators' commands go to the control plane, which has a port of "
            "its own (8081, unless --control-port says otherwise): give its URL"
        )
    try:
        error = json.loads(text)["error"]
        code, message, remedy = str(error["code"]), str(error["message"]), str(error.get("remedy") or "")
        param = error.get("param")
    except (ValueError, KeyError, TypeError):
        return no_control_plane(url, status)
    remedy = REMEDIES.get(code, remedy).replace("/openapi.json describes it", f"`{_command()} --help` describes it")
    said = _with_options(f"{message.rstrip('.')}. {remedy}".strip())
    option = _options().get(str(param))
    return f"{said} ({code})" if option is None or option in said else f"{option}: {said} ({code})"


def no_control_plane(url: str, status: int) -> str:
    return (
        f"{url} answered {status}, but not as a control plane of Ringfence does. Check the URL (--url, RINGFENCE_URL), "
        "and what stands in between"
    )


def failure(error: Exception) -> str:
    """Why there is no answer, in a few words, and the exception's name for whoever is asked for help."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            words = "its certificate is not trusted, or it speaks no TLS; RINGFENCE_CA_FILE names who signed it"
        case aiohttp.ClientConnectorDNSError():
            words = "no such host is known"
        case aiohttp.ClientConnectorError():
            words = "it cannot be connected to"
        case aiohttp.ServerDisconnectedError():
            words = "it hung up without an answer"
        case TimeoutError():
            words = "it does not answer in time"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError() | UnicodeDecodeError():
            words = "what it answers is not HTTP as a control plane speaks it"
        case _:
            words = "the way to it failed"
    return f"{words} ({type(error).__name__})"


def _options() -> dict[str, str]:
    """The running command's options by the API's names: `total_usd_cap` is `--total-cap`."""
    context = click.get_current_context(silent=True)
    if context is None:
        return {}
    found = {param.name: param.opts[-1] for param in context.command.params if isinstance(param, click.Option)}
    return {str(name).rstrip("_"): option for name, option in found.items()}


def _command() -> str:
    context = click.get_current_context(silent=True)
    return context.command_path if context is not None else "ringfence"


def _with_options(text: str) -> str:
    """JSON fields become options: `"daily_usd_cap": "25.00"` is `--daily-cap 25.00`."""
    for name, option in _options().items():
        text = re.sub(rf'"?\b{name}"?: true\b', option, text)
        text = re.sub(rf'"{name}": "([^"]*)"', rf"{option} \1", text)
    return text
