package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/storetest"
)

var _ storetest.Harness = (*harness)(nil)

func TestStoreContract(t *testing.T) {
	cluster := startCluster(t)
	must(t, cluster.Backup(t.Context())) // for Wipe
	storetest.Run(t, func(t *testing.T) storetest.Harness { return newHarness(t, cluster) })
}

// kubelet is a store whose node's kubelet and node controller do their part: there is a Node, and it has subnets.
type kubelet struct {
	*Client
	h *harness
}

func (k kubelet) Register(ctx context.Context, network store.Network, attrs store.Attributes, preferred []store.Subnets) (store.Registration, error) {
	if err := k.h.boot(attrs.NodeName, network); err != nil {
		return nil, err
	}
	return k.Client.Register(ctx, network, attrs, preferred)
}

func (h *harness) Open() store.Store { return kubelet{h.open(""), h} }

func (h *harness) Given() bool { return true }

func (h *harness) SetNetwork(config string) {
	h.t.Helper()
	must(h.t, os.WriteFile(h.netConf, []byte(config), 0o644))
}

// boot has a Node with subnets that fit the network. Those of a Node cannot be changed: one that lacks a family is made anew.
func (h *harness) boot(name string, network store.Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	list, err := h.api.CoreV1().Nodes().List(h.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var taken, wanted []store.Subnets
	for _, n := range list.Items {
		s, err := podSubnets(&n.Spec)
		if err != nil {
			continue
		}
		if n.Name != name {
			taken = append(taken, s)
			continue
		}
		if s.IPv4.IsValid() == network.EnableIPv4 && s.IPv6.IsValid() == network.EnableIPv6 {
			return nil
		}
		wanted = append(wanted, s)
		if err := h.api.CoreV1().Nodes().Delete(h.ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	s, err := network.Choose(taken, wanted, func(uint64) uint64 { return 0 })
	if err != nil {
		return err
	}
	h.booted[name] = s
	return h.create(name, s, nil)
}

func (h *harness) create(name string, s store.Subnets, with map[string]string) error {
	n := &corev1.Node{}
	n.Name, n.Annotations = name, with
	if s.IPv4.IsValid() {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, s.IPv4.String())
	}
	if s.IPv6.IsValid() {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, s.IPv6.String())
	}
	if len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
	_, err := h.api.CoreV1().Nodes().Create(h.ctx, n, metav1.CreateOptions{})
	return err
}

// find returns the Node of a record: the one with its subnets, or else that with its name.
func (h *harness) find(record string) *corev1.Node {
	h.t.Helper()
	list, err := h.api.CoreV1().Nodes().List(h.ctx, metav1.ListOptions{})
	must(h.t, err)
	for _, n := range list.Items {
		if s, err := podSubnets(&n.Spec); err == nil && s != (store.Subnets{}) && s.Key() == record || n.Name == nodeName(record) {
			return &n
		}
	}
	return nil
}

func nodeName(record string) string { return strings.NewReplacer("&", "-", ":", "-").Replace(record) }

// said returns the annotations that a record stands for; of one that cannot be read, the public address cannot be either.
func said(record, value string) (store.Subnets, map[string]string) {
	s, err := store.ParseKey(record)
	if err != nil {
		return store.Subnets{}, map[string]string{annotationManaged: "true", annotationPublicIP: value}
	}
	l, err := store.DecodeLease(s, []byte(value))
	if err != nil {
		return s, map[string]string{annotationManaged: "true", annotationPublicIP: value}
	}
	return s, annotations(store.Attributes{PublicIP: l.PublicIP, PublicIPv6: l.PublicIPv6, BackendType: l.BackendType, BackendData: l.BackendData, BackendV6Data: l.BackendV6Data})
}

func (h *harness) Put(record, value string) {
	h.t.Helper()
	s, with := said(record, value)
	if h.find(record) == nil {
		must(h.t, h.create(nodeName(record), s, with))
		return
	}
	h.change(record, func(n *corev1.Node) { n.Annotations = with })
}

func (h *harness) change(record string, f func(*corev1.Node)) {
	h.t.Helper()
	for {
		n := h.find(record)
		f(n)
		_, err := h.api.CoreV1().Nodes().Update(h.ctx, n, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			must(h.t, err)
			return
		}
	}
}

// Delete takes from a node that runs what it has published, and removes any other.
func (h *harness) Delete(record string) {
	h.t.Helper()
	n := h.find(record)
	if n == nil {
		return
	}
	if _, runs := h.booted[n.Name]; runs {
		h.change(record, func(n *corev1.Node) { n.Annotations = nil })
		return
	}
	h.gone(h.api.CoreV1().Nodes().Delete(h.ctx, n.Name, metav1.DeleteOptions{}))
}

func (h *harness) Get(record string) (string, bool) {
	h.t.Helper()
	n := h.find(record)
	if n == nil || n.Annotations[annotationManaged] == "" {
		return "", false
	}
	s, err := podSubnets(&n.Spec)
	if err != nil || s.Key() != record {
		return "", false
	}
	a, err := attributes(n.Annotations)
	if err == nil {
		if value, err := store.NewLease(s, a).Value(); err == nil {
			return string(value), true
		}
	}
	return n.Annotations[annotationPublicIP], true
}

func (h *harness) PutNode(name, value string) {
	h.t.Helper()
	r, bad := store.ParseNodeRecord(name, []byte(value))
	say := func(n *corev1.Node) {
		n.Name, n.Annotations = name, nil
		switch {
		case bad != nil:
			n.Annotations = map[string]string{annotationBGP: "{" + value}
			return
		case r.BGP != nil:
			n.Annotations = map[string]string{annotationBGP: string(r.BGP)}
		}
		n.Labels = r.Labels
	}
	nodes := h.api.CoreV1().Nodes()
	for {
		n, err := nodes.Get(h.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			n = &corev1.Node{}
			say(n)
			_, err = nodes.Create(h.ctx, n, metav1.CreateOptions{})
		} else if err == nil {
			say(n)
			_, err = nodes.Update(h.ctx, n, metav1.UpdateOptions{})
		}
		if !apierrors.IsConflict(err) {
			must(h.t, err)
			return
		}
	}
}

func (h *harness) DeleteNode(name string) {
	h.t.Helper()
	h.gone(h.api.CoreV1().Nodes().Delete(h.ctx, name, metav1.DeleteOptions{}))
}

// Wipe brings the API server back as it was when the suite began, its resource versions, too. The kubelets register their nodes again, with the
// subnets that these had.
func (h *harness) Wipe(config string) {
	h.t.Helper()
	must(h.t, h.cluster.Restore(h.ctx))
	h.down = false
	h.SetNetwork(config)
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, s := range maps.All(h.booted) {
		must(h.t, h.create(name, s, nil))
	}
}

// Two controllers gave out overlapping subnets: the younger node says so and goes on, the older one is left alone, and peers go to the older.
func TestPodCIDROverlap(t *testing.T) {
	h := newHarness(t, startCluster(t))
	h.SetNetwork(storetest.Config4)
	subnets := func(key string) store.Subnets {
		s, err := store.ParseKey(key)
		must(t, err)
		return s
	}
	for i, key := range []string{"10.244.1.0-24", "10.244.1.0-24", "10.244.1.128-25"} {
		// The time of creation counts in seconds; names decide between nodes of the same one.
		must(t, h.create(fmt.Sprintf("node-%d", i), subnets(key), nil))
	}
	network, err := store.ParseNetwork([]byte(storetest.Config4))
	must(t, err)
	var regs []store.Registration
	var stores []*Client
	for i := range 3 {
		c := h.open("")
		_, a := said("10.244.9.0-24", fmt.Sprintf(`{"PublicIP":"192.0.2.%d","BackendType":"vxlan"}`, i+1))
		attrs, err := attributes(a)
		must(t, err)
		attrs.NodeName = fmt.Sprintf("node-%d", i)
		r, err := c.Register(t.Context(), network, attrs, nil)
		must(t, err)
		regs, stores = append(regs, r), append(stores, c)
		go func() { _ = c.Watch(t.Context(), func(store.Snapshot) {}) }()
	}
	for i := 1; i < 3; i++ {
		until(t, "the overlap", func() bool {
			err := regs[i].Err()
			return err != nil && store.ReasonOf(err, "") == store.ReasonPodCIDROverlap && strings.Contains(err.Error(), "node-0")
		})
	}
	must(t, regs[0].Err())
	var snap store.Snapshot
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = stores[2].Watch(ctx, func(s store.Snapshot) { snap = s; cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if l := store.Find(snap.Leases, subnets("10.244.1.0-24")); l == nil || l.PublicIP.String() != "192.0.2.1" || len(snap.Rejected) != 1 || snap.Rejected[0].Key != "node-1" {
		t.Errorf("the snapshot is %+v", snap)
	}
	h.DeleteNode("node-0")
	until(t, "the end of one overlap", func() bool { return regs[1].Err() == nil })
}

// What keeps a node from registering is named, with the mend, and the node registers once it is mended.
func TestNodeWithoutSubnets(t *testing.T) {
	h := newHarness(t, startCluster(t))
	for _, test := range []struct {
		name, network, subnets, reason, text string
	}{
		{"no podCIDR", storetest.Config4, "", store.ReasonPodCIDRMissing, "--allocate-node-cidrs"},
		{"one family lacks", storetest.ConfigDual, "10.244.1.0-24", store.ReasonPodCIDRMissing, "no IPv6 subnet"},
		{"another network", storetest.Config4, "10.99.1.0-24", store.ReasonNetworkConfigInvalid, "10.244.0.0/16"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var s store.Subnets
			if test.subnets != "" {
				var err error
				s, err = store.ParseKey(test.subnets)
				must(t, err)
			}
			name := strings.ReplaceAll(test.name, " ", "-")
			name = strings.ToLower(name)
			must(t, h.create(name, s, nil))
			network, err := store.ParseNetwork([]byte(test.network))
			must(t, err)
			_, err = h.open("").Register(t.Context(), network, store.Attributes{NodeName: name}, nil)
			if store.ReasonOf(err, "") != test.reason || !strings.Contains(err.Error(), test.text) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// A cluster has pods of both families, the network one: a node's lease in a snapshot is the one that it has registered.
func TestFamilyThatIsNotServed(t *testing.T) {
	h := newHarness(t, startCluster(t))
	h.SetNetwork(storetest.Config4)
	dual, err := store.ParseKey("10.244.1.0-24&fd00:10:244:1::-64")
	must(t, err)
	must(t, h.create("node-a", dual, nil))
	c := h.open("")
	network, err := c.Network(t.Context())
	must(t, err)
	attrs := store.Attributes{NodeName: "node-a", PublicIP: netip.MustParseAddr("192.0.2.1"), BackendType: "vxlan"}
	r, err := c.Register(t.Context(), network, attrs, nil)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = c.Watch(ctx, func(s store.Snapshot) {
		if len(s.Leases) > 0 {
			if !s.Leases[0].Equal(r.Lease()) || len(s.Rejected) > 0 {
				t.Errorf("the snapshot is %+v, registered is %+v", s, r.Lease())
			}
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
