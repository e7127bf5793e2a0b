"""The stand-in WebUI in this process, with its API and our routes, and with files of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from lbw.tags.library import Library
from lbw.tags.presets import DEFAULT_PRESETS, DEFAULT_RULE_SETS

ROOT = Path(__file__).resolve().parents[3]
OURS = str(ROOT / "scripts" / "lbw") + os.sep

PRESETS = DEFAULT_PRESETS + "LOOP:LOOP,M00=1\nA0:A1,M00=1\nA1:A0,M01=0\nBAD:1,2\nODD:R,U,X,X+1" + ",0" * 13 + "\n"
RULE_SETS = DEFAULT_RULE_SETS + "\n\nOFF:IN05-OUT05:attn:0,M00::0.5\n\nBAD:a:b\n"


class Host:
    """
    Args:
        data: a folder of its own.
    """

    def __init__(self, data: Path) -> None:
        os.environ["WEBUI_DATA"] = str(data)  # the stand-in fixes its folders when it is imported, which is now
        from tests.host.conftest import write_test_loras
        from tests.host.webui import WebUI

        self.data = data
        self.webui = WebUI(data)
        write_test_loras(self.webui.lora_folder, self.webui.layers())
        self.webui.networks.list_available_networks()
        from lbw.hosts import hooks

        self.backend: Any = hooks.Backend()
        self.library = Library.read(PRESETS, RULE_SETS, "")
        self.presets_file, self.rule_sets_file = data / "presets.txt", data / "rules.txt"
        self.presets_file.write_text(PRESETS)
        self.rule_sets_file.write_text(RULE_SETS)

    def app(self) -> FastAPI:
        """The host's application as it serves its API and its page."""
        from lbw.ui import routes
        from modules import initialize_util, script_callbacks
        from modules.api.api import Api
        from modules.call_queue import queue_lock

        app = FastAPI()
        initialize_util.setup_middleware(app)
        Api(app, queue_lock)
        routes.add(app, self.presets_file, self.rule_sets_file, self.backend)
        script_callbacks.app_started_callback(None, app)
        return app
