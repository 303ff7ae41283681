// Package netns owns named network namespaces: it makes them, enters them and removes them. A named namespace is a bind mount below
// /run/netns, the place where iproute2 keeps its own, so "ip netns exec NAME" and "nsenter --net=/run/netns/NAME" work.
//
//	Create    unshare(CLONE_NEWNET) on a locked thread -> bind mount /run/netns/NAME -> back to where the thread was
//	Do        lock the thread -> setns -> f -> setns back
//	Remove    umount -> unlink; the kernel frees the namespace when nothing else holds it
//
// Only the calling thread enters a namespace. A socket that is opened and a process that is started inside Do belong to the
// namespace for ever; a goroutine that is started inside Do does not.
package netns
