"""Puts the scripts and styles of the host and of the extensions into the page that gradio serves."""

from __future__ import annotations

import os
import re

import gradio as gr

from modules import localization, scripts, shared
from modules.paths import data_path, script_path

_original_template_response = gr.routes.templates.TemplateResponse

# Gradio's own page asks two public servers for a font and a script. The page works without, and has to where no
# network is.
_FOREIGN = re.compile(rb'<link rel="preconnect"[^>]*>|<script[^>]*src="https://[^>]*></script>', re.DOTALL)


def webpath(filename: str) -> str:
    """Address of a file, new whenever the file is."""
    return f"file={os.path.abspath(filename)}?{os.path.getmtime(filename)}"


def javascript_html() -> str:
    # The translations have to be there before any script.
    tags = [
        f'<script type="text/javascript">{localization.localization_js(shared.opts.localization)}</script>',
        f'<script type="text/javascript" src="{webpath(os.path.join(script_path, "script.js"))}"></script>',
    ]
    for extension, kind in ((".js", "text/javascript"), (".mjs", "module")):
        tags += [
            f'<script type="{kind}" src="{webpath(script.path)}"></script>'
            for script in scripts.list_scripts("javascript", extension)
        ]
    if shared.cmd_opts.theme:
        tags.append(f'<script type="text/javascript">set_theme("{shared.cmd_opts.theme}");</script>')
    return "\n".join(tags)


def css_html() -> str:
    paths = [*scripts.list_files_with_name("style.css"), os.path.join(data_path, "user.css")]
    files = [path for path in paths if os.path.exists(path)]
    return "\n".join(f'<link rel="stylesheet" property="stylesheet" href="{webpath(file)}">' for file in files)


def reload_javascript() -> None:
    """Serve the scripts and styles that there are now from the next load of the page on."""
    head = f'{javascript_html()}<meta name="referrer" content="no-referrer"/></head>'.encode()
    body = f"{css_html()}</body>".encode()

    def template_response(*args, **kwargs):
        response = _original_template_response(*args, **kwargs)
        page = _FOREIGN.sub(b"", response.body)
        response.body = page.replace(b"</head>", head).replace(b"</body>", body)
        response.init_headers()
        return response

    gr.routes.templates.TemplateResponse = template_response
