# Sourced by the other scripts: installs what is missing, and nothing else. POSIX sh.
#
#   install_packages NAME...   Debian packages that are not installed yet; never leaves a service running
#   install_python LOCKFILE    the virtual environment in .venv with exactly what LOCKFILE pins, by hash
#
# As root it installs; with passwordless sudo too; anybody else is told what to ask an administrator for.

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
VENV=$ROOT/.venv

say() { printf '%s\n' "egressguard: $*" >&2; }

die() { say "$*"; exit 1; }

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_install() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

# invoke-rc.d asks this file before it starts a service that a package brings; 101 means no.
policy=/usr/sbin/policy-rc.d

services_off() {
    [ -e $policy ] && return 0
    as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
    trap services_on EXIT
    trap 'services_on; exit 130' INT TERM HUP
}

services_on() {
    as_root rm -f $policy
    trap - EXIT INT TERM HUP
}

install_packages() {
    missing=
    for name in "$@"; do
        installed "$name" || missing="$missing $name"
    done
    [ -n "$missing" ] || return 0
    if ! may_install; then
        say "missing Debian packages:$missing"
        say "ask an administrator for: apt-get install$missing"
        return 1
    fi
    say "installing$missing"
    had_policy=no
    [ -e $policy ] && had_policy=yes
    services_off
    # shellcheck disable=SC2086 # a list of names
    as_root env DEBIAN_FRONTEND=noninteractive sh -c '
        { apt-get -qq -o DPkg::Lock::Timeout=120 update && apt-get -qq -y -o DPkg::Lock::Timeout=120 \
          install --no-install-recommends "$@"; } >/tmp/egressguard-apt.$$ 2>&1 ||
        { tail -n 20 /tmp/egressguard-apt.$$ >&2; rm -f /tmp/egressguard-apt.$$; exit 1; }
        rm -f /tmp/egressguard-apt.$$' sh $missing || { [ $had_policy = yes ] || services_on; return 1; }
    [ $had_policy = yes ] || services_on
    case "$missing" in
    *dovecot*)
        # Ours is a private instance: the system-wide one that the package would start at boot stays off.
        command -v systemctl >/dev/null 2>&1 &&
            as_root systemctl disable -q dovecot.service dovecot.socket >/dev/null 2>&1 || true
        ;;
    esac
}

# What netfilterqueue and the gateway need besides Python.
RUN_PACKAGES="ca-certificates python3 python3-venv python3-dev gcc libc6-dev libnetfilter-queue-dev libnfnetlink-dev
nftables iproute2 util-linux dovecot-imapd dovecot-pop3d"

TEST_PACKAGES="git openssl curl procps swaks libnet-ssleay-perl libio-socket-ssl-perl libauthen-sasl-perl
systemd xz-utils"

install_python() {
    lock=$ROOT/$1
    stamp=$VENV/.installed
    version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
        die "python3 is missing: apt-get install python3 python3-venv"
    wanted="$version $(cat "$lock" | cksum)"
    if [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then
        return 0
    fi
    if [ ! -x "$VENV/bin/python" ] || [ "$(cat "$VENV/.python" 2>/dev/null)" != "$version" ]; then
        rm -rf "$VENV"
        /usr/bin/python3 -m venv "$VENV" || die "cannot make $VENV: apt-get install python3-venv"
        printf '%s\n' "$version" >"$VENV/.python"
    fi
    say "installing Python packages ($1)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock" ||
        die "pip could not install what $1 pins (the line above says why)"
    install_ourselves
    printf '%s\n' "$wanted" >>"$stamp"
}

# The checkout itself: a path file and the command, so that no build backend has to be fetched.
install_ourselves() {
    site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$ROOT" >"$site/egressguard.pth"
    printf '#!/bin/sh\nexec "%s/bin/python" -m egressguard "$@"\n' "$VENV" >"$VENV/bin/egressguard"
    chmod 755 "$VENV/bin/egressguard"
}
