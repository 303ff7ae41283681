// Package policy says what policies mean: NetworkPolicies (networking.k8s.io/v1) and ClusterNetworkPolicies (policy.networking.k8s.io/v1alpha2). It is
// pure and knows nothing of packets. World is the plain truth that the tests of everything else compare with; policy/filter builds what a
// kernel enforces of the same parts.
//
//	store.PolicyChanges ──> World ── Flow ──> Verdict{Egress, Ingress}, each a Decision that explains itself
//	                          │
//	                          ├─ Claimants                whose is an address?          ─┐
//	                          ├─ Select                   which policies has a pod?      ├─ policy/filter uses these, too
//	                          ├─ MatchesPeer, PortRanges  is a rule about it?            │
//	                          └─ Chain.Decide             what do all rules make of it? ─┘
//
// # A chain
//
// Each end of a connection that is a pod asks its own chain, the client's for egress and the server's for ingress, and both have to allow it:
//
//	Admin           the first rule of a ClusterNetworkPolicy that matches: Accept and Deny are final, Pass leads on
//	NetworkPolicies if one isolates the pod in this direction: allowed if a rule of any of them matches, else denied, finally
//	Baseline        like Admin; what is passed, or matched by none, is allowed
//
// Ports are those of the destination after the service proxy has chosen it; names of ports are looked up on the destination pod in both directions. Pods
// that use their node's network, and those that have ended, are not among the pods, so only address blocks mean them. What no policy can
// deny: a pod's way to its own address, and that of a node to its own pods (kubelet's probes).
//
// # One connection
//
// Pod x/a, 10.1.1.2, opens TCP port 80 of 10.1.2.3, which is y/b. No policy isolates x/a for egress, and no ClusterNetworkPolicy is about it: its
// chain is empty, and it may. y/b has two NetworkPolicies: y/closed isolates without a rule, and y/web allows the port named `http` from
// namespaces with team=x. Namespace x has the label, and y/b's port `http` is TCP 80: rule 0 of y/web matches, one is enough, and the
// connection is allowed. When the label is taken from the namespace, nothing matches, and the next connection is denied:
//
//	ingress of y/b denied: isolated by NetworkPolicy y/closed, y/web; no rule allows TCP 80 from 10.1.1.2
//
// # What is uncertain
//
// Two pods may have one address for a while, one that ended and its successor. See Claimants: what either would be denied is denied. A namespace that is
// not known yet has its name as its only label.
package policy
