//! `packaging/prepare.sh`, which `packaging/quickstart` and `tests/run` use on people's machines: what it must not leave.

use crate::machine::{run_unbooted, said};

/// The script's functions, a stand-in for apt-get that says whether services may start and then takes until /go is there,
/// and what the tests below use.
const SETTING: &str = r#"
    set +e -uo pipefail
    policy=/usr/sbin/policy-rc.d
    cat >/usr/local/sbin/apt-get <<'APT'
#!/bin/sh
[ "$1" = install ] || exit 0
if /usr/sbin/policy-rc.d 2>/dev/null; then echo allowed; else echo "forbidden $?"; fi >>/said
until [ -e /go ]; do sleep 0.05; done
APT
    chmod 755 /usr/local/sbin/apt-get
    fail() { echo "$*"; ls -l $policy; cat /said; exit 1; }
    eventually() { local n; for n in $(seq 200); do ! eval "$1" || return 0; sleep 0.05; done; fail "not within 10 s: $1"; }
    said() { [ "$(cat /said 2>/dev/null)" = "$1" ]; }
    # Each run has a process group of its own, as a command typed in a terminal has, and the terminal's Ctrl-C goes to all
    # of the group.
    set -m
    installs() {
        bash -c '. /packaging/prepare.sh; trap "exit 130" INT; trap "exit 143" TERM; need_debian floh-no-such-package' &
    }
"#;

fn holds(script: &str) {
    let output = run_unbooted(&format!("{SETTING}\n{script}"));
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_policy_forbids_services_while_packages_are_installed_and_is_gone_then() {
    holds(
        r#"installs; eventually 'said "forbidden 101"'
        [ "$(stat -c %a $policy)" = 755 ] || fail mode
        touch /go; wait $! || fail "it failed"
        [ ! -e $policy ] || fail "the policy is left""#,
    );
}

#[test]
fn ctrl_c_and_sigterm_leave_no_policy() {
    holds(
        r#"for signal in INT TERM HUP; do
            rm -f /said; installs; eventually 'said "forbidden 101"'
            kill -s $signal -- -$!; wait $!; code=$?
            [ $code -gt 128 ] || fail "SIG$signal: $code"
            eventually "[ ! -e $policy ]"
        done"#,
    );
}

#[test]
fn a_second_one_waits_for_the_first_and_has_a_policy_of_its_own() {
    holds(
        r#"installs; first=$!; eventually 'said "forbidden 101"'
        installs; second=$!
        eventually 'pgrep -g '$second' flock'
        kill -s INT -- -$first; wait $first
        eventually 'said "forbidden 101
forbidden 101"'
        touch /go; wait $second || fail "the second failed"
        [ ! -e $policy ] || fail "the policy is left""#,
    );
}

#[test]
fn a_policy_of_somebody_else_stays_and_one_that_a_killed_run_left_goes() {
    holds(
        r#"touch /go
        printf '#!/bin/sh\nexit 104\n' >$policy; chmod 755 $policy; cp $policy /own
        installs; wait $! || fail "it failed"
        cmp $policy /own || fail "somebody else's policy was touched"
        said "forbidden 104" || fail "it was not in force"
        rm $policy /said /go
        installs; eventually 'said "forbidden 101"'
        kill -s KILL -- -$!; wait $!
        [ -e $policy ] || fail "nothing can tidy up after SIGKILL"
        touch /go; installs; wait $! || fail "it failed"
        [ ! -e $policy ] || fail "the policy of a killed run is left""#,
    );
}
