#!/usr/bin/env bash
# Build sdist and wheel, look into the wheel, install it into a fresh environment and run the demo from there.
#
#   scripts/check_wheel.sh [FOLDER]     FOLDER: where a wheel that passed is put (none: nowhere)
#
# PYTHON (with the package "build") makes the wheel and the environment; CONSTRAINTS pins what is installed.
set -euo pipefail

fail() {
    echo "check_wheel: $*" >&2
    exit 1
}
absolute() { echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"; }

root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-$root/.venv/bin/python}") || fail "no Python at ${PYTHON:-$root/.venv/bin/python}"
python=$(absolute "$python")
constraints=$(absolute "${CONSTRAINTS:-$root/constraints.txt}")
kept=${1:+$(absolute "$1")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# From here on nothing of the checkout is on any path: what runs is what was installed.
unset PYTHONPATH
cd "$work"

# A copy without leftovers: setuptools takes what an old egg-info lists for part of the package.
mkdir tree
cp -R "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$root/src" tree
find tree -name __pycache__ -prune -exec rm -r {} + -o -name '*.egg-info' -prune -exec rm -r {} +
"$python" -m build --outdir dist tree >build.log 2>&1 || {
    tail -n 40 build.log >&2
    fail "the wheel cannot be built"
}
wheel=$(echo dist/*.whl)
version=$(basename "$wheel" | cut -d - -f 2)

# The package whole, and nothing but the package: models, templates and py.typed are in it, tests are not.
(cd tree/src && find selfteach -type f | sort) >source
"$python" -m zipfile --list "$wheel" | awk 'NR > 1 { print $1 }' | grep -v '\.dist-info/' | sort >packed
diff source packed || fail "the wheel (>) is not what src/ (<) holds"
for part in selfteach/py.typed selfteach/task/arena/models/table/model.safetensors selfteach/report/templates/; do
    grep -q "^$part" packed || fail "the wheel lacks $part"
done

# torch first and pinned, as in the Makefile: whatever asks for torch afterwards is content with it.
"$python" -m venv env
env="$work/env/bin"
"$env/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" torch
"$env/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$wheel"

said=$("$env/selfteach" --version)
[ "$said" = "selfteach $version" ] || fail "selfteach --version says '$said', the wheel is $version"
place=$("$env/python" -c 'import selfteach; print(selfteach.__file__)')
[[ $place == "$work/env/"* ]] || fail "selfteach was imported from $place, not from the environment"

OMP_NUM_THREADS=1 "$env/selfteach" demo --steps 3 --out demo
for part in report.html summary.json model/config.json model/model.safetensors; do
    [ -s "demo/$part" ] || fail "the demo wrote no $part"
done

if [ -n "$kept" ]; then
    mkdir -p "$kept"
    cp dist/* "$kept"
fi
echo "check_wheel: selfteach $version is built, installs alone and runs its demo"
