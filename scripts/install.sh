# Sourced by the other scripts: installs what is missing, and nothing else. POSIX sh.
#
#   install_packages NAME...   Debian packages that are not installed yet; never leaves a service running
#   install_python LOCKFILE    the virtual environment in .venv with exactly what LOCKFILE pins, by hash
#
# As root it installs; with passwordless sudo too; anybody else is told what to ask an administrator for.
# A second run finds everything in place and says nothing.

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
VENV=$ROOT/.venv
PYTHON=/usr/bin/python3 # Debian's own: the one that the packages below belong to

# What netfilterqueue (a source distribution) and the gateway need besides Python.
RUN_PACKAGES="ca-certificates python3 python3-venv python3-dev gcc libc6-dev libnetfilter-queue-dev libnfnetlink-dev
nftables iproute2 util-linux dovecot-imapd dovecot-pop3d"

# Archives other than ZIP; the package has another name since Debian 13.
case $(cat /etc/debian_version 2>/dev/null) in
12*) RUN_PACKAGES="$RUN_PACKAGES libarchive13" ;;
*) RUN_PACKAGES="$RUN_PACKAGES libarchive13t64" ;;
esac

TEST_PACKAGES="git openssl curl procps swaks libio-socket-inet6-perl libnet-ssleay-perl libio-socket-ssl-perl libauthen-sasl-perl
systemd xz-utils conntrack strace openssh-client"

say() { printf '%s\n' "egressguard: $*" >&2; }

die() { say "$*"; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_install() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

# --- Debian packages ---------------------------------------------------------------------------------------------

missing_of() { # NAME...: those that are not installed
    dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
        awk -v all="$*" '$2 == "installed" { have[$1] = 1 }
            END { n = split(all, names); for (i = 1; i <= n; i++) if (!(names[i] in have)) printf " %s", names[i] }'
}

# invoke-rc.d asks this file before it starts a service that a package brings; 101 means no. One that was there
# before is kept beside it and comes back, also after a signal; what a killed run left is mended by the next one.
policy=/usr/sbin/policy-rc.d
policy_mark='# made by egressguard for one installation'

services_off() {
    services_on
    [ ! -e $policy ] || as_root mv $policy $policy.kept
    trap services_on EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    as_root sh -c "printf '#!/bin/sh\n%s\nexit 101\n' '$policy_mark' >$policy && chmod 755 $policy"
}

services_on() {
    trap - EXIT HUP INT TERM
    if grep -qsF "$policy_mark" $policy; then as_root rm -f $policy; fi
    if [ -e $policy.kept ]; then as_root mv $policy.kept $policy; fi
}

apt_install() { # says nothing when all goes well
    apt_log=$(mktemp)
    apt="env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120"
    # The lists may be missing or old: look for new ones only then.
    as_root $apt install -y --no-install-recommends "$@" >"$apt_log" 2>&1 </dev/null ||
        { as_root $apt update && as_root $apt install -y --no-install-recommends "$@"; } >"$apt_log" 2>&1 </dev/null ||
        { tail -n 20 "$apt_log" >&2; rm -f "$apt_log"; return 1; }
    rm -f "$apt_log"
}

# Ours is a private instance: the system-wide Dovecot that the package would start at boot stays off.
# Without systemctl, Debian's own helper makes and removes the same links.
disable_dovecot() {
    for unit in dovecot.service dovecot.socket; do
        as_root systemctl disable "$unit" || as_root deb-systemd-helper disable "$unit"
    done >/dev/null 2>&1 || true
    as_root update-rc.d dovecot disable >/dev/null 2>&1 || true
}

install_packages() {
    command -v dpkg-query >/dev/null 2>&1 || { say "this is not Debian; needed here: $*"; return 1; }
    missing=$(missing_of "$@")
    [ -n "$missing" ] || return 0
    if ! may_install; then
        say "missing Debian packages:$missing"
        say "ask an administrator for: apt-get install --no-install-recommends$missing"
        return 1
    fi
    dovecot_is_new=$(missing_of dovecot-core)
    say "installing$missing"
    services_off
    # shellcheck disable=SC2086 # a list of names
    apt_install $missing && apt_failed='' || apt_failed=yes
    [ -z "$dovecot_is_new" ] || disable_dovecot
    services_on
    [ -z "$apt_failed" ]
}

# --- Python ------------------------------------------------------------------------------------------------------

can_build() { # netfilterqueue comes as C source
    command -v gcc >/dev/null 2>&1 && [ -e /usr/include/libnetfilter_queue/libnetfilter_queue.h ] &&
        [ -e "/usr/include/python$version/Python.h" ]
}

install_python() {
    version=$($PYTHON -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        die "$PYTHON is missing: apt-get install python3 python3-venv"
    case $version in
    2.* | 3.[0-9] | 3.10) die "$PYTHON is $version; EgressGuard needs 3.11 or newer (Debian 12, 13)" ;;
    esac
    # Two scripts that start at once must not both build it.
    exec 9<"$ROOT"
    flock 9
    build_environment "$1"
    write_command
    compile_ourselves
    exec 9<&-
}

# The stamp tells what .venv was made for and what is in it: the development lock holds all of the other, and one
# made without a compiler is made again when there is one.
build_environment() {
    stamp=$VENV/.installed
    made_for="$version $ROOT $(cat "$ROOT/requirements.lock" "$ROOT/requirements-dev.lock" 2>/dev/null | cksum)"
    has=$1
    can_build || has="$1 without netfilterqueue"
    if [ -f "$stamp" ] && grep -qxF "$made_for" "$stamp"; then
        grep -qxF -e "$has" -e "$1" -e requirements-dev.lock "$stamp" && return 0
    else
        rm -rf "$VENV"
        make_environment
    fi
    say "installing Python packages ($has)"
    pip_install "$1"
    install_ourselves
    { printf '%s\n' "$made_for"; grep -sxF requirements.lock "$stamp"; printf '%s\n' "$has"; } >"$stamp.new" || true
    mv "$stamp.new" "$stamp"
}

make_environment() {
    log=$($PYTHON -m venv "$VENV" 2>&1) && return 0
    rm -rf "$VENV"
    printf '%s\n' "$log" | tail -n 5 >&2
    die "cannot make $VENV: apt-get install python3-venv"
}

pip_install() { # every file must have a hash that the lock names
    set -- "$ROOT/$1"
    if ! can_build; then
        say "without gcc, python3-dev and libnetfilter-queue-dev there is no netfilterqueue: rules with" \
            "\"decide: queue\" cannot be enforced"
        filtered=$(mktemp)
        awk '/^[^ #]/ { skip = /^netfilterqueue==/ } !skip' "$1" >"$filtered"
        set -- "$filtered"
    fi
    pip_log=$(mktemp)
    "$VENV/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --require-hashes \
        -r "$1" >"$pip_log" 2>&1 ||
        { grep -v '^WARNING' "$pip_log" | tail -n 20 >&2; die "pip could not install what the lock file pins"; }
    rm -f "$pip_log" "${filtered:-$pip_log}"
}

# The checkout itself: a path file and the command, so that no build backend has to be fetched.
# PYTHONSAFEPATH: the directory in which somebody types the command must not bring modules of its own.
install_ourselves() {
    site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$ROOT" >"$site/egressguard.pth"
}

write_command() { # each time: it belongs to the checkout, not to the packages
    cat >"$VENV/bin/egressguard.new" <<PROGRAM
#!/bin/sh
# A link named sendmail or mailq is the command of that name.
case "\${0##*/}" in
sendmail | mailq) set -- "\${0##*/}" "\$@" ;;
esac
PYTHONSAFEPATH=1 exec "$VENV/bin/python" -m egressguard "\$@"
PROGRAM
    chmod 755 "$VENV/bin/egressguard.new"
    mv "$VENV/bin/egressguard.new" "$VENV/bin/egressguard"
}

# The roles' users may not write beside the program: without this each of them compiles it anew at every start.
compile_ourselves() {
    (umask 022 && "$VENV/bin/python" -m compileall -q "$ROOT/egressguard") >/dev/null 2>&1 || true
}
