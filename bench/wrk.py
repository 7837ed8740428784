"""wrk as the generator at saturation: closed loop, C, a fraction of any proxy's cost.

It needs a script to send a POST, which it runs once: the request is built before the start.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from bench.payload import PATH, request_body
from bench.peers.base import Missing, Peer

HOW = "wrk is not installed; it generates the load: apt-get install wrk"

_REQUESTS = re.compile(r"(\d+) requests in ([\d.]+)(ms|s|m),")
_BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKET_ERRORS = re.compile(r"Socket errors: (.*)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Unsound(Exception):
    """The run measured something else than answered calls."""


class Saturated(NamedTuple):
    """`requests`: answered with success. `others`: with anything else, where that is allowed."""

    requests: int
    elapsed_s: float
    others: int = 0


def saturate(
    peer: Peer, token: str, *, core: int, connections: int, duration_s: float, scratch: Path, refusals: bool = False
) -> Saturated:
    """POST as fast as answers come. Raises Missing, and Unsound if any answer is not a success, unless `refusals` are
    expected.
    """
    binary = shutil.which("wrk")
    if binary is None:
        raise Missing(HOW)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}", **peer.headers}
    script = scratch / "post.lua"
    script.write_text(
        'wrk.method = "POST"\n'
        f"wrk.body = '{request_body().decode()}'\n"
        + "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in headers.items())
    )
    command = ["taskset", "-c", str(core), binary, "-t1", f"-c{connections}", f"-d{max(1, round(duration_s))}s"]
    command += ["--timeout", "10s", "-s", str(script), peer.url + PATH]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=duration_s + 60)
    return _read(done.stdout + done.stderr, refusals=refusals)


def _read(text: str, *, refusals: bool = False) -> Saturated:
    found = _REQUESTS.search(text)
    if found is None:
        raise Unsound(f"wrk did not run: {text[-500:]}")
    bad = _BAD.search(text)
    others = int(bad.group(1)) if bad else 0
    if others and not refusals:
        raise Unsound(f"{others} of {found.group(1)} answers were no success")
    if errors := _SOCKET_ERRORS.search(text):
        raise Unsound(f"connections failed: {errors.group(1)}")
    return Saturated(int(found.group(1)) - others, float(found.group(2)) * _UNITS_S[found.group(3)], others)
