// Package manifest reads Kubernetes manifests as a user writes them, and turns the API's objects into what a node needs of them. It is pure.
//
//	file (YAML or JSON, several documents) ──Parse──► Document: a Service, or EndpointSlices
//	                                                     │ defaults as the API server sets them, validated, strict
//	Kubernetes API (informers) ──────────────────────────┤
//	etcd, <prefix>/registry/... ──DecodeService...───────┤
//	                                                     ▼
//	                              FromService, FromEndpointSlice ──► store.Service, store.EndpointSlice
//
// The kinds are Service (v1), EndpointSlice (discovery.k8s.io/v1), Endpoints (v1), which becomes EndpointSlices, and List (v1) of those. Whatever
// is read from a file is read strictly: a field that is unknown, given twice or of another type than the API's is an error that names
// document, line and field. What comes from a datastore was checked when it was written there, maybe by a later version, and is read as the API's
// clients read it: unknown fields are skipped.
//
// What a later version's API lets through and is not understood here never opens anything: a NetworkPolicy allows nothing by such a part, a rule
// of a ClusterNetworkPolicy accepts nothing or denies everything. It keeps its place, so that the others keep their numbers. The error beside the
// policy says so, and the policy's Flaw.
//
// An example: the document
//
//	{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}}
//
// becomes a Service default/web of type ClusterIP with one TCP port without a ClusterIP. The datastore completes it (Complete says of which families, and
// which node ports it lacks), keeps it as canonical JSON, and every node makes a store.Service of it.
package manifest
