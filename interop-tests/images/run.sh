#!/bin/bash
# Runs one router image in a network namespace that exists already.
#
#   run.sh start [-d] [-e KEY=VALUE]… NAME ROUTER NETNS CONFIG [ARGUMENT…]
#       NAME     of the container (start it with a prefix of your own)
#       ROUTER   as `build.sh --list` says
#       NETNS    a name in /run/netns, or the path of a namespace (/proc/PID/ns/net)
#       CONFIG   a directory, mounted read-only on /config, or one file, mounted there under the name the router reads
#       In the foreground with the router's log on stdout, until the router ends or SIGINT or SIGTERM comes, which the
#       router gets too. With -d in the background; `run.sh logs`. Arguments go to the router.
#   run.sh exec NAME COMMAND…   a command in the container (birdc, vtysh, gobgp, bgpctl, exabgpcli)
#   run.sh pid NAME [COMMAND]   the host's process id of the container's first process, or of the one called COMMAND
#   run.sh signal NAME SIGNAL   to the first process: HUP reloads where the router can, KILL is a crash
#   run.sh logs NAME [-f]
#   run.sh stop NAME…           ends it (TERM, 3 s later KILL) and removes it; no error when there is none
#   run.sh clean PREFIX         the same for every container of ours whose name begins with PREFIX
#   run.sh flags                the options of `podman run` that fit this machine (environment: ROUTER_RUNTIME)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ours=io.slash32.interop

say() { printf 'run.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

# What every `podman run` needs on this machine, one word a line.
# runc before crun: crun refuses machines with cgroup v1 and v2 mixed.
# The limits never exceed the caller's: podman's defaults do, and raising them needs a capability that may be missing.
flags() {
    local runtime=${ROUTER_RUNTIME:-}
    [[ -n $runtime ]] || runtime=$(command -v runc || command -v crun) || die "neither runc nor crun is installed"
    printf '%s\n' --runtime "$runtime" --pull never
    local files processes
    files=$(at_most 65536 "$(ulimit -Hn)")
    processes=$(at_most 4096 "$(ulimit -Hu)")
    printf '%s\n' --ulimit "nofile=$files:$files" --ulimit "nproc=$processes:$processes"
}

at_most() { if [[ $2 == unlimited ]] || (($2 > $1)); then echo "$1"; else echo "$2"; fi; }

start() {
    local detach=() env=()
    while [[ ${1:-} == -* ]]; do
        case $1 in
            -d) detach=(-d) ;;
            -e) env+=(-e "${2:?-e needs KEY=VALUE}"); shift ;;
            *) die "unknown option $1" ;;
        esac
        shift
    done
    (($# >= 4)) || { usage >&2; exit 2; }
    local name=$1 router=$2 netns=$3 config=$4 image
    shift 4
    image=$("$here/build.sh" --image "$router")
    podman image exists "$image" || die "$image is not built: run build.sh $router"
    [[ $netns == /* ]] || netns=/run/netns/$netns
    [[ -e $netns ]] || die "no network namespace $netns"
    config=$(realpath -e "$config")
    local target=/config
    [[ -d $config ]] || target=/config/$(podman image inspect --format '{{index .Labels "io.slash32.router.config"}}' "$image")

    # podman's default sysctls are not for the host's own namespace, and it knows that only by this name.
    local network=ns:$netns
    [[ ! $netns -ef /proc/self/ns/net ]] || network=host

    # The container shares nothing but the network namespace, whose owner sets its sysctls. zebra asks for SYS_ADMIN.
    local machine
    mapfile -t machine < <(flags)
    exec podman run --rm "${detach[@]}" "${machine[@]}" --name "$name" --hostname "$name" --label "$ours=$router" \
        --network "$network" --no-hosts --cap-add NET_ADMIN,NET_RAW,SYS_ADMIN "${env[@]}" -v "$config:$target:ro" \
        "$image" "$@"
}

pid_of() {
    local name=$1 command=${2:-} first
    first=$(podman inspect --format '{{.State.Pid}}' "$name")
    [[ -n $command ]] || { echo "$first"; return; }
    # All processes of the container are descendants of its first one.
    podman top "$name" hpid comm | awk -v want="$command" '$2 == want { print $1; found = 1; exit } END { exit !found }' ||
        die "no process $command in $name"
}

stop() { (($# == 0)) || podman rm -f -t 3 -i "$@" >/dev/null; }

verb=${1:-}
shift || true
case $verb in
    start) start "$@" ;;
    exec) exec podman exec "$@" ;;
    pid) pid_of "$@" ;;
    signal) podman kill -s "${2:?signal}" "${1:?name}" >/dev/null ;;
    logs) name=${1:?name}; shift; exec podman logs "$@" "$name" ;;
    stop) stop "$@" ;;
    clean)
        [[ -n ${1:-} ]] || die "clean needs a prefix"
        mapfile -t found < <(podman ps -a --filter "label=$ours" --format '{{.Names}}' | awk -v prefix="$1" 'index($0, prefix) == 1')
        stop "${found[@]}"
        ;;
    flags) flags ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 2 ;;
esac
