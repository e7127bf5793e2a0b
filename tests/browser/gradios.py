"""On which gradio a test runs."""

from __future__ import annotations

import os

import pytest

# A real WebUI has the one that it has.
GRADIOS = ["real"] if os.environ.get("WEBUI_PYTHON") else ["gradio 3.41", "gradio 4.40"]

# For what the extension draws and does by itself: gradio has no part in it. The page of the later one is loaded sooner.
on_one_gradio = pytest.mark.parametrize("version", GRADIOS[-1:])

# For what the server answers: it has a model.
on_the_whole_webui = pytest.mark.parametrize("version", GRADIOS[:1])
