#!/bin/sh
# A route's program for pgleap, by docs/command-route.md: one PgBouncer, by its admin console and its ini.
#
#   usage: pgbouncer.sh CONNINFO INI        in pgleap.toml: command = ["…/pgbouncer.sh", "host=… port=6432 user=…
#                                           dbname=pgbouncer passfile=…", "/etc/pgbouncer/pgbouncer.ini"]
#
# pgleap knows PgBouncer by itself (kind = "pgbouncer"), and better. This is here to be read and changed: it is the
# smallest program that keeps the whole contract with something real, and pgleap's tests switch over with it.
# Needs psql. Entries must name the servers as pgleap.toml does.
set -eu
console=$1 ini=$2
psql=${PSQL:-psql}

read -r request
field() { printf '%s' "$request" | sed -n "s/.*$1.*/\1/p"; }
verb=$(field '"verb":"\([a-z]*\)"')
source=$(field '"source":{"host":"\([^"]*","port":[0-9]*\)}')
target=$(field '"target":{"host":"\([^"]*","port":[0-9]*\)}')
to=$(field '"to":"\([a-z]*\)"')
[ "$(field '"contract":\([0-9]*\)')" = 1 ] || { echo "this is for contract 1" >&2; exit 2; }
place() { printf '%s\n' "$1" | sed 's/","port":/|/'; }
source=$(place "$source") target=$(place "$target")

ask() { "$psql" -XqA -F '|' -d "$console" -c "$1"; }

# Lines of `entry host|port paused`: columns are found by their names, as their places differ by version.
entries() {
    ask 'SHOW DATABASES' | awk -F '|' -v source="$source" -v target="$target" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        NF > 3 && $at["name"] != "pgbouncer" {
            where = $at["host"] "|" $at["port"]
            if (where == source || where == target) print $at["name"], where, $at["paused"]
        }'
}

# Every answer says how things are now. Entries that disagree are paused if one of them is, and at the source if one is.
answer() {
    entries | awk -v source="$source" '
        $2 == source { side = "source" }
        $3 == 1 { paused = 1 }
        { n++ }
        END {
            if (!n) { print "no entry leads to source or target" > "/dev/stderr"; exit 1 }
            printf "{\"leads_to\":\"%s\",\"paused\":%s}\n", side ? side : "target", paused ? "true" : "false"
        }'
}

# until TRUTH: looks until it holds. pgleap kills this when the time is over, so it need not count.
until_true() { while ! "$@"; do sleep 0.01; done; }
all_paused() { ! entries | awk '$3 != 1' | grep -q .; }
none_under_way() {
    ! ask 'SHOW POOLS' | awk -F '|' '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i ~ /^sv_/) server[i] = 1; next }
        NF > 3 && $1 != "pgbouncer" { for (i in server) if ($i > 0) print }' | grep -q .
}

case $verb in
    status) ;;
    check) [ -w "$ini" ] || { echo "cannot write $ini" >&2; exit 1; } ;;
    pause)
        for entry in $(entries | awk '$3 != 1 { print $1 }'); do
            # PAUSE answers when no transaction is under way; new ones wait from the beginning
            ask "PAUSE \"$entry\"" </dev/null >/dev/null 2>&1 &
        done
        until_true all_paused ;;
    drain) until_true none_under_way ;;
    repoint)
        if [ "$to" = target ]; then from=$source into=$target; else from=$target into=$source; fi
        # a reader sees the old file or the new one; owner and mode are kept
        cp -p "$ini" "$ini.next"
        sed "/^[^;#]*=/s/host=${from%|*} port=${from#*|}\\([^0-9]\\)/host=${into%|*} port=${into#*|}\\1/" "$ini" > "$ini.next"
        mv "$ini.next" "$ini"
        ask RELOAD >/dev/null ;;
    resume)
        for entry in $(entries | awk '$3 == 1 { print $1 }'); do
            ask "RESUME \"$entry\"" >/dev/null
        done ;;
    *) echo "cannot \`$verb\`" >&2; exit 2 ;;
esac
answer
