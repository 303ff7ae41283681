// Package live is for tests that carry out plans with the real speaker, against BIRD and FRR in network namespaces:
//
//	docs/bgp.md ─ config ─> topology.Make ─ Instance ─> gobgp.Speaker <── BGP, BFD ──> FRR, BIRD
//
// It runs the example of docs/bgp.md as it is printed there, and a node that becomes a reflector among two others.
package live
