#!/usr/bin/env bash
# Makes everything ready for `run`, `test`, `bench` or `check`; the targets of the Makefile begin with it. When nothing
# changed since the last time it ends at once: no apt, no pip, no network.
set -euo pipefail
cd "$(dirname "$0")/.."

stage=$1
is_debian12() { [ "$(. /etc/os-release && echo "$ID${VERSION_ID:-}")" = debian12 ]; }
python=${PYTHON:-python3}
extras=""
packages=(gcc libvirt-dev pkg-config) # PyPI has libvirt-python as source only
packages+=(qemu-utils)                # qemu-img flattens overlays
case $stage in
run) extras="[pam]" ;;
check) extras="[test,bench,check,pam]" ;; # mypy reads the tests and the bench too
test | bench)
    extras="[test,pam]"
    # Not libvirt-daemon-system: the tests start a libvirtd of their own, and none is to run on the host because of them.
    packages+=(libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu ovmf qemu-system-x86)
    packages+=(btrfs-progs e2fsprogs libpam-wrapper mount psmisc swtpm swtpm-tools util-linux xfsprogs)
    packages+=(chromium)        # the page in a real browser
    packages+=(fish mandoc zsh) # shell completion, the manual page
    packages+=(openssl systemd) # certificates; systemd-analyze, which checks our unit: systemd itself need not run
    # What .venv/debian is made of; see below.
    ! is_debian12 ||
        packages+=(python3-cheroot python3-cherrypy3 python3-jsonschema python3-libvirt python3-lxml python3-venv)
    # Debian 13 took the storage driver out of libvirt-daemon.
    [ "$(. /etc/os-release && echo "$ID${VERSION_ID:-}")" != debian13 ] || packages+=(libvirt-daemon-driver-storage)
    # virt-clone, which clones are measured against; the plots.
    [ "$stage" != bench ] || { packages+=(virtinst) && extras="[test,bench,pam]"; }
    ;;
*) echo "usage: $0 run|test|bench|check" >&2 && exit 2 ;;
esac

say() { echo "cloner: $*" >&2; }
fail() { say "$@" && exit 1; }

# A stage is ready when it was made from these files. A .venv works for one folder and one Python alone.
made_for() { pwd && readlink -f .venv/bin/python; }
made_from() { made_for && cat pyproject.toml scripts/setup.sh | sha256sum; }
same() { [ -x .venv/bin/python ] && [ "$("$1")" = "$(cat "$2" 2>/dev/null)" ]; }
ready() { same made_from ".venv/ready-to-$stage"; }

quietly() { # runs a command; what it said is shown only when it fails
    "$@" >"$log" 2>&1 </dev/null 9<&- && return # without the lock: a service that a package starts would keep it
    tail -n 20 "$log" >&2
    fail "failed: $*"
}

missing_packages() {
    local version package
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip' 2>/dev/null || echo "$version-venv"
    "$python" -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || echo "$version-dev"
    for package in "${packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

may_sudo() { # without a password, or with one if somebody is there to type it
    command -v sudo >/dev/null || return
    sudo -n true 2>/dev/null || { [ -t 0 ] && say "sudo is needed to install $*" && sudo -v; }
}

install_packages() {
    local become=()
    if ! command -v apt-get >/dev/null; then
        say "no apt here; what follows needs the equivalents of Debian's packages $*"
        return
    fi
    if [ "$EUID" -ne 0 ]; then
        may_sudo "$@" || fail "system packages are missing; as root: apt-get install --no-install-recommends $*"
        become=(sudo)
    fi
    say "installing system packages: $*"
    quietly "${become[@]}" apt-get update
    quietly "${become[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=600 install --yes --no-install-recommends "$@"
}

fetch_nginx() { # unpacked and not installed, since as a service it would take port 80 of this host
    local place=$PWD/.venv/nginx
    command -v apt-get >/dev/null && [ ! -x "$place/usr/sbin/nginx" ] || return 0
    say "fetching nginx"
    rm -rf "$place" && mkdir "$place"
    [ "$EUID" -ne 0 ] || quietly apt-get update
    (cd "$place" && quietly apt-get download nginx && quietly dpkg-deb -x nginx_*.deb .)
}

make_debian() { # a second environment: a host with Wok, which has all but SQLAlchemy from Debian 12, and nothing else
    local versions=(CherryPy==18.8.0 cheroot==9.0.0 jsonschema==4.10.3 libvirt-python==9.0.0 lxml==4.9.2)
    say "making .venv/debian"
    rm -rf .venv/debian
    if is_debian12; then
        versions=()
        quietly /usr/bin/python3 -m venv --system-site-packages .venv/debian
    else
        quietly "$(command -v python3.11 || echo "$python")" -m venv .venv/debian
    fi
    quietly .venv/debian/bin/pip install --disable-pip-version-check --no-input "${versions[@]}" \
        'SQLAlchemy>=2.0' 'hypothesis>=6.100' 'pytest>=8.4' 'pytest-xdist>=3.6'
    (cd .venv/debian/lib/python3*/site-packages && ln -sfn ../../../../.. cloner)
}

ready && exit
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed; $python: $("$python" -V 2>/dev/null || echo not found)." \
        "Name another one: make PYTHON=python3.12 ..."

exec 9<. && flock 9
ready && exit # another make did it while we waited

log=$(mktemp)
trap 'rm -f "$log"' EXIT
mapfile -t packages < <(missing_packages)
[ ${#packages[@]} -eq 0 ] || install_packages "${packages[@]}"
if ! same made_for .venv/made-for; then
    say "making .venv with $("$python" -V)"
    rm -rf .venv
    quietly "$python" -m venv .venv
    made_for >.venv/made-for
fi
say "installing Python packages to $stage"
[ "$stage" != test ] || fetch_nginx
quietly .venv/bin/pip install --disable-pip-version-check --no-input --editable ".$extras"
mkdir -p .venv/typing # mypy's view of the tree: a package has a name there, whatever this folder is called
ln -sfn ../.. .venv/typing/cloner
ln -sfn ../../tests/support ../../tests/bench .venv/typing/
if [ "$stage" = test ]; then make_debian; fi
made_from >".venv/ready-to-$stage"
