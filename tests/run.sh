#!/usr/bin/env bash
# Lint, types and all tests. Arguments go to pytest: `bash tests/run.sh tests/unit -k schedule`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tests/setup.sh || exit 1

# The models are narrow: a second thread costs more than it brings. A second process is worth its core. It has a copy of
# the project, because the panel's tests write the preset files, which the others read.
export OMP_NUM_THREADS=1

# All but the tests in the small WebUI as AUTOMATIC1111's; with it as each generation of the Forge family, those of what
# people ask for.
others() {
    local failed=0 family
    tar --exclude=.git --exclude='.venv*' -c . | tar -x -C "$copy" || return 1
    ln -s "$PWD"/.venv* "$copy"
    cd "$copy" || return 1
    .venv/bin/python -m pytest --ignore=tests/host || failed=1
    for family in forge-g1 forge-g2 forge-g3; do
        echo "== $family"
        WEBUI_FAMILY=$family .venv/bin/python -m pytest -q -W ignore \
            tests/host/test_{exactness,forge_forward,forge_neighbours,live,messages,model_switch,modes,refiner,schedule,syntax}.py || failed=1
    done
    return "$failed"
}

failed=0
bash tests/check.sh || failed=1
if [ $# != 0 ]; then
    .venv/bin/python -m pytest "$@" || failed=1
    exit "$failed"
fi
log="$(mktemp)"
copy="$(mktemp -d)"
trap 'kill "$lane" 2>/dev/null; rm -rf "$log" "$copy"' EXIT
others >"$log" 2>&1 &
lane=$!
.venv/bin/python -m pytest tests/host || failed=1
wait "$lane" || failed=1
cat "$log"
exit "$failed"
