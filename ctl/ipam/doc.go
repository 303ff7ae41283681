// Package ipam judges what nodes say of their pods' addresses: leaks, doubles, and what is in none of a node's ranges. It is pure; twillctl ipam asks and prints.
//
//	api.AddressReport of each node ──Check──► status.Findings, the worst first
//
// A leak, walked through: a runtime crashed, and the DEL of a pod never came. The lease is there, and so may be the record of the attachment; the network
// namespace is not. Check says so, and that the daemon releases it by itself; `twillctl ipam check --fix` has it look at once.
package ipam
