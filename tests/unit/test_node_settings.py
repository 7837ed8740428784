from pathlib import Path
from typing import Any

import msgspec
import pytest

from dataplane.node_settings import SettingsError, read_settings
from schemas.settings import Settings, Upstream

SECRET = "sk_live_do_not_tell"
NATS = {
    "servers": ["nats://127.0.0.1:4222"],
    "user": "n1",
    "password": "pw_do_not_tell",
    "inbox_prefix": "_INBOX_n1",
    "slot": "n1",
}


def written(path: Path, **change: Any) -> Path:
    settings = Settings(upstreams={"stripe": Upstream(adapter="stripe", credential=SECRET)})
    whole = {"settings": settings, "nats": NATS, "port": 0, **change}
    file = path / "proxy-n1.json"
    file.write_bytes(msgspec.json.encode(whole))
    return file


def test_what_a_supervisor_writes_is_read_back(tmp_path: Path) -> None:
    node = read_settings(written(tmp_path, ready_mark="/x", parent_pid=7, host="0.0.0.0"), "n1")
    assert (node.nats.slot, node.port, node.ready_mark, node.parent_pid, node.host) == ("n1", 0, "/x", 7, "0.0.0.0")
    assert node.settings.upstreams["stripe"].credential == SECRET
    assert SECRET not in repr(node)
    assert "pw_do_not_tell" not in repr(node)


@pytest.mark.parametrize(
    ("change", "slot", "why"),
    [
        ({"nats": {**NATS, "slot": ""}}, "", "no node's slot"),
        ({"nats": {**NATS, "slot": "control"}}, "", "no node's slot"),
        ({}, "n2", "not the slot"),
        ({"surprise": 1}, "", "surprise"),
        ({"settings": {"timing": {"heartbeat_ms": SECRET}}}, "", "heartbeat_ms"),
        ({"nats": None}, "", "nats"),
    ],
)
def test_files_that_cannot_be_used_are_named_without_their_values(
    tmp_path: Path, change: dict[str, Any], slot: str, why: str
) -> None:
    with pytest.raises(SettingsError, match=why) as raised:
        read_settings(written(tmp_path, **change), slot)
    assert SECRET not in str(raised.value)


def test_a_missing_file_and_one_that_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text(f"{{{SECRET}")
    with pytest.raises(SettingsError, match="not JSON") as raised:
        read_settings(tmp_path / "bad.json")
    assert SECRET not in str(raised.value)
