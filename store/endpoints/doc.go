// Package endpoints works out which pods are behind Services with a selector: the part of Kubernetes' EndpointSlice controller, for hosts without
// Kubernetes. It is pure.
//
//	Services ──SetService──┐            index: namespace + one label pair
//	                       ├─► Builder ──► slices that are to be looked at ──Take──► EndpointSlices that changed
//	pods ─────SetPod───────┘            index: namespace + label pairs
//
// A Service finds its pods, and a pod its Services, by indexes, so that a change costs what it touches: a pod costs its labels and the Services that
// select it, whatever else there is.
//
// A Service has one slice for each node and family, called SERVICE:NODE:FAMILY. When a targetPort is a name, pods that give it different numbers are
// in slices of their own, with the numbers behind that. A colon is in no name that somebody could write by hand. A pod that goes changes one slice
// of as many endpoints as its node has pods behind the Service.
package endpoints
