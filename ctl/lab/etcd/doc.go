// Package etcd runs one etcd member inside the calling process, tuned for a lab: it is up in a fraction of a second and does not
// wait for the disk. It is not for data that anybody wants to keep.
//
//	twillctl lab etcd (hidden, started by the lab in the underlay's namespace) -> Serve -> embed.StartEtcd
package etcd
