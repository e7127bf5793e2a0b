#!/usr/bin/env bash
# Starts the stand-in WebUI with a demo model, demo LoRA files and the extension. Further arguments go to the host.
# `demo.sh --once "PROMPT" [--steps N] ...` makes one image instead, and tells what happened in each step.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

bash "$here/setup.sh"
python="$here/../.venv/bin/python"
"$python" "$here/webui/make_demo.py" --trained

if [ "${1:-}" = --once ]; then
    cd "$here/.."
    PYTHONPATH="$PWD:$PWD/scripts" exec "$python" -W ignore -m tests.once "$@"
fi
port="$(printf '%s\n' 7860 "$@" | awk 'before == "--port" || NR == 1 { port = $0 } { before = $0 } END { print port }')"
echo "The page: http://127.0.0.1:$port  The API: http://127.0.0.1:$port/docs  Prompt to try: a red cat on a meadow <lora:demo_locon:1:lbw=OUTS>"
exec "$python" "$here/webui/webui.py" --api --port 7860 "$@"
