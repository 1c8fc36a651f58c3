#!/bin/sh
# A route's program for pgleap, by docs/command-route.md: PgBouncer in Kubernetes, with its pgbouncer.ini in a ConfigMap, led
# elsewhere by a rollout of its Deployment. Needs kubectl and jq.
#
#   usage: kubernetes.sh NAMESPACE DEPLOYMENT CONFIGMAP      in pgleap.toml: clients = "reconnect"
#
# NOT TESTED against a cluster: pgleap's tests have none. It was looked at by shellcheck; try it with `pgleap route-check` on a
# Deployment that nobody uses. Written for: a ConfigMap whose keys `host` and `port` become PgBouncer's environment (or are
# put into its ini by an init container), and containers named `pgbouncer` with psql, whose admin console is at 127.0.0.1:6432
# for the role `pgbouncer`.
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
console() { k exec "$1" -c pgbouncer -- psql -XqAt -h 127.0.0.1 -p 6432 -U pgbouncer -d pgbouncer -c "$2"; }
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
# Paused is what the pods say; those of a rollout were never paused.
paused() {
    for pod in $(pods); do
        console "$pod" 'SHOW STATE' | grep -qx 'paused' && { echo true; return; }
    done
    echo false
}

case $verb in
    status | drain) ;;
    check)
        for what in "configmap/$configmap" "deployment/$deployment"; do
            k auth can-i patch "$what" >/dev/null || { echo "may not patch $what" >&2; exit 1; }
        done ;;
    pause)
        # PAUSE waits for transactions under way: what it does not end in time the fence ends
        for pod in $(pods); do console "$pod" 'PAUSE' </dev/null >/dev/null 2>&1 & done
        until [ "$(paused)" = true ]; do sleep 0.1; done ;;
    repoint)
        if [ "$(led_to)" != "$to" ]; then
            k patch configmap "$configmap" --type merge \
                -p "{\"data\":{\"host\":\"$(get ".$to.host")\",\"port\":\"$(get ".$to.port")\"}}" >/dev/null
        fi
        # the template says which side it was made for: a rollout that was begun is not begun again
        k patch deployment "$deployment" --type strategic \
            -p "{\"spec\":{\"template\":{\"metadata\":{\"annotations\":{\"pgleap/leads-to\":\"$to\"}}}}}" >/dev/null
        rolled_out || { echo "the rollout is under way" >&2; exit 75; } ;;
    resume)
        for pod in $(pods); do console "$pod" 'RESUME' >/dev/null 2>&1 || :; done ;;
    *) echo "cannot \`$verb\`" >&2; exit 2 ;;
esac
side=$(led_to)
printf '{"leads_to":"%s","paused":%s}\n' "$side" "$(paused)"
