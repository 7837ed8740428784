"""The configuration that the embedded engine starts with: memory, caches, background threads, roles.

chDB signs in every connection as the user `default`. That user is given two roles here, `owner` and `reader`, and
both are on by default, which the views need (they run with the rights of the user who made them). A reader's session
puts itself into `reader` alone before it sees the first byte of the caller's statement.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.roles import DATABASE

READER_ROLE: Final = "reader"

#: Small caches, few background threads (a smaller pool needs smaller reserves in it), freed memory given back soon,
#: and a memory limit that stays where it was set.
_SERVER: Final = """<clickhouse>
  <max_server_memory_usage>{memory}</max_server_memory_usage>
  <mark_cache_size>33554432</mark_cache_size>
  <index_mark_cache_size>8388608</index_mark_cache_size>
  <primary_index_cache_size>33554432</primary_index_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <memory_worker_dynamic_hard_limit>0</memory_worker_dynamic_hard_limit>
  <memory_worker_purge_dirty_pages_threshold_ratio>0.05</memory_worker_purge_dirty_pages_threshold_ratio>
  <background_pool_size>2</background_pool_size>
  <background_common_pool_size>2</background_common_pool_size>
  <background_move_pool_size>1</background_move_pool_size>
  <background_fetches_pool_size>1</background_fetches_pool_size>
  <background_schedule_pool_size>4</background_schedule_pool_size>
  <merge_tree>
    <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
  <user_directories><users_xml><path>{users}</path></users_xml></user_directories>
</clickhouse>
"""

_USERS: Final = """<clickhouse>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <roles>
    <owner><grants><query>GRANT ALL ON *.*</query></grants></owner>
    <{reader}><grants>{grants}</grants></{reader}>
  </roles>
  <users><default>
    <password></password>
    <networks><ip>::/0</ip></networks>
    <profile>default</profile>
    <quota>default</quota>
    <grants><query>GRANT owner</query><query>GRANT {reader}</query></grants>
  </default></users>
</clickhouse>
"""


@contextmanager
def written_config(limits: EndpointLimits, views: Iterable[str]) -> Iterator[Path]:
    """The configuration as files, for as long as the engine takes to start; it reads them once.

    A directory of their own, because the engine merges what lies beside a configuration; and always an explicit
    file, because without one the engine picks up a `config.xml` from the working directory.
    """
    folder = Path(tempfile.mkdtemp(prefix="ringfence-chdb-"))
    try:
        users = folder / "users.xml"
        grants = "".join(f"<query>GRANT SELECT ON {DATABASE}.{view}</query>" for view in views)
        users.write_text(_USERS.format(reader=READER_ROLE, grants=grants), encoding="utf-8")
        server = folder / "server.xml"
        text = _SERVER.format(memory=limits.engine_memory_bytes, users=escape(str(users)))
        server.write_text(text, encoding="utf-8")
        yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)
