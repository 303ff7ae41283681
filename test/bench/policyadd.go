package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"

	"github.com/twill-cni/twill/ctl/lab"
)

func runPolicyAdd(b bench) error { return b.withPolicies(b.policyAdds) }

// attacher is a lab of one node with what attaching pods there took.
type attacher struct {
	name     string
	node     *lab.Node
	add, del samples
}

// policyAdds measures ADD and DEL as a runtime has them, with the plugin and the configuration that the daemon installed, in labs that take turns.
func (b bench) policyAdds(ctx context.Context) error {
	var labs []*attacher
	for _, kind := range []struct {
		name, policy string
		policies     int
	}{{"--policy=off", "off", 0}, {"no policies", "on", 0}, {"1000 policies", "on", 1000}} {
		l, err := b.policyLab(ctx, lab.Options{Name: fmt.Sprintf("add%d", len(labs)), Nodes: 1}, kind.policy)
		if err != nil {
			return err
		}
		if _, err := l.Nodes()[0].AddPod(ctx, lab.PodOptions{}); err != nil { // who shows that the policies are there
			return err
		}
		if kind.policies > 0 {
			if err := l.enforce(ctx, kind.policies); err != nil {
				return err
			}
		}
		labs = append(labs, &attacher{name: kind.name, node: l.Nodes()[0]})
	}
	pods, err := makePods(b.scale(160))
	if err != nil {
		return err
	}
	rows := [][]string{{"", "ADD p50", "ADD p99", "DEL p50", "DEL p99"}}
	for _, parallel := range []int{1, 16} {
		const turns = 4
		for turn := range turns {
			share := pods[turn*len(pods)/turns : (turn+1)*len(pods)/turns]
			for _, a := range labs {
				if err := a.attach(ctx, share, parallel); err != nil {
					return err
				}
			}
		}
		for _, a := range labs {
			rows = append(rows, []string{fmt.Sprintf("%s, %d at a time", a.name, parallel),
				ms(a.add.quantile(.5)), ms(a.add.quantile(.99)), ms(a.del.quantile(.5)), ms(a.del.quantile(.99))})
		}
		for _, a := range labs[1:] {
			rows = append(rows, []string{"  " + a.name + " / " + labs[0].name, ratio(a.add.quantile(.5), labs[0].add.quantile(.5)), ratio(a.add.quantile(.99), labs[0].add.quantile(.99)),
				ratio(a.del.quantile(.5), labs[0].del.quantile(.5)), ratio(a.del.quantile(.99), labs[0].del.quantile(.99))})
		}
		for _, a := range labs {
			a.add, a.del = nil, nil
		}
	}
	table(rows...)
	return nil
}

// attach adds and then removes each of the pods, so many at a time, and notes how long each took.
func (a *attacher) attach(ctx context.Context, pods []string, parallel int) error {
	verb := func(f func(*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error) (samples, error) {
		return forEach(len(pods), parallel, func(i int) error {
			name := filepath.Base(pods[i])
			conf := &libcni.RuntimeConf{ContainerID: a.node.Netns().Name() + "-bench-" + name, NetNS: pods[i], IfName: "eth0",
				Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", policyNamespace}, {"K8S_POD_NAME", name}}}
			return a.node.CNI(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error { return f(cni, list, conf) })
		})
	}
	took, err := verb(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, conf *libcni.RuntimeConf) error {
		_, err := cni.AddNetworkList(ctx, list, conf)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: ADD: %w", a.name, err)
	}
	a.add = append(a.add, took...)
	took, err = verb(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, conf *libcni.RuntimeConf) error {
		return cni.DelNetworkList(ctx, list, conf)
	})
	if err != nil {
		return fmt.Errorf("%s: DEL: %w", a.name, err)
	}
	a.del = append(a.del, took...)
	return nil
}
