// Package e2e keeps the module of upstream's tests complete: "go mod tidy" keeps what the tests of an imported package need.
package e2e

import _ "k8s.io/kubernetes/test/e2e"
