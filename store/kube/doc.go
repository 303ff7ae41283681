// Package kube reads what a node needs from the Kubernetes API. It is the only client of it.
//
//	API server ──list, then watch──> Reflector, one for each kind ──> accumulator ──> store.ServiceChanges
//	             Services
//	             EndpointSlices                (all but those of headless Services)
//	             ServiceCIDRs
//	             Node                          (this one alone)
//
// The machinery of list, watch, bookmarks, expired resource versions and backoff is client-go's Reflector. What it delivers is not kept: an
// object is turned into the few words that the node needs (store/manifest) and handed on, and all that stays here is the names of the
// objects, to tell which are missing from a new list. An informer's cache would hold every object a second time.
//
// The first change is told when every kind was listed once. A list that comes later (the watch was too old, or the API server came back)
// is told as what differs by name, never as a time without objects.
package kube
