# shellcheck shell=bash
# Functions that packaging/quickstart and tests/run share: installing what a fresh Debian machine lacks. To be sourced.

# The folder of a Debian package's programs may not be on a plain user's PATH.
PATH=$PATH:/usr/sbin:/sbin

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs the named Debian packages that are missing. Their services are not started: we run servers of our own.
need_debian() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "Installing ${missing[*]} ..."
    as_root bash -c "$(declare -f install_without_starting); install_without_starting \"\$@\"" bash "${missing[@]}" && return
    echo "apt could not install ${missing[*]}; install them and call this again." >&2
    return 1
}

# For need_debian, in a root shell of its own, which tidies up however it or its caller ends. While it installs, a policy
# forbids services to start. Only one such shell at a time does so, or the second would lose the policy when the first is
# done. So a policy with our mark that is found under the lock was left by one that was killed, and goes; anybody else's
# stays.
install_without_starting() {
    set -u
    # Not local: the traps need them after the function's end.
    policy=/usr/sbin/policy-rc.d mark='# made by floh-worker while it installs packages' status=0
    exec 9>/run/floh-worker-install.lock
    flock 9
    log=$(mktemp)
    remove_ours() { ! grep -qsF "$mark" "$policy" || rm -f "$policy"; }
    trap 'remove_ours; rm -f "$log"' EXIT
    # apt gets the terminal's Ctrl-C too, and stops where it can.
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    remove_ours
    # Made only where there is none.
    (umask 022 && set -C && printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy") 2>/dev/null && chmod 755 "$policy"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null 9>&- ||
        status=$?
    [ "$status" = 0 ] || cat "$log" >&2
    return "$status"
}

# Node.js with npm, from wherever; Debian's if there is none.
need_node() {
    { command -v node && command -v npm; } >/dev/null || need_debian nodejs npm
}

# The npm packages of a folder of tests, without the optional ones: a native part that the others do without.
need_peers() {
    need_node || return
    [ "$1/node_modules/.package-lock.json" -nt "$1/package-lock.json" ] ||
        (cd "$1" && npm ci --omit=optional --no-fund --no-audit --loglevel=error </dev/null)
}

need_cargo() {
    # shellcheck source=/dev/null
    if [ -e "$HOME/.cargo/env" ]; then . "$HOME/.cargo/env"; fi
    command -v cargo >/dev/null || { echo "cargo is missing: install Rust (https://rustup.rs)" >&2; return 69; }
    need_debian gcc libc6-dev
}

# The newest PostgreSQL's server programs.
postgres_programs() {
    find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1
}
