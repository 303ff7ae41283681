// Package host looks at a host for package check: at the kernel by netlink and /proc, at files of the CNI. It runs no program and changes nothing.
//
//	Look ── kernel/linux, kernel/nft ──► links, chains, features
//	     ── /proc ─────────────────────► sysctls, sockets and whose they are, tables of iptables-legacy
//	     ── files ─────────────────────► network configurations, plugins, subnet.env
//
// All of it is of the network namespace of the calling thread, but for the files and the programs. A part that cannot be looked at is told as such
// (Facts.Unknown), and the others are looked at all the same.
//
// A look walked through: twillctl check runs as root on a host without twilld. nft.Survey lists Docker's chains; the socket of an old flanneld is in
// /proc/net/udp with an inode, which is found among the open files of a process, whose name is told; /opt/cni/bin has no twill.
package host
