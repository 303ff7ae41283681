package main

import (
	"context"
	"net"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/kubenodes"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/daemon/api"
)

// viewpoints say which daemons are asked: this node's, or those of all nodes of a lab or of a Kubernetes cluster.
type viewpoints struct {
	runDir string
	lab    lab.Options
	kube   struct {
		all           bool
		file, context string
	}
}

// viewpoint is a node whose daemon can be asked.
type viewpoint struct {
	node   string // its name; empty: this machine, whatever its name in the cluster is
	runDir string // on this machine; empty: the node is another one
	client *api.Client
	// runs runs twillctl on the node, another machine, where its daemon runs, and returns what it prints; nil: that cannot be done.
	runs func(ctx context.Context, args ...string) ([]byte, error)
}

func (v viewpoint) String() string {
	if v.node == "" {
		return "this node"
	}
	return v.node
}

// add adds the flags for commands that look at things on this machine, beside asking daemons.
func (f *viewpoints) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.runDir, "run-dir", "/run/twill", "the daemon's --run-dir")
	cmd.Flags().StringVar(&f.lab.Name, "lab", "", "ask all nodes of the lab with this name instead")
	cmd.Flags().StringVar(&f.lab.StateDir, "state-dir", "", "directory that holds the labs (default /run/twill-lab)")
	cmd.MarkFlagsMutuallyExclusive("run-dir", "lab")
	completeFlag(cmd, "lab", names(labNames(&f.lab.StateDir)))
}

// addAll adds the flags for commands that only ask daemons.
func (f *viewpoints) addAll(cmd *cobra.Command) {
	f.add(cmd)
	f.addCluster(cmd, "ask all nodes of the Kubernetes cluster of the kubeconfig instead, by way of `kubectl exec`")
	cmd.MarkFlagsMutuallyExclusive("all-nodes", "lab", "run-dir")
	cmd.MarkFlagsMutuallyExclusive("kubeconfig", "lab", "run-dir")
}

// addCluster adds the flags that lead to a Kubernetes cluster.
func (f *viewpoints) addCluster(cmd *cobra.Command, all string) {
	cmd.Flags().BoolVarP(&f.kube.all, "all-nodes", "A", false, all)
	cmd.Flags().StringVar(&f.kube.file, "kubeconfig", "", "the kubeconfig for --all-nodes (default $KUBECONFIG, or ~/.kube/config); implies it")
	cmd.Flags().StringVar(&f.kube.context, "context", "", "the kubeconfig's context for --all-nodes")
}

// ofCluster reports whether the nodes are those of a Kubernetes cluster.
func (f *viewpoints) ofCluster() bool { return f.kube.all || f.kube.file != "" }

// clusterFlags are those with which another command finds the same cluster.
func (f *viewpoints) clusterFlags() string {
	flags := "--all-nodes"
	if f.kube.file != "" {
		flags = "--kubeconfig " + f.kube.file
	}
	if f.kube.context != "" {
		flags += " --context " + f.kube.context
	}
	return flags
}

func (f *viewpoints) open(ctx context.Context) ([]viewpoint, error) {
	switch {
	case f.ofCluster():
		return f.openCluster(ctx)
	case f.lab.Name == "":
		return []viewpoint{{runDir: f.runDir, client: api.NewClient(f.runDir)}}, nil
	}
	l, err := lab.Open(f.lab)
	if err != nil {
		return nil, err
	}
	return viewsOf(l), nil
}

// viewsOf returns a lab's nodes.
func viewsOf(l *lab.Lab) []viewpoint {
	var all []viewpoint
	for _, n := range l.Nodes() {
		all = append(all, viewpoint{node: n.Name, runDir: n.RunDir(), client: api.NewClient(n.RunDir())})
	}
	return all
}

func (f *viewpoints) openCluster(ctx context.Context) ([]viewpoint, error) {
	cluster, err := kubenodes.Open(f.kube.file, f.kube.context)
	if err != nil {
		return nil, err
	}
	nodes, err := cluster.List(ctx)
	if err != nil {
		return nil, err
	}
	var all []viewpoint
	for _, n := range nodes {
		all = append(all, viewpoint{
			node:   n.Name,
			client: api.NewClientBy("node "+n.Name, func(ctx context.Context) (net.Conn, error) { return cluster.Dial(ctx, n) }),
			runs:   func(ctx context.Context, args ...string) ([]byte, error) { return cluster.Output(ctx, n, args...) },
		})
	}
	return all, nil
}
