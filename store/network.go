package store

import (
	"encoding/json"
	"net/netip"
)

// Network is the cluster's network configuration, as flannel keeps it: the value of <prefix>/config in etcd, net-conf.json
// in Kubernetes. It is validated; see ParseNetwork.
type Network struct {
	EnableIPv4    bool
	EnableIPv6    bool
	IPv4          Pool
	IPv6          Pool
	BackendType   string          // Backend.Type; "udp" when there is no Backend, as flannel has it
	BackendConfig json.RawMessage // the whole Backend object
}

// Pool is a range of addresses that is divided into subnets, one a node.
type Pool struct {
	Network   netip.Prefix
	SubnetLen int        // prefix length of a node's subnet, in bits
	Min, Max  netip.Addr // base address of the first and the last subnet that may be leased
}
