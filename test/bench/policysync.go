package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink/nl"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

func runPolicySync(b bench) error { return b.withPolicies(b.policyStarts) }

// The large cluster: each namespace has as many pods and policies as any other, and each node a pod of many namespaces.
const (
	largeNamespaces = 100
	largeNodes      = 100
)

// policyStart is one start of twilld.
type policyStart struct {
	trial
	sync    time.Duration // what the daemon itself says that the sync took
	written float64       // elements of the large sets
	told    int           // notifications of the kernel about the table
	rested  int64         // bytes, when the daemon has come to rest
}

// policyStarts measures starts on a node of a large cluster: without policies, with them and no table, and with the table of the run before.
func (b bench) policyStarts(ctx context.Context) error {
	pods, policies := b.scale(10_000), b.scale(1000)
	l, err := b.policyLab(ctx, lab.Options{Name: "sync", Nodes: 1, Family: lab.DualStack}, "on")
	if err != nil {
		return err
	}
	if err := l.fill(ctx, pods, policies); err != nil {
		return err
	}
	kinds := []struct {
		name, policy string
		forget       bool
	}{{"--policy=off", "off", true}, {"first start", "on", true}, {"restart", "on", false}}
	got := make([][]policyStart, len(kinds))
	for range 3 {
		for i, kind := range kinds {
			s, err := l.restart(ctx, kind.policy, kind.forget)
			if err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			got[i] = append(got[i], s)
		}
	}
	rows := [][]string{{fmt.Sprintf("%d pods, %d policies", pods, policies), "ready after", "the sync itself", "CPU", "peak memory", "at rest", "elements written", "notifications"}}
	for i, kind := range kinds {
		s := slices.SortedFunc(slices.Values(got[i]), func(a, b policyStart) int { return cmp.Compare(a.wall, b.wall) })[1]
		rows = append(rows, []string{kind.name, ms(s.wall), ms(s.sync), ms(s.cpu), mib(s.peak), mib(s.rested), fmt.Sprintf("%.0f", s.written), fmt.Sprint(s.told)})
	}
	table(rows...)
	return nil
}

// fill makes the cluster: the pods of the lab's node are attached, all others are records.
func (l *policyLab) fill(ctx context.Context, pods, policies int) error {
	for i := range largeNamespaces {
		name := largeNamespace(i)
		object := &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": fmt.Sprint(i % 10)}}}
		if err := l.put(ctx, "namespaces/"+name, object); err != nil {
			return err
		}
	}
	var all []*networkingv1.NetworkPolicy
	for i := range policies {
		all = append(all, largePolicy(i))
	}
	if err := l.putPolicies(ctx, all...); err != nil {
		return err
	}
	var records []*store.Pod
	for i := range pods {
		p := largePod(i)
		if p.Node != "" {
			records = append(records, p)
			continue
		}
		if _, err := l.Nodes()[0].AddPod(ctx, lab.PodOptions{Namespace: p.Name.Namespace, Labels: p.Labels}); err != nil {
			return err
		}
	}
	return l.putPods(ctx, records...)
}

func largeNamespace(i int) string { return fmt.Sprintf("ns%d", i%largeNamespaces) }

// largePod is a pod of the large cluster. Those without a node are the lab's.
func largePod(i int) *store.Pod {
	node, n := i%largeNodes, i/largeNodes
	p := &store.Pod{
		Name:   store.ObjectName{Namespace: largeNamespace(node + n), Name: fmt.Sprintf("pod%d", i)},
		Labels: map[string]string{"app": fmt.Sprint(i % 17), "tier": fmt.Sprint(i % 3)}, Ready: true,
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(node), byte(2 + n)}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x01, 7: byte(node), 15: byte(2 + n)})},
	}
	if node > 0 {
		p.Node = fmt.Sprintf("elsewhere%d", node)
	}
	return p
}

// largePolicy is a policy of a third of the pods of a namespace: two rules with selectors, and for every fourth a block.
func largePolicy(i int) *networkingv1.NetworkPolicy {
	p := allowing(store.ObjectName{Namespace: largeNamespace(i), Name: fmt.Sprintf("policy%d", i)}, map[string]string{"app": fmt.Sprint(i % 17)}, 80+i%5)
	p.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"tier": fmt.Sprint(i % 3)}}
	p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint(i % 10)}},
		PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(i % 7)}}}}})
	if i%4 == 0 {
		p.Spec.Egress[0].To[0] = networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("192.%d.0.0/16", i/4%256)}}
	} else {
		p.Spec.PolicyTypes, p.Spec.Egress = p.Spec.PolicyTypes[:1], nil
	}
	return p
}

// restart starts the daemon of the node anew, with the table that is there or without it, and waits until it is ready and has come to rest.
func (l *policyLab) restart(ctx context.Context, policy string, forget bool) (s policyStart, err error) {
	n := l.Nodes()[0]
	if err := errors.Join(n.StopDaemon(ctx), n.SetDaemon(lab.NodeOptions{Args: []string{"--policy=" + policy}})); err != nil {
		return s, err
	}
	if forget { // "add" before, since there may be no table
		words := []string{"add", "table", "inet", gate.TableName, ";", "delete", "table", "inet", gate.TableName}
		if out, err := n.Command(ctx, "nft", words...).CombinedOutput(); err != nil {
			return s, fmt.Errorf("remove the table: %w: %s", err, out)
		}
	}
	socket, err := tableNews(n)
	if err != nil {
		return s, err
	}
	defer socket.Close()
	began := time.Now()
	if err := errors.Join(n.StartDaemon(), n.Ready(ctx)); err != nil {
		return s, err
	}
	s.wall = time.Since(began)
	used, err := processUsage(n.DaemonPID())
	if err != nil {
		return s, err
	}
	s.cpu = used.cpu
	if _, err := restedProcess(n.DaemonPID()); err != nil {
		return s, err
	}
	if used, err = processUsage(n.DaemonPID()); err != nil {
		return s, err
	}
	s.peak, s.rested = used.peak, used.rss
	if s.told, err = aboutTable(socket, gate.TableName); err != nil || policy == "off" {
		return s, err
	}
	seconds, err := figure(ctx, n, "twill_policy_full_sync_seconds_sum")
	s.sync = time.Duration(seconds * float64(time.Second))
	written, writtenErr := figure(ctx, n, "twill_policy_elements_written_total")
	s.written = written
	return s, errors.Join(err, writtenErr)
}

// tableNews subscribes to what the kernel tells of a node's tables.
func tableNews(n *lab.Node) (socket *nl.NetlinkSocket, err error) {
	err = n.Do(func() error {
		if socket, err = nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); err != nil {
			return fmt.Errorf("subscribe to nftables: %w", err)
		}
		return errors.Join(socket.SetReceiveBufferSize(256<<20, true), socket.SetReceiveTimeout(&unix.Timeval{Usec: 100_000}))
	})
	return socket, err
}

// aboutTable counts the notifications that are about a table. The first attribute of each kind of object is the name of its table.
func aboutTable(socket *nl.NetlinkSocket, name string) (n int, err error) {
	for {
		messages, _, err := socket.Receive()
		switch {
		case errors.Is(err, unix.EAGAIN):
			return n, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return n, fmt.Errorf("receive notifications of nftables: %w", err)
		}
		for _, m := range messages {
			if len(m.Data) < nl.SizeofNfgenmsg {
				continue
			}
			attrs, err := nl.ParseRouteAttrAsMap(m.Data[nl.SizeofNfgenmsg:])
			if err == nil && nl.BytesToString(attrs[1].Value) == name {
				n++
			}
		}
	}
}
