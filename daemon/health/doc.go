// Package health is how others see the daemon: /healthz, /readyz and Prometheus' /metrics.
//
//	node.Status ──► /healthz   200 while the loop turns; else restart the daemon
//	            └─► /readyz    200 while all peers are programmed and kernel and datastore answer; else 503 and why
//	node.Report ──► /metrics   what is desired, what is programmed, how syncs go
//
// A probe does no I/O beyond its answer: it reads what the last sync and the datastore's client left behind.
package health
