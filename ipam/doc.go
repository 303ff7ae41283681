// Package ipam holds the words and rules of address management on one node: the configuration, ranges of addresses, leases and
// the form in which a lease is stored. It does no I/O; ipam/filestore keeps leases on disk and allocates, and
// ipam/twill-ipam puts the CNI protocol in front of that.
//
//	network configuration --ParseConfig--> Config{Sets: [[range, range], [range]]}
//	                                                 |              |
//	Request{Owner, IPs} --filestore.Allocate--> one address of each set --> Lease --EncodeLease--> record
//
// A range set is a list of ranges of one family; a lease holds one address of each set, so two sets, one of IPv4 and one of IPv6, make
// a pod dual-stack. An owner is one interface of one container, not a pod: a pod that is recreated under the same name
// has another container id and never shares a lease with its predecessor.
//
// The keys of the "ipam" object are those of the reference host-local plugin, hostLocalDir and quarantine. Any other key is an error.
//
//	key          default             meaning
//	type         -                   name of the plugin, twill-ipam
//	ranges       -                   list of range sets: [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}]]
//	  subnet     -                   network in CIDR notation without host bits
//	  rangeStart first host address  first address to hand out
//	  rangeEnd   last host address   last address to hand out
//	  gateway    first host address  gateway of the subnet; never handed out. A /32 and a /128 have none
//	subnet, rangeStart, rangeEnd, gateway
//	             -                   one range set of one range, the old form; comes before those of ranges
//	routes       none                [{"dst", "gw", "mtu", "advmss", "priority", "table", "scope"}] for the result
//	dataDir      /run/twill/ipam     where leases are kept, in a directory for each network; absolute
//	resolvConf   none                file in the format of resolv.conf(5) that the result's DNS is taken from
//	hostLocalDir none                dataDir of a host-local that gave out addresses of these ranges before; what its networks hold is
//	                                 passed over, so that pods which it attached keep their addresses. Absolute
//	quarantine   30                  seconds for which a released address rests while another is free, 0 to 86400
//
// Beside it, runtimeConfig.ipRanges adds range sets, and runtimeConfig.ips, args.cni.ips and IP= in CNI_ARGS ask for addresses.
//
// Network and broadcast addresses of IPv4 and the subnet-router anycast address of IPv6 (RFC 4291, 2.6.1) are in no range; in a /31
// (RFC 3021) and a /127 (RFC 6164) both addresses are hosts'.
package ipam
