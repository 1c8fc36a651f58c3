#!/bin/sh
# A route's program for pgleap, by docs/command-route.md: HAProxy in TCP mode, by its runtime API. Needs socat, and the
# configuration of haproxy.cfg beside this file.
#
#   usage: haproxy.sh SOCKET MAP            in pgleap.toml: clients = "errors" and
#                                           command = ["…/haproxy.sh", "/run/haproxy/admin.sock", "/etc/haproxy/pgleap.map"]
#
# HAProxy knows nothing of transactions, and cannot let connections wait: in 2.6 a frontend's limit of 0 does, and raising it
# again with connections in the queue kills the process. So nothing is paused. In the write pause open connections are ended by
# pgleap's fence, new ones are refused by the server, and then the map leads them to the other one. One HAProxy: for several,
# work all of them, and say that they lead to a side only if all do.
set -eu
socket=$1 map=$2
frontend=${FRONTEND:-postgres}

read -r request
field() { printf '%s' "$request" | sed -n "s/.*$1.*/\1/p"; }
verb=$(field '"verb":"\([a-z]*\)"')
to=$(field '"to":"\([a-z]*\)"')
[ "$(field '"contract":\([0-9]*\)')" = 1 ] || { echo "this is for contract 1" >&2; exit 2; }

ask() { printf '%s\n' "$1" | socat -t 3 stdio "UNIX-CONNECT:$socket"; }
# HAProxy answers an error with success: what is done answers nothing.
tell() {
    said=$(ask "$1")
    [ -z "$said" ] || { echo "$1: $said" >&2; exit 1; }
}
led_to() { ask "show map $map" | awk '$2 == "side" { print $3 }'; }

case $verb in
    status | resume) ;;
    check)
        [ -w "$map" ] || { echo "cannot write $map" >&2; exit 1; }
        ask 'show stat' | grep -q "^${frontend}_$to,BACKEND," || { echo "no backend ${frontend}_$to" >&2; exit 1; } ;;
    repoint)
        # the file for the next start of HAProxy, the map for this one: one line each, so it is the old or the new one
        printf 'side %s\n' "$to" > "$map.next"
        mv "$map.next" "$map"
        tell "set map $map side $to" ;;
    *) echo "cannot \`$verb\`" >&2; exit 2 ;;
esac

side=$(led_to)
case $side in
    source | target) printf '{"leads_to":"%s","paused":false}\n' "$side" ;;
    *) echo "$map leads to \`$side\`" >&2; exit 1 ;;
esac
