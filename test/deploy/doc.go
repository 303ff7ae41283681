// Package deploy owns what is generated from the chart, and the tests of everything in deploy/.
//
//	deploy/chart/twill ── helm template ──┬── deploy/twill.yaml            backend vxlan, as it is
//	   values of a variant                ├── deploy/kustomize/base        what is the same for both backends
//	                                      └── deploy/kustomize/overlays    what differs: objects, and patches for those of base
//
// A rule stands in the chart alone. A change of it goes through `make manifests`, which runs Generate; a test generates again and finds the
// files out that differ, and `kubectl kustomize` of each overlay has to give what the chart gives for the same values.
package deploy
