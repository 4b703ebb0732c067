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
    local policy=/usr/sbin/policy-rc.d made=''
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 755 $policy
        made=yes
    fi
    local status=0
    { as_root apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
        >/tmp/floh-apt.$$ 2>&1 </dev/null || status=$?
    [ -z "$made" ] || as_root rm -f $policy
    if [ $status -ne 0 ]; then
        cat /tmp/floh-apt.$$ >&2
        echo "apt could not install ${missing[*]}; install them and call this again." >&2
    fi
    rm -f /tmp/floh-apt.$$
    return $status
}

# Node.js with npm, from wherever; Debian's if there is none.
need_node() {
    { command -v node && command -v npm; } >/dev/null || need_debian nodejs npm
}

# The npm packages that stand in for an API server, in tests/peers.
need_peers() {
    need_node || return
    [ "$1/node_modules/.package-lock.json" -nt "$1/package-lock.json" ] ||
        (cd "$1" && npm ci --no-fund --no-audit --loglevel=error </dev/null)
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
