// Package policies keeps what a datastore says of policies and of what they select, and tells what is new of it. It is pure.
//
//	store/etcd, store/kube ──Set...──► Table ──Take──► store.PolicyChanges
//
// A datastore tells a good deal that is no news: a pod's status changes several times while it starts, a list after an outage repeats everything.
// What says the same as before is kept as it was and not told.
//
// A pod, walked through, where Namespaces may have no record (etcd). The first pod of the namespace shop comes: Take tells the pod and, in the
// same change, a Namespace shop that has the label with its name alone. Somebody stores a Namespace shop with the label team=a: that is told in its
// place. Its record is deleted: the one with its name alone is back. The last pod goes, and with it the Namespace.
//
// A policy that is not understood, walked through. Reject tells of it once, and Take has it among the flawed from then on. Somebody mends it so that it
// says what it said before: that is no news of the policy, but it is not flawed any more.
package policies
