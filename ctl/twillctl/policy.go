package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

func newPolicy(to streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "policy",
		Aliases: []string{"policies"},
		Short:   "what policies allow, and whether the kernel agrees",
		Long: `policy asks the twilld of this node, or those of all nodes of a lab, about
NetworkPolicies and ClusterNetworkPolicies. It needs root: the daemon's socket is root's.`,
		Example: `  twillctl policy show shop/api
  twillctl policy test shop/web shop/api:8081
  twillctl policy drops --follow`,
	}
	cmd.AddCommand(newPolicyShow(to), newPolicyTest(to), newPolicyDrops(to))
	return cmd
}

// podArg reads the name of a pod.
func podArg(text string) (store.ObjectName, error) {
	namespace, name, qualified := strings.Cut(text, "/")
	if !qualified {
		namespace, name = manifest.DefaultNamespace, text
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return store.ObjectName{}, fmt.Errorf("pod %q: want NAME or NAMESPACE/NAME", text)
	}
	return store.ObjectName{Namespace: namespace, Name: name}, nil
}

// find returns the pod with that name, as the first of the daemons that knows of it does.
func find(ctx context.Context, from []viewpoint, name store.ObjectName) (api.ClusterPod, error) {
	var errs []error
	for _, v := range from {
		found, err := v.client.FindPods(ctx, name)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", v, err))
		case len(found) > 1:
			return api.ClusterPod{}, fmt.Errorf("pod %s: there is one on node %s and one on node %s; say an address", name, found[0].Node, found[1].Node)
		case len(found) == 1:
			return found[0], nil
		}
	}
	if len(errs) == len(from) {
		return api.ClusterPod{}, errors.Join(errs...)
	}
	return api.ClusterPod{}, errors.Join(append(errs, fmt.Errorf("pod %s: not known; pods that use their node's network, and those that have ended, are none that policies know", name))...)
}
