#!/usr/bin/env bash
# Lint, types and all tests. Arguments go to pytest: `bash tests/run.sh tests/unit -k schedule`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tests/setup.sh || exit 1

# The models are narrow: a second thread costs more than it brings. A second process is worth its core.
export OMP_NUM_THREADS=1

failed=0
bash tests/check.sh || failed=1
if [ $# != 0 ]; then
    .venv/bin/python -m pytest "$@" || failed=1
    exit "$failed"
fi

# What many data folders have alike is made once.
WEBUI_DEMO_FILES="$(mktemp -d)"
export WEBUI_DEMO_FILES

# The parts, about the longest first: a family of hosts, and tests. Each generation of the Forge family is asked what people
# ask for, the first one also that in which they do not differ.
of_forge="tests/host/test_{exactness,forge_forward,forge_neighbours,live,messages,model_switch,modes,refiner,schedule,syntax}.py"
left="$(mktemp)" lock="$(mktemp)"
cat >"$left" <<END
a1111 tests/browser
a1111 tests/unit tests/endurance
a1111 tests/host/test_[p-r]*.py
a1111 tests/host/test_[i-o]*.py
a1111 tests/host/test_[c-f]*.py
forge-g1 $of_forge tests/host/test_neighbours.py
a1111 tests/host/test_[a-b]*.py
a1111 tests/host/test_[s-t]*.py
forge-g3 $of_forge -m 'not of_any_forge'
forge-g2 $of_forge -m 'not of_any_forge'
a1111 tests/host/test_[u-z]*.py
a1111 tests/host/test_[g-h]*.py
END

take_part() {
    flock "$lock" sh -c 'head -n 1 "$0"; sed -i 1d "$0"' "$left"
}

# Does one part after the other, as long as there is one. Each worker has a copy of the project, because the panel's tests
# write the preset files, which the others read.
work() {
    local family tests failed=0
    copy="$(mktemp -d)" log="$(mktemp)" running=
    # A group of its own has the servers, too, that tests have started.
    trap '[ -z "$running" ] || kill -- "-$running" 2>/dev/null; cd / && rm -rf "$copy" "$log"' EXIT
    trap 'exit 1' TERM
    tar --exclude=.git --exclude='.venv*' -c . | tar -x -C "$copy" && ln -s "$PWD"/.venv* "$copy" && cd "$copy" || return 1
    while read -r family tests <<<"$(take_part)" && [ -n "$family" ]; do
        # Braces and stars are for the shell.
        eval "WEBUI_FAMILY=$family exec setsid .venv/bin/python -m pytest --durations=12 $tests" >"$log" 2>&1 &
        running=$!
        wait "$running" || failed=1
        running=
        { echo "== $family: $tests"; cat "$log"; } | flock "$lock" cat
    done
    return "$failed"
}

work & first=$!
work & second=$!
trap 'kill "$first" "$second" 2>/dev/null; wait; rm -rf "$left" "$lock" "$WEBUI_DEMO_FILES"' EXIT
trap 'exit 130' INT TERM
wait "$first" || failed=1
wait "$second" || failed=1
exit "$failed"
