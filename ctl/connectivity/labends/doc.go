// Package labends is a lab as package connectivity sees it: pods of the test's own, attached to each node by the CNI plugin, with servers and Services.
//
//	Open   what the daemons say is on ─► two pods a node ─► a server in each ─► their Services ─► connectivity.Topology
//	Close  policies, Services, servers, pods; also of a test that was killed, when the next one begins
//
// The pods are in a namespace of their own, so that no policy of the test concerns anybody else, and nobody else's policy but those of the whole cluster concerns the test.
package labends
