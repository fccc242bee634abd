#!/usr/bin/env bash
# Install a real SGLang that serves on a CPU into a virtual environment of its own (3.3 GB; a few minutes, once).
# usage: setup.sh VENV
# pip takes torch from its configured indexes; where those hold CUDA builds only, set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
set -euo pipefail
venv=${1:?usage: setup.sh VENV}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

# The stamp holds what was installed: an interrupted or outdated environment is completed, a current one left alone.
wanted=$(cat "$here/requirements.txt" "$here/requirements-no-deps.txt")
if [[ -f "$venv/installed" && "$(cat "$venv/installed")" == "$wanted" ]]; then
  exit 0
fi
"$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip install -q --disable-pip-version-check)
"${pip[@]}" -r "$here/requirements.txt"
"${pip[@]}" --no-deps -r "$here/requirements-no-deps.txt"
printf '%s\n' "$wanted" >"$venv/installed"
