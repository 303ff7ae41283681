package kube

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/storetest"
	"github.com/twill-cni/twill/test/kubetest"
)

// The tests' own network namespace is that of the API server.
func TestMain(m *testing.M) { os.Exit(peertest.Main(m)) }

const patience = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func startCluster(t *testing.T, args ...string) *kubetest.Cluster {
	t.Helper()
	return kubetest.Start(t, kubetest.Options{Addr: netip.MustParseAddr("127.0.0.1"), Args: args})
}

// harness is a real API server as the suite of ServiceSource sees it.
type harness struct {
	t       *testing.T
	cluster *kubetest.Cluster
	api     kubernetes.Interface
	down    bool
	ctx     context.Context
	netConf string // file

	mu     sync.Mutex
	booted map[string]store.Subnets // nodes whose kubelets run
}

func newHarness(t *testing.T, cluster *kubetest.Cluster) *harness {
	config, err := clientcmd.BuildConfigFromFlags("", cluster.Admin())
	must(t, err)
	config.QPS = -1
	api, err := kubernetes.NewForConfig(config)
	must(t, err)
	h := &harness{t: t, cluster: cluster, api: api, ctx: context.Background(), netConf: filepath.Join(t.TempDir(), "net-conf.json"), booted: map[string]store.Subnets{}}
	t.Cleanup(func() {
		if h.down {
			h.Start()
		}
		for _, name := range []string{"a", "b", "c", "d"} {
			h.gone(h.api.CoreV1().Services("default").Delete(h.ctx, name, metav1.DeleteOptions{}))
			h.gone(h.api.DiscoveryV1().EndpointSlices("default").Delete(h.ctx, name+"-1", metav1.DeleteOptions{}))
		}
		h.gone(h.api.CoreV1().Nodes().DeleteCollection(h.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	})
	return h
}

func (h *harness) gone(err error) {
	if err != nil && !apierrors.IsNotFound(err) {
		h.t.Error(err)
	}
}

func (h *harness) Source() store.ServiceSource {
	return h.open("node-a")
}

func (h *harness) open(node string) *Client {
	h.t.Helper()
	c, err := Open(Config{Kubeconfig: h.cluster.Admin(), Node: node, Peers: node == "", NetConf: h.netConf, Holdover: 3 * time.Second}, slog.New(slog.DiscardHandler))
	must(h.t, err)
	h.t.Cleanup(func() { must(h.t, c.Close()) })
	return c
}

func (h *harness) PutService(svc *corev1.Service) {
	h.t.Helper()
	services := h.api.CoreV1().Services("default")
	old, err := services.Get(h.ctx, svc.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = services.Create(h.ctx, svc, metav1.CreateOptions{})
		must(h.t, err)
		return
	}
	must(h.t, err)
	now := old.DeepCopy()
	now.Spec.Ports, now.Labels, now.Annotations = svc.Spec.Ports, svc.Labels, svc.Annotations
	_, err = services.Update(h.ctx, now, metav1.UpdateOptions{})
	must(h.t, err)
}

func (h *harness) PutSlice(slice *discoveryv1.EndpointSlice) {
	h.t.Helper()
	slices := h.api.DiscoveryV1().EndpointSlices("default")
	_, err := slices.Get(h.ctx, slice.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(h.ctx, slice, metav1.CreateOptions{})
	} else if err == nil {
		_, err = slices.Update(h.ctx, slice, metav1.UpdateOptions{})
	}
	must(h.t, err)
}

func (h *harness) DeleteService(name string) {
	h.t.Helper()
	must(h.t, h.api.CoreV1().Services("default").Delete(h.ctx, name, metav1.DeleteOptions{}))
}

func (h *harness) DeleteSlice(name string) {
	h.t.Helper()
	must(h.t, h.api.DiscoveryV1().EndpointSlices("default").Delete(h.ctx, name, metav1.DeleteOptions{}))
}

func (h *harness) Stop() {
	h.down = true
	h.cluster.Kill()
}

func (h *harness) Start() {
	h.t.Helper()
	must(h.t, h.cluster.Restart(h.ctx))
	h.down = false
}

// Compact has etcd forget its history.
func (h *harness) Compact() {
	h.t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(filepath.Dir(h.cluster.Admin()), "etcd.sock")}, DialTimeout: patience})
	must(h.t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(h.ctx, patience)
	defer cancel()
	now, err := client.Get(ctx, "x")
	must(h.t, err)
	_, err = client.Compact(ctx, now.Header.Revision)
	must(h.t, err)
}

func TestServicesContract(t *testing.T) {
	cluster := startCluster(t)
	storetest.RunServices(t, func(t *testing.T) storetest.ServiceHarness { return newHarness(t, cluster) })
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// follow watches with a client, and returns what was told last of the node.
func follow(t *testing.T, c *Client) func() (zone string, eligible, told bool) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var mu sync.Mutex
	var zone string
	var eligible, told bool
	go func() {
		defer close(ended)
		_ = c.WatchServices(ctx, func(ch store.ServiceChanges) {
			mu.Lock()
			defer mu.Unlock()
			told = true
			if ch.Zone != nil {
				zone = *ch.Zone
			}
			if ch.NodeEligible != nil {
				eligible = *ch.NodeEligible
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return func() (string, bool, bool) {
		mu.Lock()
		defer mu.Unlock()
		return zone, eligible, told
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s", what)
		}
	}
}

func TestNode(t *testing.T) {
	cluster := startCluster(t)
	must(t, cluster.AddNode(t.Context(), kubetest.Node{Name: "node-b"}))
	must(t, cluster.AddNode(t.Context(), kubetest.Node{Name: "node-a", Labels: map[string]string{corev1.LabelTopologyZone: "east"}}))
	h := newHarness(t, cluster)
	state := follow(t, h.Source().(*Client))
	expect := func(what, wantZone string, wantEligible bool) {
		t.Helper()
		until(t, what, func() bool {
			zone, eligible, told := state()
			return told && zone == wantZone && eligible == wantEligible
		})
	}
	expect("the zone", "east", true)
	_, err := cluster.Kubectl(t.Context(), "taint", "node", "node-a", toBeDeleted+"=1:NoSchedule")
	must(t, err)
	expect("the taint", "east", false)
	_, err = cluster.Kubectl(t.Context(), "taint", "node", "node-a", toBeDeleted+"-")
	must(t, err)
	expect("the end of the taint", "east", true)
	_, err = cluster.Kubectl(t.Context(), "patch", "node", "node-a", "-p", `{"metadata":{"finalizers":["example.com/wait"]}}`)
	must(t, err)
	_, err = cluster.Kubectl(t.Context(), "delete", "node", "node-a", "--wait=false")
	must(t, err)
	expect("the deletion that has begun", "east", false)
	_, err = cluster.Kubectl(t.Context(), "patch", "node", "node-a", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	must(t, err)
	expect("the end of the node", "", false)
}

// Who may not read one kind is told so once, with what has to be allowed; nothing is told of the rest, for half of it would take
// endpoints from Services.
func TestForbidden(t *testing.T) {
	cluster := startCluster(t)
	const rules = `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: twilld}, rules: [
  {apiGroups: [""], resources: [nodes, services], verbs: [list, watch]},
  {apiGroups: [networking.k8s.io], resources: [servicecidrs], verbs: [list, watch]},
  {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [%s]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: twilld}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: twilld},
  subjects: [{kind: User, name: twilld, apiGroup: rbac.authorization.k8s.io}]}`
	must(t, cluster.Apply(t.Context(), fmt.Sprintf(rules, "get")))
	file, err := cluster.Kubeconfig("twilld")
	must(t, err)
	log := &lines{}
	c, err := Open(Config{Kubeconfig: file, Node: "node-a"}, slog.New(slog.NewTextHandler(log, nil)))
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	state := follow(t, c)
	text := `cannot list resource \"endpointslices\" in API group \"discovery.k8s.io\"`
	until(t, "the log", func() bool { return log.count(text) > 0 })
	until(t, "health", func() bool { return c.Health() != nil })
	<-time.After(3 * time.Second) // it has been tried again
	if n := log.count(text); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.b.String())
	}
	if _, _, told := state(); told {
		t.Error("half of what there is was told")
	}
	must(t, cluster.Apply(t.Context(), fmt.Sprintf(rules, "list, watch")))
	until(t, "the first change", func() bool { _, _, told := state(); return told })
	until(t, "health", func() bool { return c.Health() == nil })
}

// Before Kubernetes 1.33 there are no ServiceCIDRs. The rest is told, and the server is not asked again all the time.
func TestWithoutServiceCIDRs(t *testing.T) {
	api := fake.NewClientset()
	var asked atomic.Int32
	missing := func() error {
		asked.Add(1)
		return apierrors.NewNotFound(schema.GroupResource{Group: "networking.k8s.io", Resource: "servicecidrs"}, "")
	}
	api.PrependReactor("list", "servicecidrs", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, missing() })
	api.PrependWatchReactor("servicecidrs", func(clienttesting.Action) (bool, watch.Interface, error) { return true, nil, missing() })
	_, err := api.CoreV1().Services("default").Create(t.Context(), storetest.TestService("a", 80), metav1.CreateOptions{})
	must(t, err)
	c := newClient(Config{Node: "node-a"}, slog.New(slog.DiscardHandler))
	c.api = api
	t.Cleanup(func() { must(t, c.Close()) })
	v := storetest.WatchServices(t, c)
	v.Until("the Service", func() bool { return len(v.Services) == 1 })
	if v.Networks != nil {
		t.Errorf("networks are %v", v.Networks)
	}
	<-time.After(2 * retryFirst)
	if n := asked.Load(); n > 3 {
		t.Errorf("asked %d times", n)
	}
}
