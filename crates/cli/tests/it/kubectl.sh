#!/bin/sh
# Stands in for kubectl and the cluster behind it: one Deployment of one pod, which is a PgBouncer of this machine, and one ConfigMap,
# which is a file. Understands what examples/route/kubernetes.sh says, and refuses everything else.
#
# CLUSTER is a directory with: configmap.json, deployment.json, pod (its name; missing while none runs), and start and stop, which
# are the kubelet's hands. `exec` reaches the console by CONSOLE.
set -eu
cd "$CLUSTER"
exec 9> lock
flock 9

# The controller: a new template replaces the pod.
if [ "$*" = controller ]; then
    rm -f pod
    ./stop
    # a pod lives on, and must not keep the lock
    ./start "$(jq -r .data.host configmap.json)" "$(jq -r .data.port configmap.json)" 9>&-
    # postStart
    if [ "$(jq -r .data.paused configmap.json)" = yes ]; then psql "$CONSOLE" -Xqc 'PAUSE shop'; fi
    echo "pod/pgbouncer-$(jq .metadata.generation deployment.json)" > pod
    jq '.status.observedGeneration = .metadata.generation' deployment.json > next && mv next deployment.json
    exit
fi

[ "$1 $2 $3" = "--namespace databases --request-timeout=4s" ] || { echo "not understood: $*" >&2; exit 2; }
shift 3
case "$*" in
    "get pods -l app=pgbouncer --field-selector=status.phase=Running -o name") [ ! -e pod ] || cat pod ;;
    "get deployment pgbouncer -o json") cat deployment.json ;;
    "get configmap pgbouncer -o jsonpath={.data.host}:{.data.port}") jq -j '.data.host + ":" + .data.port' configmap.json ;;
    "auth can-i patch configmap/pgbouncer" | "auth can-i patch deployment/pgbouncer") echo yes ;;
    "patch configmap pgbouncer --type merge -p "*)
        jq --argjson patch "$7" '. * $patch' configmap.json > next && mv next configmap.json ;;
    "patch deployment pgbouncer --type strategic -p "*)
        jq --argjson patch "$7" '
            .spec.template as $before | . * $patch
            | if .spec.template == $before then . else .metadata.generation += 1 end' deployment.json > next
        if ! cmp -s next deployment.json; then
            mv next deployment.json
            # whoever asked does not wait for it, and does not take it along when killed
            setsid "$0" controller </dev/null >>controller.log 2>&1 9>&- &
        fi ;;
    "exec pod/pgbouncer-"*" -c pgbouncer -- psql -XqA -F | -h 127.0.0.1 -p 6432 -U pgbouncer -d pgbouncer -c "*)
        [ "$2" = "$(cat pod)" ] || { echo "pods \"$2\" not found" >&2; exit 1; }
        for sql; do :; done
        # what waits in a pod keeps nobody from the cluster
        exec 9>&-
        psql "$CONSOLE" -XqA -F '|' -c "$sql" ;;
    *) echo "not understood: $*" >&2; exit 2 ;;
esac
