#!/usr/bin/env bash
# Makes .venv beside tests/ with all that the tests and the demo need, and .venv-gradio4 with another gradio for the
# panel. Does nothing when nothing changed.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
stamp="$venv/.setup-stamp"
wanted="$(cat "$root/pyproject.toml" "$root/tests/setup.sh" | sha256sum | cut -d' ' -f1)"

# One of the lists in pyproject.toml.
requirements() {
    "$venv/bin/python" - "$root/pyproject.toml" "$1" <<'PY'
import sys

from pip._vendor import tomli

with open(sys.argv[1], "rb") as file:
    print("\n".join(tomli.load(file)["project"]["optional-dependencies"][sys.argv[2]]))
PY
}

install_packages() {
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check -qq --no-input)
    # torch first and pinned: left to a dependency, pip would choose a build with gigabytes of CUDA libraries.
    "${pip[@]}" install torch==2.13.0
    "${pip[@]}" install -r <(requirements test)
    [ -x "$venv-gradio4/bin/python" ] || python3 -m venv "$venv-gradio4"
    "$venv-gradio4/bin/python" -m pip --disable-pip-version-check -qq --no-input install -r <(requirements gradio4)
    echo "$wanted" >"$stamp"
}

# A browser, and a C++ compiler that makes the CUDA kernel run on a CPU. Without them the tests that need one skip
# themselves and say so; a failed install is therefore no error.
install_programs() {
    command -v chromium >/dev/null && command -v g++ >/dev/null && return
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 0
    {
        apt-get update -qq -o DPkg::Lock::Timeout=300
        DEBIAN_FRONTEND=noninteractive apt-get install -y -o DPkg::Lock::Timeout=300 -qq --no-install-recommends \
            chromium fonts-dejavu-core g++ libc6-dev
    } >/dev/null 2>&1 || echo "setup: no chromium or no g++, the tests that need them will be skipped" >&2
}

if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "setup: installing into ${venv#"$root"/} (some minutes, once)" >&2
    install_packages
fi
install_programs
