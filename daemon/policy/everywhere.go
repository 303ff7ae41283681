package policy

import (
	"context"
	"time"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/store"
)

// listPeriod is for how long a list of the cluster's pods is used again.
const listPeriod = 5 * time.Second

// podList are the pods of the cluster as they were once. Nothing changes it.
type podList struct {
	made time.Time
	pods []*store.Pod
}

// Each calls visit with the pods of the cluster, in no order, until it returns false. They are those of at most listPeriod ago, or of before a sync that takes
// longer. No sync waits for visit.
func (i *Inspector) Each(ctx context.Context, visit func(api.ClusterPod) bool) error {
	list, err := i.enforcer.list(ctx)
	if err != nil {
		return err
	}
	for _, pod := range list.pods {
		if !visit(api.ClusterPod{Namespace: pod.Name.Namespace, Name: pod.Name.Name, Node: pod.Node, Addresses: pod.Addrs}) {
			break
		}
	}
	return nil
}

// list returns the last list of the cluster's pods, or makes one. While a sync goes on the old one serves.
func (e *Enforcer) list(ctx context.Context) (*podList, error) {
	list := e.listed.Load()
	if list != nil && time.Since(list.made) < listPeriod {
		return list, nil
	}
	if list != nil && e.state.busy() {
		return list, nil
	}
	release, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if again := e.listed.Load(); again != list { // somebody else who waited has made it
		return again, nil
	}
	list = &podList{made: time.Now(), pods: e.filter.Pods()}
	e.listed.Store(list)
	return list, nil
}
