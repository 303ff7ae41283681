#!/usr/bin/env bash
# Installs what the tests and benchmarks need from Debian, and nothing that is there already. Twill itself needs none of it.
# With the argument "node", what machines of Kubernetes and their images need, too (test/kubetest).
set -euo pipefail

need=()
want() { command -v "$1" >/dev/null 2>&1 || need+=("$2"); }

want gcc       gcc           # the race detector, and flanneld's udp backend, are cgo
want gcc       libc6-dev
want nft       nftables      # an independent reading of the tables that Twill writes; the reference plugins run it
want iptables  iptables      # flanneld and the reference plugins run it
want ip        iproute2      # an independent reading of links, routes, neighbours and FDB
want bridge    iproute2
want tc        iproute2
want ping      iputils-ping
want ethtool   ethtool
want conntrack conntrack     # an independent reading of connection tracking
want iperf3    iperf3        # throughput
want bird      bird2         # an independent BGP neighbour
want vtysh     frr           # another one, with BFD and a route reflector of its own
want chromium-headless-shell chromium-headless-shell # a browser, for the daemon's page
[ -e /usr/share/fonts/truetype/dejavu ] || need+=(fonts-dejavu-core) # letters for it

if [ "${1:-}" = node ]; then
	[ -e /usr/include/seccomp.h ] || need+=(libseccomp-dev) # runc is cgo
	want busybox busybox-static # a shell for images
	want curl    curl           # in the image of agnhost, as the rest
	want dig     bind9-dnsutils
	want nc      netcat-openbsd
	want socat   socat
	want wget    wget
fi

[ ${#need[@]} -eq 0 ] && exit 0
mapfile -t need < <(printf '%s\n' "${need[@]}" | sort -u)
if ! command -v apt-get >/dev/null 2>&1; then
	echo "the tests need these Debian packages or their like: ${need[*]}" >&2
	exit 1
fi
echo "installing: ${need[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Packages of daemons would start them, BIRD and FRR on the BGP port of the machine itself. The tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
	trap 'rm -f "$policy"' EXIT
fi
apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
