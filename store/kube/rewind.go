package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// rewound returns an error that makes the Reflector begin with a list when the API server is behind what a watch is to go on from: its etcd was
// restored from a backup. It would accept the watch, and tell nothing until its versions have grown to those of before, which may take
// days. A watch is made anew every few minutes, and after each interruption; an API server with another etcd is behind an interruption.
func rewound(ctx context.Context, r reflection, o metav1.ListOptions) error {
	if o.ResourceVersion == "" || o.ResourceVersion == "0" || o.SendInitialEvents != nil {
		return nil // it begins with all objects
	}
	list, err := r.list(ctx, metav1.ListOptions{Limit: 1}) // without a version: as etcd has it now
	if err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	l, ok := list.(metav1.ListInterface)
	if !ok {
		return nil
	}
	order, err := resourceversion.CompareResourceVersion(l.GetResourceVersion(), o.ResourceVersion)
	if err != nil || order >= 0 { // versions are numbers; of what is none, nothing can be said
		return nil
	}
	return apierrors.NewResourceExpired(fmt.Sprintf("version %s is to be followed, and the API server has %s: it was restored from a backup", o.ResourceVersion, l.GetResourceVersion()))
}
