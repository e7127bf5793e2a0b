"""Address, logins and middleware of the web server."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from modules.shared_cmd_options import cmd_opts


def gradio_server_name() -> str | None:
    """Address to listen on; None leaves it to gradio, which takes the loopback."""
    return cmd_opts.server_name or ("0.0.0.0" if cmd_opts.listen else None)


def get_gradio_auth_creds() -> list[tuple[str, ...]]:
    return [tuple(user.strip().split(":", 1)) for user in (cmd_opts.gradio_auth or "").split(",") if user.strip()]


def setup_middleware(app: FastAPI) -> None:
    """Compress answers, and let no page of another origin read them unless the command line names the origin.

    Gradio would let every page of the web do so.
    """
    own = [entry for entry in app.user_middleware if entry.cls.__name__ != "CORSMiddleware"]
    origins = cmd_opts.cors_allow_origins.split(",") if cmd_opts.cors_allow_origins else []
    cors = Middleware(
        CORSMiddleware, allow_methods=["*"], allow_headers=["*"], allow_credentials=True, allow_origins=origins)
    app.user_middleware = [cors, Middleware(GZipMiddleware, minimum_size=1000), *own]
    app.middleware_stack = app.build_middleware_stack()
