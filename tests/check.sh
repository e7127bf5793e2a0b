#!/usr/bin/env bash
# What can be said of a change in seconds, without a WebUI: lint, types, and that no room imports one above it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tests/setup.sh || exit 1

failed=0
.venv/bin/ruff check . || failed=1
.venv/bin/mypy || failed=1
.venv/bin/python -m pytest -q -p no:cacheprovider tests/unit/test_rooms.py tests/unit/test_host_free.py || failed=1
exit "$failed"
