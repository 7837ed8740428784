"""Fixtures of all tests."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.containers import ContainedNats

os.environ["NO_PROXY"] = "127.0.0.1,localhost"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Stack"]:
    """One gateway for all tests that leave it as they found it: keys and agents of their own."""
    from support.stack import running_stack

    with running_stack(tmp_path_factory.mktemp("stack") / "data", workers=2) as running:
        yield running


@pytest.fixture(scope="session")
def contained_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator["ContainedNats"]:
    """A nats-server in a container, for all tests of a log's contract; they are left out where no engine is."""
    from support.containers import nats_container  # it loads the engine's client

    with nats_container(tmp_path_factory.mktemp("contained")) as server:
        yield server


from support.nats_cluster import shared_cluster  # noqa: E402 - one for the whole run, after the environment is set
from support.stack import Stack  # noqa: E402 - for the annotation above, after the environment is set

__all__ = ["shared_cluster"]
