#!/bin/sh
# Does what flannel's CNI plugin does (github.com/flannel-io/cni-plugin), for the configuration that flannel's manifest has: has the plugin bridge
# attach the pod, with addresses that host-local gives out of the node's subnets. How it did is kept until the pod is removed.
set -eu
kept=/var/lib/cni/flannel
case $CNI_COMMAND in
ADD)
	. /run/flannel/subnet.env
	ranges= routes=
	if [ -n "${FLANNEL_SUBNET:-}" ]; then
		ranges="[{\"subnet\": \"$(echo "$FLANNEL_SUBNET" | sed 's|\.1/|.0/|')\"}]"
		routes="{\"dst\": \"$FLANNEL_NETWORK\"}"
	fi
	if [ -n "${FLANNEL_IPV6_SUBNET:-}" ]; then
		ranges="${ranges:+$ranges, }[{\"subnet\": \"$(echo "$FLANNEL_IPV6_SUBNET" | sed 's|::1/|::/|')\"}]"
		routes="${routes:+$routes, }{\"dst\": \"$FLANNEL_IPV6_NETWORK\"}"
	fi
	masquerade=true # somebody has to
	[ "$FLANNEL_IPMASQ" = true ] && masquerade=false
	mkdir -p $kept
	cat >"$kept/$CNI_CONTAINERID" <<END
{
  "cniVersion": "0.3.1", "name": "cbr0", "type": "bridge",
  "hairpinMode": true, "isDefaultGateway": true, "isGateway": true, "ipMasq": $masquerade, "mtu": $FLANNEL_MTU,
  "ipam": {"type": "host-local", "ranges": [$ranges], "routes": [$routes]}
}
END
	exec "$CNI_PATH/bridge" <"$kept/$CNI_CONTAINERID"
	;;
DEL)
	[ -e "$kept/$CNI_CONTAINERID" ] || exit 0
	"$CNI_PATH/bridge" <"$kept/$CNI_CONTAINERID"
	rm -f "$kept/$CNI_CONTAINERID"
	;;
VERSION)
	exec "$CNI_PATH/bridge"
	;;
esac
