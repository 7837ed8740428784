"""What the audit writes to: ClickHouse embedded, and a ClickHouse server where a container can be had.

Import the fixture `served`.
"""

from collections.abc import Iterator

import pytest
from support.clickhouse_endpoint import Endpoint, endpoint


@pytest.fixture(scope="module", params=["embedded", "server"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    if request.param == "server":
        from support.containers import clickhouse_container  # it loads the engine's client

        with clickhouse_container() as contained:
            yield contained
        return
    with endpoint(tmp_path_factory.mktemp("audit") / "data") as running:
        yield running
