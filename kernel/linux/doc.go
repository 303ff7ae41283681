// Package linux is the daemon's hand on the kernel: it reads and writes links, neighbours, FDB entries and routes over
// rtnetlink, sysctls under /proc/sys/net, and turns the kernel's notifications into kernel.Event.
package linux
