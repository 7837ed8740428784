"""LiteLLM's proxy as its documentation starts it: one worker, one model, no database (so no keys). Optional."""

import contextlib
import json
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.children import free_port, running
from bench.payload import MODEL
from bench.peers.base import Missing, Peer

HOW = (
    "LiteLLM is not on the PATH, so its row is left out; to have it: pip install 'litellm[proxy]' in a venv of its own"
)
START_S = 120.0
"""It imports for a while."""
RATE = 15.0
"""It carries some 70 a second."""


@contextlib.contextmanager
def proxy(directory: Path, core: int, upstream_port: int) -> Iterator[Peer]:
    """Raises Missing."""
    beside_python = Path(sys.executable).parent / "litellm"
    binary = str(beside_python) if beside_python.exists() else shutil.which("litellm")
    if binary is None:
        raise Missing(HOW)
    port = free_port()
    model = {
        "model_name": MODEL,
        "litellm_params": {
            "model": f"openai/{MODEL}",
            "api_base": f"http://127.0.0.1:{upstream_port}/v1",
            "api_key": "sk-bench",
        },
    }
    key = f"sk-{secrets.token_hex(16)}"
    config = directory / "litellm.yaml"
    config.write_text(json.dumps({"model_list": [model], "general_settings": {"master_key": key}}))  # JSON is YAML
    command = [binary, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
    log = directory / "litellm.log"
    with running(command, core=core, port=port, log=log, cwd=directory, env=quiet, ready_s=START_S) as pid:
        told = {"Authorization": f"Bearer {key}"}
        yield Peer("LiteLLM", f"http://127.0.0.1:{port}", lambda: [pid], headers=told, rate=RATE)
