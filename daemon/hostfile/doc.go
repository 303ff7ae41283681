// Package hostfile owns the files that the daemon leaves on its host for others:
//
//	subnet.env           the node's subnets and MTU, for programs that know flannel
//	twill, twill-ipam    the plugins, in the directory where the container runtime looks for them
//	10-twill.conflist    the network configuration; a runtime that sees it starts to attach pods
//
// They are written in that order, the conflist last: it says that the node can serve, so all that it rests on must be there. Each is
// written beside its place, synced and renamed, and only when its content differs: a reader sees the old file or the
// new one, and a runtime that watches the directory is not woken for nothing.
package hostfile
