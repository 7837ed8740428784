"""compose/: the files fit each other, the settings load, and no secret stands where somebody could read it.

What runs is tried elsewhere (the images need an engine); here names, ports, paths and passwords must agree.
"""

import re
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from controlplane.process_settings import AuditProcess, ControlProcess, read_process_settings
from controlplane.up.compose import CONTROL_HOSTS, NATS_HOSTS, SLOTS, main, write_files
from controlplane.up.nats.binary import find_binary
from dataplane.node_settings import NodeSettings, read_settings
from schemas.settings import Settings, Upstream

COMPOSE = Path(__file__).parents[2] / "compose"
ROOT = COMPOSE.parent
CREDENTIAL = "sk_live_compose"
SETTINGS = Settings(upstreams={"stripe": Upstream(adapter="stripe", credential=CREDENTIAL)})


@pytest.fixture
def private(tmp_path: Path) -> Path:
    write_files(tmp_path / "private", SETTINGS)
    return tmp_path / "private"


def variables(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def services(private: Path) -> dict[str, Any]:
    """docker-compose.yaml with its variables put in; none may be left over."""
    text = (COMPOSE / "docker-compose.yaml").read_text()
    for name, value in variables(private / "compose.env").items():
        text = text.replace("${" + name + "}", value)
    assert "${" not in text
    document = yaml.safe_load(text)
    found: dict[str, Any] = document["services"]
    for service in found.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            is_path = source.startswith((".", "/"))
            assert (COMPOSE / source).exists() if is_path else source in document["volumes"], mount
    return found


def loaded(private: Path) -> dict[str, ControlProcess | AuditProcess | NodeSettings]:
    """Each process's settings, by its service, read as the process does."""
    found: dict[str, ControlProcess | AuditProcess | NodeSettings] = {
        host: read_process_settings(private / host / "settings.json", ControlProcess) for host in CONTROL_HOSTS
    }
    found["audit"] = read_process_settings(private / "audit/settings.json", AuditProcess)
    return found | {f"proxy-{slot}": read_settings(private / f"proxy-{slot}/settings.json", slot) for slot in SLOTS}


def written(private: Path) -> dict[str, bytes]:
    return {str(path.relative_to(private)): path.read_bytes() for path in private.rglob("*") if path.is_file()}


def test_every_process_is_given_the_settings_that_were_written_for_it(private: Path) -> None:
    found = services(private)
    for name, settings in loaded(private).items():
        role, option, inside = found[name]["command"]
        assert (role, option) == (name.partition("-")[0], "--settings")
        mounts = {mount.split(":")[1]: mount.split(":")[0] for mount in found[name]["volumes"]}
        assert inside == "/etc/ringfence/settings.json"
        assert mounts["/etc/ringfence"] == str(private / name), "a directory, so that a replaced file is seen at SIGHUP"
        assert settings.ready_mark.startswith("/run/ringfence/")
        assert found[name]["tmpfs"][0].startswith("/run/ringfence:")
        if isinstance(settings, ControlProcess):
            assert settings.data_dir.startswith("/var/lib/ringfence/")
            assert f"{name}:/var/lib/ringfence" in found[name]["volumes"]


def test_addresses_are_services_and_ports_are_where_they_listen(private: Path) -> None:
    found = services(private)
    named = {urlsplit(url).hostname for settings in loaded(private).values() for url in settings.nats.servers}
    assert named == set(NATS_HOSTS) <= found.keys()
    published = []
    for name, settings in loaded(private).items():
        assert {urlsplit(url).port for url in settings.nats.servers} == {4222}
        for port in found[name].get("ports", []):
            address, outside, inside = port.split(":")
            assert (address, int(inside)) == ("127.0.0.1", settings.port)
            published.append(outside)
        if isinstance(settings, ControlProcess):
            assert settings.advertise_url == f"http://{name}:{settings.port}"
        if isinstance(settings, ControlProcess | AuditProcess):
            assert settings.clickhouse.host in found
            assert settings.replicas == len(NATS_HOSTS)
    assert len(set(published)) == len(published) == len(CONTROL_HOSTS) + len(SLOTS)
    config = (COMPOSE / "nats-cluster.conf").read_text()
    assert "port: 4222" in config
    assert "port: 6222" in config
    assert {found[host]["environment"]["RF_NATS_name"] for host in NATS_HOSTS} == {f"ringfence-{n}" for n in (1, 2, 3)}


def test_passwords_agree_and_every_slot_has_its_own(private: Path) -> None:
    nats, clickhouse = variables(private / "nats.env"), variables(private / "clickhouse.env")
    for settings in loaded(private).values():
        assert settings.nats.password == nats[f"RF_NATS_{settings.nats.user}"]
        if isinstance(settings, ControlProcess | AuditProcess):
            assert settings.clickhouse.user == clickhouse["CLICKHOUSE_USER"]
            assert settings.clickhouse.password == clickhouse["CLICKHOUSE_PASSWORD"]
    words = [word for name, word in nats.items() if name != "RF_NATS_routes"]
    assert len(set(words)) == len(words)
    routes = re.findall(r'"nats://route:(\w+)@(nats-\d):6222"', nats["RF_NATS_routes"])
    assert routes == [(nats["RF_NATS_route"], host) for host in NATS_HOSTS]


def test_nats_server_accepts_the_configuration_with_these_variables(private: Path) -> None:
    done = subprocess.run(
        [find_binary(), "-t", "-c", COMPOSE / "nats-cluster.conf"],
        capture_output=True,
        text=True,
        env={**variables(private / "nats.env"), "RF_NATS_name": "ringfence-1"},
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_secrets_are_for_their_owner_and_for_those_who_need_them(private: Path) -> None:
    for path in (private, *private.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    holders = {name for name, content in written(private).items() if CREDENTIAL.encode() in content}
    assert holders == {f"proxy-{slot}/settings.json" for slot in SLOTS}, (
        "the control plane needs no vendor's credential"
    )
    token = (private / "operator-token").read_text().strip()
    holders = {name for name, content in written(private).items() if token.encode() in content}
    assert holders == {"operator-token", "secrets.json"}
    control = variables(private / "nats.env")["RF_NATS_control"]
    for slot in SLOTS:
        assert control.encode() not in written(private)[f"proxy-{slot}/settings.json"]
    public = "".join(path.read_text() for path in COMPOSE.rglob("*") if path.is_file() and "private" not in path.parts)
    for word in (*variables(private / "nats.env").values(), token):
        assert word not in public


def test_a_repeat_keeps_the_secrets_and_takes_the_new_configuration(private: Path) -> None:
    before = written(private)
    write_files(private, SETTINGS)
    assert written(private) == before
    changed = {"stripe": Upstream(adapter="stripe", credential="sk_live_rotated")}
    write_files(private, msgspec.structs.replace(SETTINGS, upstreams=changed))
    after = written(private)
    changed_files = {name for name, content in after.items() if content != before[name]}
    assert changed_files == {f"proxy-{slot}/settings.json" for slot in SLOTS}


def test_the_command_reads_a_configuration_and_says_what_is_next(tmp_path: Path) -> None:
    config = tmp_path / "ringfence.yaml"
    config.write_text("upstreams:\n  stripe: {adapter: stripe, credential: sk_live_file}\n")
    done = CliRunner().invoke(main, ["--config", str(config), str(tmp_path / "private")])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("docker compose -f compose/docker-compose.yaml --env-file ")
    assert (
        read_settings(tmp_path / "private/proxy-n1/settings.json").settings.upstreams["stripe"].credential
        == "sk_live_file"
    )


def test_the_images_are_built_of_what_is_there(private: Path) -> None:
    dockerfile = (COMPOSE / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    for service in services(private).values():
        if "build" in service:
            build = service["build"]
            assert (COMPOSE / build["context"]).resolve() == ROOT
            assert (COMPOSE / build["context"] / build["dockerfile"]).is_file()
            assert build["target"] in stages
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert {"schemas", "events", "dataplane", "controlplane", "pyproject.toml", "constraints.txt"} <= sources
    allowed = set(re.findall(r"^!(\w[^/\s]*)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)
    ET.parse(COMPOSE / "clickhouse/server.xml")  # noqa: S314 - our own file
