package proxy

import "strings"

// difference names a probe of the table, with the family of its address.
type difference struct{ scenario, from, to string }

// reason is what kube-proxy does, and why Twill does not.
type reason struct{ kubeProxy, why string }

// differences are all packets that Twill treats in another way than kube-proxy 1.37 does. docs/service-proxy.md says the same in prose.
var differences = map[difference]reason{
	{"source ranges of one family", "out1", "tcp $lb6:80"}: {"a~ c~", "ranges without a network of IPv6 let nobody in by IPv6: who lists " +
		"the clients that may come does not mean to open the door to all others"},
	{"affinity for a second", "b", "forgets $vip4:80"}: {another, hashed},
	{"affinity for a second", "b", "forgets $vip6:80"}: {another, hashed},
}

// refusedLate reports whether kube-proxy may let the client of a probe wait for a second: it refuses TCP connections with an ICMP message, which a client on
// IPv6 does not hear while it is still at sending its first packet. Twill sends a TCP reset, which ends every client's attempt at once.
func refusedLate(p probe) bool { return strings.HasPrefix(p.to, "tcp [") }

const hashed = "the first choice for a client is made by its address, so that it is the same after a pause, on every node, and when there is no room to " +
	"remember the client; affinity's timeout says for how long a client stays where it is although the endpoints change"
