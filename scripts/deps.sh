#!/bin/bash
# Installs what is missing for a purpose, on Debian and Ubuntu; elsewhere says what is missing.
#
#   scripts/deps.sh [build|demo|test|bird|frr|gobgp|containerd|podman|bench]...
#
# What is there already, from whatever source, is left alone. No service is started, now or at the next boot.
set -euo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# command or file : Debian package
build="cc:gcc /usr/include/stdio.h:libc6-dev"
demo="ip:iproute2 unshare:util-linux ping:iputils-ping nft:nftables"
bird="bird:bird2 birdc:bird2"
frr="/usr/lib/frr/bgpd:frr vtysh:frr"
gobgp="gobgpd:gobgpd gobgp:gobgpd"
containerd="containerd:containerd ctr:containerd runc:runc"
podman="podman:podman runc:runc"
bench="/usr/lib/cni/ptp:containernetworking-plugins /usr/lib/cni/host-local:containernetworking-plugins iperf3:iperf3"
test="$build $demo tcpdump:tcpdump $bird $frr $gobgp $containerd $podman $bench iptables:iptables ps:procps"

say() { printf 'deps: %s\n' "$*" >&2; }

missing=() packages=()
for purpose in "$@"; do
  case $purpose in
    build|demo|bird|frr|gobgp|containerd|podman|bench|test) ;;
    slash32) continue ;;
    *) say "unknown purpose: $purpose"; exit 2 ;;
  esac
  for pair in ${!purpose}; do
    command=${pair%%:*} package=${pair#*:}
    if ! { [[ $command == /* && -e $command ]] || command -v "$command" >/dev/null; }; then
      missing+=("$command")
      [[ " ${packages[*]-} " == *" $package "* ]] || packages+=("$package")
    fi
  done
done

if ! command -v cargo >/dev/null; then
  say "cargo is missing: install a Rust toolchain, for example with https://rustup.rs"
  exit 1
fi
(( ${#missing[@]} )) || exit 0
say "missing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
  say "this is not Debian or Ubuntu: install what these Debian packages hold: ${packages[*]}"
  exit 1
fi
if (( $(id -u) )); then
  say "not root: run  sudo apt-get install --no-install-recommends ${packages[*]}"
  exit 1
fi

# While packages are being installed, nothing is started (Debian policy 9.3.3.2).
guard=/usr/sbin/policy-rc.d
if [[ ! -e $guard ]]; then
  trap 'rm -f "$guard"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$guard"
  chmod 755 "$guard"
fi
install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "${packages[@]}" >/dev/null
}
say "installing ${packages[*]}"
if ! install 2>/dev/null; then
  say "refreshing the package lists"
  apt-get update -qq -o DPkg::Lock::Timeout=300
  install
fi
# Nor at the next boot: these packages bring units that are enabled by default.
if [[ -d /run/systemd/system ]]; then
  for unit in bird frr gobgpd containerd nftables; do
    if [[ " ${packages[*]} " == *" $unit"* ]] && systemctl cat "$unit" >/dev/null 2>&1; then
      systemctl disable -q "$unit" || true
    fi
  done
fi
