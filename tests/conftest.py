from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.server import DEMO_FILES, Server, running_server

with contextlib.suppress(ImportError):  # a real WebUI may lack it
    from hypothesis import settings

    # How long an example takes is a matter of the machine, and of what else it does.
    settings.register_profile("without deadline", deadline=None)
    settings.load_profile("without deadline")


def pytest_configure(config: pytest.Config) -> None:
    """Give the stand-in of this process a data folder: it fixes its folders when it is imported, maybe to collect."""
    os.environ["WEBUI_DATA"] = _temporary_folder(config)
    if DEMO_FILES not in os.environ:  # which several processes may share
        os.environ[DEMO_FILES] = _temporary_folder(config)


def _temporary_folder(config: pytest.Config) -> str:
    folder = tempfile.mkdtemp(prefix="webui-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One WebUI, in a process of its own, for all tests that talk HTTP: the stand-in, or a real one."""
    running = running_server
    if os.environ.get("WEBUI_PYTHON"):
        # Not above: it needs more than unit tests do, which also run where there is little.
        from tests.host.real_server import running_real_server as running
    elif os.environ.get("WEBUI_ROOT"):
        pytest.skip("WEBUI_ROOT names a real WebUI, and without WEBUI_PYTHON it has no page and no API")
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server
