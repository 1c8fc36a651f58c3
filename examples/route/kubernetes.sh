#!/bin/sh
# A route's program for pgleap, by docs/command-route.md: PgBouncer in Kubernetes, led elsewhere by a ConfigMap and a rollout of
# its Deployment. Needs kubectl and jq.
#
#   usage: kubernetes.sh NAMESPACE DEPLOYMENT CONFIGMAP      in pgleap.toml: clients = "reconnect"
#
# Written for: pods labelled `app=DEPLOYMENT` with a container `pgbouncer` that has psql and an admin console at 127.0.0.1:6432
# for the role `pgbouncer`; a ConfigMap with the keys `host` and `port`, which become its server's, and `paused`, `yes` or `no`.
# A pod that starts while that says `yes` must pause before it is ready, or its clients would not wait for the new side:
#
#   env: [{ name: PAUSED, valueFrom: { configMapKeyRef: { name: CONFIGMAP, key: paused } } }]
#   lifecycle: { postStart: { exec: { command: [sh, -c,
#     '[ "$PAUSED" = no ] || until psql -h 127.0.0.1 -p 6432 -U pgbouncer -d pgbouncer -c "PAUSE orders"; do sleep 0.1; done'] } } }
#
# pgleap's tests switch over with it, with a kubectl that stands in for a cluster; it was never tried against a real one. Try it
# with `pgleap route-check` on a Deployment that nobody uses.
#
# A rollout replaces every pod, so clients lose their connections, and it takes as long as your pods take to start: longer than
# one run of this may. `repoint` begins it, and then exits with 75 ("ask again") until it is done; by then the decision is taken,
# and clients wait or try again. If that is too long, let two Deployments run side by side and lead the Service from one to the
# other by its selector: that takes no time.
set -eu
namespace=$1 deployment=$2 configmap=$3

request=$(cat)
get() { printf '%s' "$request" | jq -r "$1 // empty"; }
verb=$(get .verb) to=$(get .to)
[ "$(get .contract)" = 1 ] || { echo "this is for contract 1" >&2; exit 2; }

k() { kubectl --namespace "$namespace" --request-timeout=4s "$@"; }
at() { get ".$1.host + \":\" + (.$1.port | tostring)"; }
pods() { k get pods -l "app=$deployment" --field-selector=status.phase=Running -o name; }
console() { k exec "$1" -c pgbouncer -- psql -XqA -F '|' -h 127.0.0.1 -p 6432 -U pgbouncer -d pgbouncer -c "$2"; }
tell_configmap() { k patch configmap "$configmap" --type merge -p "{\"data\":{$1}}" >/dev/null; }
# The pods' number, those of the newest template, and those that are ready, must be the same.
rolled_out() {
    k get deployment "$deployment" -o json | jq -e '
        .status.observedGeneration == .metadata.generation and .status.updatedReplicas == .spec.replicas
        and .status.readyReplicas == .spec.replicas and .status.replicas == .spec.replicas' >/dev/null
}
led_to() {
    place=$(k get configmap "$configmap" -o jsonpath='{.data.host}:{.data.port}')
    case $place in
        "$(at source)") echo source ;;
        "$(at target)") echo target ;;
        *) echo "the ConfigMap leads to $place" >&2; exit 1 ;;
    esac
}
# Lines of `pod database paused`, of every pod that runs: columns are found by their names, as their places differ by version.
databases() {
    for pod in $(pods); do
        console "$pod" 'SHOW DATABASES' | awk -F '|' -v pod="$pod" '
            NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
            NF > 3 && $at["name"] != "pgbouncer" { print pod, $at["name"], $at["paused"] }'
    done
}
# Clients wait if they do at one of them.
paused() { databases | awk '$3 == 1 { n++ } END { print n ? "true" : "false" }'; }
all_paused() { ! databases | awk '$3 != 1' | grep -q .; }

case $verb in
    status) ;;
    check)
        for what in "configmap/$configmap" "deployment/$deployment"; do
            k auth can-i patch "$what" >/dev/null || { echo "may not patch $what" >&2; exit 1; }
        done ;;
    pause)
        # first what pods that start from now on are told
        tell_configmap '"paused":"yes"'
        databases | awk '$3 != 1' | while read -r pod database _; do
            # PAUSE waits for transactions under way: what it does not end in time the fence ends
            console "$pod" "PAUSE \"$database\"" </dev/null >/dev/null 2>&1 &
        done
        until all_paused; do sleep 0.1; done ;;
    repoint)
        if [ "$(led_to)" != "$to" ]; then
            tell_configmap "\"host\":\"$(get ".$to.host")\",\"port\":\"$(get ".$to.port")\""
        fi
        # the template says which side it was made for: a rollout that was begun is not begun again
        k patch deployment "$deployment" --type strategic \
            -p "{\"spec\":{\"template\":{\"metadata\":{\"annotations\":{\"pgleap/leads-to\":\"$to\"}}}}}" >/dev/null
        rolled_out || { echo "the rollout is under way" >&2; exit 75; } ;;
    resume)
        tell_configmap '"paused":"no"'
        databases | awk '$3 == 1' | while read -r pod database _; do
            console "$pod" "RESUME \"$database\"" </dev/null >/dev/null
        done ;;
    *) echo "cannot \`$verb\`" >&2; exit 2 ;;
esac
side=$(led_to)
printf '{"leads_to":"%s","paused":%s}\n' "$side" "$(paused)"
