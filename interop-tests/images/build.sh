#!/bin/bash
# Builds the images of other people's routers, once.
#
#   build.sh [ROUTER…]       build what is missing or whose files changed (default: all)
#   build.sh --force …       build in any case (to get newer Debian packages)
#   build.sh --base          only the base image
#   build.sh --versions …    a table of what the images hold, from each router's own version option
#   build.sh --list          the routers
#   build.sh --image ROUTER  the image's name
#   build.sh --remove        remove the images (not the base image)
#
# Images live in podman's storage, never in the tree. Each has a label with the hash of the files it was built from;
# an image with the present hash is not built again. No service is started, neither while building nor by installing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
base=docker.io/library/debian:trixie-slim
prefix=localhost/slash32-interop
hash_label=io.slash32.containerfile
lock=/run/lock/slash32-interop-images.lock

say() { printf 'images: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

routers() { for file in "$here"/*/Containerfile; do basename "$(dirname "$file")"; done; }
image() { printf '%s/%s:trixie\n' "$prefix" "$1"; }
label() { podman image inspect --format "{{index .Labels \"$2\"}}" "$(image "$1")" 2>/dev/null || true; }

# The hash of every file the build sees: names, modes that matter (executable or not) and contents.
context_hash() {
    (
        cd "$here/$1"
        find . -type f -printf '%P\n' | LC_ALL=C sort | while read -r file; do
            printf '%s %s ' "$file" "$([[ -x $file ]] && echo x || echo -)"
            sha256sum <"$file"
        done
    ) | sha256sum | cut -d' ' -f1
}

# need COMMAND PACKAGE…: install Debian packages when the command is missing, without starting services.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null && return
    [[ $EUID == 0 ]] || die "$command is missing: install the package $1"
    command -v apt-get >/dev/null || die "$command is missing and there is no apt-get to install it with"
    say "installing $*"
    local policy=/usr/sbin/policy-rc.d made=
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        made=1
    fi
    local code=0
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >&2 || code=$?
    [[ -z $made ]] || rm -f "$policy"
    ((code == 0)) || die "could not install $*"
}

tools() {
    [[ $EUID == 0 ]] || die "needs root (the images run in network namespaces of root)"
    if ! command -v runc >/dev/null && ! command -v crun >/dev/null; then need runc runc; fi
    need podman podman netavark
    need tar tar
}

# The base image: pulled where a registry is in reach, otherwise made with debootstrap.
base_image() {
    podman image exists "$base" && return
    if timeout 300 podman pull -q "$base" >/dev/null 2>&1; then
        say "pulled $base"
        return
    fi
    need debootstrap debootstrap debian-archive-keyring
    [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || die "the package debian-archive-keyring is missing"
    say "no registry: making $base with debootstrap"
    local dir
    dir=$(mktemp -d /var/tmp/slash32-base.XXXXXX)
    # shellcheck disable=SC2064  # the directory of now
    trap "rm -rf --one-file-system '$dir'" EXIT
    debootstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg trixie "$dir/root" \
        "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$dir/log" 2>&1 || { tail -20 "$dir/log" >&2; die "debootstrap failed"; }
    # As in the published image: packages start no services, and bring no documentation.
    printf '#!/bin/sh\nexit 101\n' >"$dir/root/usr/sbin/policy-rc.d"
    chmod +x "$dir/root/usr/sbin/policy-rc.d"
    printf 'path-exclude /usr/share/%s/*\n' doc man info locale >"$dir/root/etc/dpkg/dpkg.cfg.d/slim"
    rm -rf "$dir"/root/var/lib/apt/lists/* "$dir"/root/var/cache/apt/archives/*.deb "$dir"/root/usr/share/{doc,man,info,locale}/*
    tar -C "$dir/root" -c . | podman import -q -c 'CMD ["bash"]' - "$base" >/dev/null
    rm -rf --one-file-system "$dir"
    trap - EXIT
}

build() {
    local router=$1 hash log
    hash=$(context_hash "$router")
    if [[ -z $force && $(label "$router" "$hash_label") == "$hash" ]]; then
        return
    fi
    base_image
    say "building $(image "$router")"
    log=$(mktemp)
    # The chroot isolation needs no cgroups and no OCI runtime, so it works where containers are already restricted.
    if ! nice podman build --isolation chroot --network host --no-cache --pull=never \
        --label "$hash_label=$hash" -t "$(image "$router")" "$here/$router" >"$log" 2>&1; then
        tail -40 "$log" >&2
        rm -f "$log"
        die "building $router failed"
    fi
    rm -f "$log"
}

# Runs a command in an image without a network: in_image ROUTER COMMAND…
in_image() {
    local router=$1 command=$2 machine
    shift 2
    mapfile -t machine < <("$here/run.sh" flags)
    podman run --rm "${machine[@]}" --network none --entrypoint "$command" "$(image "$router")" "$@" 2>&1
}

# Versions are what the router itself prints: the first thing that looks like one. A router that does not start, or
# prints none, makes the whole command fail.
versions() {
    local router command output version package failed=0
    printf '%-10s %-10s %-26s %s\n' ROUTER VERSION PACKAGE IMAGE
    for router in "$@"; do
        podman image exists "$(image "$router")" || { printf '%-10s not built\n' "$router"; failed=1; continue; }
        read -ra command <<<"$(label "$router" io.slash32.router.version)"
        package=$(label "$router" io.slash32.router.package)
        output=$(in_image "$router" "${command[@]}") || true
        version=$(grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)*' <<<"$output" | head -1) || true
        [[ -n $version ]] || { say "$router: ${command[*]}: $output"; version="?"; failed=1; }
        printf '%-10s %-10s %-26s %s\n' "$router" "$version" \
            "$package $(in_image "$router" dpkg-query -W -f "\${Version}" "$package")" "$(image "$router")"
    done
    return "$failed"
}

force='' action=build wanted=()
while (($#)); do
    case $1 in
        --force) force=1 ;;
        --base | --versions | --list | --image | --remove) action=${1#--} ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        -*) die "unknown option $1" ;;
        *) [[ -e $here/$1/Containerfile ]] || die "no router $1 (known: $(routers | xargs))"; wanted+=("$1") ;;
    esac
    shift
done
((${#wanted[@]})) || mapfile -t wanted < <(routers)

case $action in
    list) routers ;;
    image) for router in "${wanted[@]}"; do image "$router"; done ;;
    versions) tools && versions "${wanted[@]}" ;;
    remove)
        for router in "${wanted[@]}"; do
            ! podman image exists "$(image "$router")" || podman rmi -f "$(image "$router")" >/dev/null
        done
        ;;
    *)
        # One at a time: two test runs that start together share the work instead of doing it twice.
        exec 9>"$lock"
        flock 9
        tools
        if [[ $action == base ]]; then base_image; else for router in "${wanted[@]}"; do build "$router"; done; fi
        ;;
esac
