// Package matrix measures who reaches whom in a lab, and prints it as a table or as JSON.
//
//	lab -> probes: pod to pod, node to pod, pod to its gateway  -> Run: ICMP echo from inside each namespace -> Report
package matrix
