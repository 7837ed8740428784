"""`ringfence up`: signals, progress and the announcement around a `Machine`."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable

from controlplane.up.child import ChildFailed
from controlplane.up.datadir import DataDir
from controlplane.up.machine import Machine, UpError, UpOptions
from schemas.config import ConfigError, load_settings, settings_from_env
from schemas.settings import Settings

Say = Callable[[str], None]


async def run_up(options: UpOptions, say: Say) -> None:
    """Start everything, announce it, and run until SIGTERM or SIGINT. Raises UpError, ChildFailed, DataDirError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with DataDir(options.data_dir) as data_dir:
        machine = Machine(options, data_dir, say)
        roller = _Roller(machine, options, say)
        stopping = loop.create_task(stop.wait(), name="stop signal")
        starting = loop.create_task(machine.start(), name="start")
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                endpoints = starting.result()
                loop.add_signal_handler(signal.SIGHUP, _reload, machine, options, say)
                loop.add_signal_handler(signal.SIGUSR2, roller.start)
                announce(say, options, data_dir, endpoints)
                await stopping
                say("stopping: open requests finish, events are flushed")
        finally:
            starting.cancel()
            stopping.cancel()
            await asyncio.wait({starting, stopping})
            await roller.close()
            await machine.stop()


class _Roller:
    """SIGUSR2: all proxies are replaced under load, by what is installed and configured now."""

    def __init__(self, machine: Machine, options: UpOptions, say: Say) -> None:
        self._machine = machine
        self._options = options
        self._say = say
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is not None and not self._task.done():
            self._say("the proxies are being restarted already")
            return
        self._task = asyncio.get_running_loop().create_task(self._roll(), name="rolling restart")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _roll(self) -> None:
        try:
            await self._machine.roll(_read_again(self._options))
        except (ConfigError, OSError) as error:
            self._say(f"the configuration cannot be read, so nothing is restarted: {error}")
        except (ChildFailed, UpError) as error:
            self._say(f"the rolling restart stops here, what runs goes on: {error}")


def _reload(machine: Machine, options: UpOptions, say: Say) -> None:
    """SIGHUP: read the configuration again; only credentials and upstreams' limits change in a running gateway."""
    try:
        machine.reload(_read_again(options))
    except (ConfigError, OSError) as error:
        say(f"the configuration was not read again: {error}")
    else:
        say("credentials were read again")


def _read_again(options: UpOptions) -> Settings:
    if options.config is None:
        return settings_from_env(os.environ)
    return load_settings(options.config.read_text(encoding="utf-8"), str(options.config), os.environ)


def announce(say: Say, options: UpOptions, data_dir: DataDir, endpoints: dict[str, str]) -> None:
    """URLs, where the operator's token lies, and a first command to paste."""
    vendor = next(iter(("stripe",) if options.demo else options.settings.upstreams), "stripe")
    flag = "" if str(options.data_dir) == ".ringfence" else f" --data-dir {options.data_dir}"
    command = "ringfence" if shutil.which("ringfence") else os.path.relpath(sys.argv[0])
    standbys = endpoints["controls"].split(",")[1:]
    say("")
    say("Ringfence is ready.")
    say(f"  proxy        {endpoints['proxy']}/{vendor}   (the SDK's base URL)")
    say(f"  control      {endpoints['control']}" + (f"   (standing by: {', '.join(standbys)})" if standbys else ""))
    say(f"  clickhouse   {endpoints['clickhouse']}   (user auditor, password an auditor's token)")
    say(f"  operator     {data_dir.root / 'operator-token'}   (mode 0600)")
    say("")
    say("Issue a first key in another terminal:")
    say(f"  {command}{flag} keys issue --agent billing-bot --vendor {vendor} --total-cap 10")
    say("")
