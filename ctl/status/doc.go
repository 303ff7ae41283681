// Package status judges what nodes say of themselves: what is wrong with them, and what to do next. It is pure; twillctl status asks and prints.
//
//	api.NodeStatus of each node ──Judge──► Findings, the worst first: what, and the mend
//
// Each rule looks at one thing, of one node (ofNode) or of all (ofCluster), and says it in one line that names the node, the thing, what it breaks, and a command.
// A node whose datastore is away is walked through: its daemon answers, /readyz says no with "datastore: ...". Judge finds the datastore's error,
// which explains the readiness, so the reason is not said twice; it says that pods keep their network meanwhile, and what to look at.
package status
