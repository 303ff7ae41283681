// Package dns is where the names of Services are answered on hosts without Kubernetes. It holds nothing itself:
//
//	zone       what names mean: Services, endpoints and pods -> records
//	resolver   the server: sockets, sizes, forwarding of all other names, cache
//
// In a Kubernetes cluster neither is used: CoreDNS stays.
package dns
