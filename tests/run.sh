#!/usr/bin/env bash
# Lint, types and all tests. Arguments go to pytest: `bash tests/run.sh tests/unit -k schedule`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tests/setup.sh || exit 1

# The models are narrow: a second thread costs more than it brings.
export OMP_NUM_THREADS=1

failed=0
bash tests/check.sh || failed=1
.venv/bin/python -m pytest "$@" || failed=1
if [ $# = 0 ]; then  # what people ask for, in the small WebUI as each generation of the Forge family
    for family in forge-g1 forge-g2 forge-g3; do
        echo "== $family"
        WEBUI_FAMILY=$family .venv/bin/python -m pytest -q -W ignore \
            tests/host/test_{exactness,forge_forward,forge_neighbours,messages,model_switch,modes,refiner,schedule,syntax}.py || failed=1
    done
fi
exit "$failed"
