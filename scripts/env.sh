# Sourced by the scripts beside it: goes to the repository root and makes sure that .venv holds the
# package and its extras.
# Usage: . "$(dirname "$0")/env.sh"; prepare_venv test

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

fail() {
    echo "Error: $*" >&2
    exit 1
}

# The first python on the PATH that is at least 3.10.
find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3 python3.1{4,3,2,1,0}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "got no python >= 3.10; wanted one on the PATH: install it or set PYTHON=/path/to/python3."
}

# prepare_venv EXTRA: creates .venv and installs the package editable with [EXTRA], unless that was
# done for these very files.
prepare_venv() {
    local python stamp wanted
    stamp=".venv/.installed-$1"
    wanted="$(cksum setup.cfg pyproject.toml)"
    if [ -x .venv/bin/mednerf-kit ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if [ ! -x .venv/bin/python ]; then
        python="$(find_python)" || exit 1
        echo "making .venv with $("$python" --version)" >&2
        "$python" -m venv .venv || {
            rm -rf .venv
            fail "'$python -m venv' failed; wanted python's venv module:" \
                "install it (python3-venv on Debian and Ubuntu)."
        }
    fi
    echo "installing mednerf-kit[$1] into .venv (some minutes the first time)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$1]" ||
        fail "pip could not install the package; read its message above, then run this script again."
    echo "$wanted" >"$stamp"
}
