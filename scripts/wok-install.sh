#!/usr/bin/env bash
# Puts the plugin into a Wok: `make wok-install WOK=DIR`, DIR being Wok's Python package, which has `plugins` in it. Done
# again it updates the plugin, and leaves its configuration as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "cloner: $*"; }
fail() { say "$@" >&2 && exit 1; }

wok=${1:-}
python=${WOK_PYTHON:-python3} # the one that runs Wok
[ -n "$wok" ] || fail "say where Wok's Python package is: make wok-install WOK=/usr/lib/python3/dist-packages/wok"
[ -d "$wok/plugins" ] || fail "there is no Wok in $wok: it has no folder plugins"
wok=$(readlink -f "$wok")
plugin=$wok/plugins/cloner
[ ! . -ef "$plugin" ] || fail "this folder is the plugin there already: bring it up to date as it is, and restart Wok"

# Where Wok looks for the plugin's configuration and for its tab: the plugin's folder, unless a distribution packages Wok.
paths='import sys; sys.path.insert(0, sys.argv[1]); from wok.config import PluginPaths; p = PluginPaths("cloner"); print(p.conf_file); print(p.ui_dir)'
ask() { "$python" -c "$paths" "$(dirname "$wok")"; }
mapfile -t found < <(ask 2>/dev/null)
[ "${#found[@]}" = 2 ] ||
    say "$python cannot ask Wok where it looks for the configuration, which is taken to be the plugin's folder: $(ask 2>&1 | tail -n 1)"
conf=${found[0]:-$plugin/cloner.conf}
ui=${found[1]:-$plugin/ui}

# A new folder beside the old one, so that the plugin is never there in part.
new=$(mktemp -d "$wok/plugins/.cloner-XXXXXX")
old=$new.old
clean_up() {
    [ -e "$plugin" ] || [ ! -e "$old" ] || mv "$old" "$plugin"
    rm -rf "$new" "$old"
}
trap clean_up EXIT
parts=(ANSWERS.json API.json LICENSE README.md cloner.conf py.typed ./*.py)
for part in */__init__.py demo/ ui/; do
    case $part in tests/* | scripts/* | docs/*) ;; *) parts+=("${part%/*}") ;; esac
done
cp -R "${parts[@]}" "$new"
find "$new" -name __pycache__ -prune -exec rm -rf {} +
chmod -R u=rwX,go=rX "$new"
[ "$conf" != "$plugin/cloner.conf" ] || [ ! -f "$conf" ] || cp -a --remove-destination "$conf" "$new/cloner.conf"

[ ! -e "$plugin" ] || mv "$plugin" "$old"
mv "$new" "$plugin"

if [ ! -f "$conf" ]; then
    mkdir -p "$(dirname "$conf")"
    install -m 644 cloner.conf "$conf"
fi
if [ "$ui" != "$plugin/ui" ]; then
    mkdir -p "$(dirname "$ui")"
    ln -sfn "$plugin/ui" "$ui"
fi
missing=$("$python" - <<'PY'
from importlib.util import find_spec
names = {"cherrypy": "python3-cherrypy3", "jsonschema": "python3-jsonschema", "libvirt": "python3-libvirt", "lxml": "python3-lxml"}
print(*[package for name, package in names.items() if not find_spec(name)])
PY
)
[ -z "$missing" ] || say "$python has not all that the plugin needs; by Debian's names: $missing"
"$python" -c 'import sys, sqlalchemy; sys.exit(int(sqlalchemy.__version__.split(".")[0]) < 2)' 2>/dev/null ||
    say "$python needs SQLAlchemy 2: $python -m pip install 'SQLAlchemy>=2.0'"
say "the plugin is in $plugin, its configuration in $conf. Restart Wok"
