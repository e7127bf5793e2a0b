"""Starts the stand-in WebUI: `python webui.py [--api] [--port N] [--nowebui] [--family NAME] [--data-dir DIR] ...`."""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from modules import initialize, initialize_util
from modules.shared_cmd_options import cmd_opts

SHUTDOWN_LIMIT_S = 3


def create_api(app):
    from modules.api.api import Api
    from modules.call_queue import queue_lock

    return Api(app, queue_lock)


def api_only() -> None:
    from fastapi import FastAPI

    from modules import script_callbacks

    app = FastAPI()
    initialize_util.setup_middleware(app)
    script_callbacks.before_ui_callback()
    api = create_api(app)
    script_callbacks.app_started_callback(None, app)
    port = cmd_opts.port or 7861
    print(f"API on http://127.0.0.1:{port}/docs", flush=True)
    api.launch(
        server_name=initialize_util.gradio_server_name(), port=port,
        root_path=f"/{cmd_opts.subpath}" if cmd_opts.subpath else "")


def launch_page() -> None:
    """Build the page and serve it, in threads of gradio's own."""
    from modules import extensions, paths, progress, script_callbacks, shared, ui

    script_callbacks.before_ui_callback()
    shared.demo = ui.create_ui()
    shared.demo.queue(64)
    app, _, _ = shared.demo.launch(
        share=False,
        server_name=initialize_util.gradio_server_name(),
        server_port=cmd_opts.port,
        auth=initialize_util.get_gradio_auth_creds() or None,
        inbrowser=cmd_opts.autolaunch and os.environ.get("SD_WEBUI_RESTARTING") != "1",
        prevent_thread_lock=True,
        quiet=True,
        show_api=False,
        allowed_paths=[paths.script_path, paths.data_path, *(extension.path for extension in extensions.active())],
        app_kwargs={"docs_url": "/docs", "redoc_url": "/redoc"},
        root_path=f"/{cmd_opts.subpath}" if cmd_opts.subpath else "",
    )
    # A browser that keeps a connection must not keep Reload UI waiting.
    shared.demo.server.config.timeout_graceful_shutdown = SHUTDOWN_LIMIT_S
    initialize_util.setup_middleware(app)
    progress.setup_progress_api(app)
    ui.setup_ui_api(app)
    if cmd_opts.api:
        create_api(app)
    script_callbacks.app_started_callback(shared.demo, app)


def webui() -> None:
    """Serve the page until told to stop; Reload UI closes it, executes all scripts anew, and builds it again."""
    from modules import script_callbacks, shared

    while True:
        launch_page()
        command = wait_for_command()
        shared.demo.close()
        if command == "stop":
            return
        os.environ.setdefault("SD_WEBUI_RESTARTING", "1")
        print("Reloading the page...", flush=True)
        time.sleep(0.5)  # for the answer to the click that asked for it
        script_callbacks.app_reload_callback()
        script_callbacks.script_unloaded_callback()
        initialize.initialize_rest(reload_script_modules=True)


def wait_for_command() -> str:
    from modules import shared

    try:
        while True:
            command = shared.state.wait_for_server_command(timeout=5)
            if command in ("stop", "restart"):
                return command
    except KeyboardInterrupt:
        return "stop"


def main() -> None:
    initialize.initialize(sys.argv[1:])
    if cmd_opts.nowebui:
        api_only()
    else:
        webui()


if __name__ == "__main__":
    main()
