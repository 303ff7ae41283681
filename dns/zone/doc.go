// Package zone says what the names of a cluster mean: it answers a question with the records that Services, their endpoints and pods stand for. It is
// pure, and its meaning is that of Kubernetes' DNS specification (github.com/kubernetes/dns, docs/specification.md); where that leaves a choice,
// CoreDNS's is taken.
//
//	store.ServiceChanges ──> Zone.Apply ─────┐
//	                                         ├──> tables, one entry a Service, a pod, an address ──> Zone.Answer <── resolver
//	store.PolicyChanges.Pods ──> Zone.ApplyPods ┘
//
//	SERVICE.NS.svc.DOMAIN               A, AAAA   its ClusterIPs; of a headless one all ready endpoints; CNAME of an ExternalName
//	ENDPOINT.SERVICE.NS.svc.DOMAIN      A, AAAA   a ready endpoint, by its hostname or else its address: 10-244-1-5
//	_PORT._PROTO.SERVICE.NS.svc.DOMAIN  SRV       each named port; of a headless Service, one for each ready endpoint
//	10-244-1-5.NS.pod.DOMAIN            A, AAAA   a pod, if there is one with that address in that namespace
//	dns-version.DOMAIN                  TXT       of the specification
//	D.C.B.A.in-addr.arpa, ip6.arpa      PTR       ClusterIPs, ready endpoints of headless Services
//
// A name without records that other names are below of (svc.DOMAIN, NS.svc.DOMAIN) exists, and has no data; what is neither does not exist. Both
// answers bear the SOA record that says for how long that may be remembered (RFC 2308). A headless Service without ready endpoints does not exist, as
// the specification wants it.
//
// An endpoint's way: its slice changes. Apply makes the entry of its one Service anew, compares which addresses have that Service's names, and
// puts what differs into the tables, where the next Answer finds it. Answers take no lock: an entry is never changed after it was
// put, only replaced. So a change costs what its Service costs, and no answer waits for it.
package zone
