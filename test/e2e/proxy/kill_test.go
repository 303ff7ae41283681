package proxy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/test/e2e/harness"
)

// manyServices is how many Services TestKilledWhileItWrites has, with five endpoints each.
const manyServices = 2000

// TestKilledWhileItWrites ends a daemon at moments of its start, and of its reaction to a change of everything, without a word of warning. Started
// again, it makes of what is there the same as one that starts on an empty kernel. The Services come from etcd.
func TestKilledWhileItWrites(t *testing.T) {
	t.Parallel()
	l := harness.NewLab(t, lab.Options{Name: harness.Unique(runName), BinDir: binDir, Family: lab.DualStack, Nodes: 1,
		DaemonArgs: []string{"--proxy=nftables"}})
	must(t, l.Up(t.Context()))
	n := l.Nodes()[0]
	store(t, l, 0)
	start, whole := fresh(t, n)
	t.Logf("the tables have %d lines; a start takes %v", strings.Count(whole, "\n"), start)

	partial := 0
	const times = 4
	for i := range times {
		must(t, n.StopDaemon(t.Context()))
		sh(t, n.Netns(), "nft delete table ip twill-proxy; nft delete table ip6 twill-proxy")
		must(t, n.StartDaemon())
		<-time.After(start * time.Duration(2+i) / (times + 2)) // the moment of an accident
		must(t, n.KillDaemon(t.Context()))
		partial += incomplete(t, n, whole)
		startOn(t, n, "")
		if now := contents(t, n); now != whole {
			t.Fatalf("killed for the %d. time while it started: the tables differ:\n%s", i+1, differing(whole, now))
		}
	}
	t.Logf("%d of %d starts were cut short while the tables were incomplete", partial, times)

	partial = 0
	for i := range times {
		store(t, l, i+1)
		<-time.After(time.Duration(i) * 25 * time.Millisecond)
		must(t, n.KillDaemon(t.Context()))
		startOn(t, n, "")
		after := contents(t, n)
		if _, whole = fresh(t, n); after != whole {
			t.Fatalf("killed for the %d. time while all endpoints changed: the tables differ:\n%s", i+1, differing(whole, after))
		}
	}
}

// fresh has the daemon start on an empty kernel, and returns what it makes of it.
func fresh(t *testing.T, n *lab.Node) (time.Duration, string) {
	t.Helper()
	took := startOn(t, n, "nft delete table ip twill-proxy; nft delete table ip6 twill-proxy")
	return took, contents(t, n)
}

// startOn stops the daemon if it runs, prepares its node, starts it and waits until it is ready.
func startOn(t *testing.T, n *lab.Node, prepare string) time.Duration {
	t.Helper()
	must(t, n.StopDaemon(t.Context()))
	if prepare != "" {
		sh(t, n.Netns(), prepare)
	}
	begin := time.Now()
	must(t, n.StartDaemon())
	must(t, n.Ready(t.Context()))
	return time.Since(begin)
}

// incomplete returns 1 when the tables are not what they should be, else 0.
func incomplete(t *testing.T, n *lab.Node, whole string) int {
	t.Helper()
	if now, err := tryContents(t.Context(), n); err == nil && now == whole {
		return 0
	}
	return 1
}

// store puts the Services into etcd, with endpoints that differ between generations.
func store(t *testing.T, l *lab.Lab, generation int) {
	t.Helper()
	client, err := l.Etcd().Client()
	must(t, err)
	const registry = "/coreos.com/network/registry/"
	var puts []clientv3.Op
	put := func(key string, object any) {
		data, err := json.Marshal(object)
		must(t, err)
		if puts = append(puts, clientv3.OpPut(registry+key, string(data))); len(puts) == 100 {
			_, err := client.Txn(t.Context()).Then(puts...).Commit()
			must(t, err)
			puts = nil
		}
	}
	for i := range manyServices {
		name := fmt.Sprintf("web-%d", i)
		meta := metav1.ObjectMeta{Namespace: "default", Name: name}
		if generation == 0 {
			put("services/default/"+name, manyService(meta, i))
		}
		meta.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		put("endpointslices/default/"+name, manyEndpoints(meta, i, generation))
	}
	if len(puts) > 0 {
		_, err := client.Txn(t.Context()).Then(puts...).Commit()
		must(t, err)
	}
}

func manyService(meta metav1.ObjectMeta, i int) *corev1.Service {
	ip := fmt.Sprintf("10.96.%d.%d", 10+i/250, 1+i%250)
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: meta,
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}}},
	}
}

func manyEndpoints(meta metav1.ObjectMeta, i, generation int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}, ObjectMeta: meta,
		AddressType: discoveryv1.AddressTypeIPv4}
	number, protocol, name := int32(8080), corev1.ProtocolTCP, ""
	slice.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &number, Protocol: &protocol}}
	for e := range 5 + generation%2 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.%d.%d", i%250, 2+e+generation)}})
	}
	return slice
}
