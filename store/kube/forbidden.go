package kube

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/twill-cni/twill/store"
)

// clusterRole is the name of the ClusterRole in deploy/.
const clusterRole = "twill"

// rule is a rule of RBAC that something here needs.
type rule struct {
	verb, group, resource string // as in a ClusterRole; the core group is ""
	purpose               string // to what end, for people: "to ..."
}

// forbidden returns the store.Trouble that names the missing rule when the API server refused for want of one, and any other error as it is.
// Admission refuses with the same code, and only its text would tell; that text is part of the error.
func forbidden(err error, missing rule) error {
	if !apierrors.IsForbidden(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return err
	}
	return &store.Trouble{Reason: store.ReasonForbidden, Err: fmt.Errorf("RBAC: add the verb %s for the resource %s of the API group %q to ClusterRole %s; it is needed %s: %w",
		missing.verb, missing.resource, missing.group, clusterRole, missing.purpose, err)}
}
