# What .ci/run and .ci/others share.

STAGE=
DURATIONS=()
# Slow tests have no limit of 120 s each, but they have one.
# shellcheck disable=SC2034 # used by those who source this
SLOW=(-m slow -o faulthandler_timeout=900 --ignore=tests/simulations --ignore=tests/test_model.py
    --ignore=tests/webhooks/test_receiver.py
    --ignore=tests/webhooks/test_node_peers.py) # it has a stage, and needs what that installs
# These have processes of their own: asyncio goes through all tasks in memory, and others leave many.
# shellcheck disable=SC2034
MANY_TASKS=(-m slow -o faulthandler_timeout=900)

stage() { # NAME COMMAND...: run a stage, and note how long it took
    STAGE=$1
    shift
    echo
    echo "=== $STAGE"
    local start=$SECONDS
    "$@"
    DURATIONS+=("$(printf "%5d s  %s" "$((SECONDS - start))" "$STAGE")")
}

print_durations() {
    echo
    ((${#DURATIONS[@]} == 0)) || printf "  %s\n" "${DURATIONS[@]}"
    echo "  in all: $SECONDS s"
}

in_venv() { # VENV COMMAND...: run a command as in an activated environment
    local venv=$1
    shift
    VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH "$@"
}

find_python() { # VERSION: the first interpreter of that version that can make environments
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-${HOME:-/}/.pyenv}"/versions/"$1".*/bin/python; do
        if "$candidate" -c "import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}
