package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/storetest"
	"github.com/twill-cni/twill/test/kubetest"
)

// hostile is a node under test, "self", among others that it knows, and an API server of its own.
type hostile struct {
	*harness
	client *Client
	log    *lines
	reg    store.Registration

	mu    sync.Mutex
	last  store.Snapshot
	least int // the fewest leases that a snapshot had since watchFor
}

const selfSubnet = "10.244.1.0-24"

// newHostile makes a cluster of the node under test and two peers. The kubeconfig is made by the test of the cluster's administrator's.
func newHostile(t *testing.T, change func(cluster *kubetest.Cluster, config string) string) *hostile {
	t.Helper()
	h := &hostile{harness: newHarness(t, startCluster(t)), log: &lines{}}
	h.SetNetwork(storetest.Config4)
	s, err := store.ParseKey(selfSubnet)
	must(t, err)
	must(t, h.create("self", s, nil))
	h.Put("10.244.2.0-24", peerValue(2))
	h.Put("10.244.3.0-24", peerValue(3))
	text, err := os.ReadFile(h.cluster.Admin())
	must(t, err)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := string(text)
	if change != nil {
		config = change(h.cluster, config)
	}
	must(t, os.WriteFile(file, []byte(config), 0o600))
	h.client, err = Open(Config{Kubeconfig: file, Node: "self", Peers: true, NetConf: h.netConf, Holdover: time.Second}, slog.New(slog.NewTextHandler(h.log, nil)))
	must(t, err)
	t.Cleanup(func() {
		must(t, h.client.Close())
		if t.Failed() {
			t.Log(h.log.b.String())
		}
	})
	network, err := store.ParseNetwork([]byte(storetest.Config4))
	must(t, err)
	h.reg, err = h.client.Register(t.Context(), network, selfAttributes(), nil)
	must(t, err)
	go func() {
		_ = h.client.Watch(context.Background(), func(s store.Snapshot) { // it ends with the client
			h.mu.Lock()
			defer h.mu.Unlock()
			h.last, h.least = s, min(h.least, len(s.Leases))
		})
	}()
	until(t, "the cluster to be known", func() bool { return h.knows("10.244.1.0-24", "10.244.2.0-24", "10.244.3.0-24") })
	return h
}

func peerValue(n int) string {
	return fmt.Sprintf(`{"PublicIP":"192.0.2.%d","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}}`, n, n)
}

func selfAttributes() store.Attributes {
	return store.Attributes{NodeName: "self", BackendType: "vxlan", PublicIP: netip.MustParseAddr("192.0.2.1"), BackendData: json.RawMessage(`{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`)}
}

// knows reports whether the last snapshot has exactly these subnets.
func (h *hostile) knows(keys ...string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.last.Leases) != len(keys) {
		return false
	}
	for _, key := range keys {
		s, err := store.ParseKey(key)
		must(h.t, err)
		if store.Find(h.last.Leases, s) == nil {
			return false
		}
	}
	return true
}

// peer returns the public address that the last snapshot has for a subnet.
func (h *hostile) peer(key string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, err := store.ParseKey(key)
	must(h.t, err)
	if l := store.Find(h.last.Leases, s); l != nil {
		return l.PublicIP.String()
	}
	return "none"
}

// untouched does something, and checks that no snapshot lacked a lease meanwhile, that the registration stands, and that what happens afterwards
// is heard of.
func (h *hostile) untouched(t *testing.T, what string, do func()) {
	t.Helper()
	h.untouchedFor(t, patience, what, do)
}

// untouchedFor allows that time until it is heard of.
func (h *hostile) untouchedFor(t *testing.T, limit time.Duration, what string, do func()) {
	t.Helper()
	h.mu.Lock()
	h.least = len(h.last.Leases)
	before := h.least
	h.mu.Unlock()
	do()
	begin := time.Now()
	config, err := clientcmd.BuildConfigFromFlags("", h.cluster.Admin()) // it may be another one now
	must(t, err)
	h.api, err = kubernetes.NewForConfig(config)
	must(t, err)
	mark := fmt.Sprintf("192.0.2.%d", 100+time.Now().UnixNano()%100)
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, annotationPublicIP, mark)
	_, err = h.api.CoreV1().Nodes().Patch(h.ctx, nodeName("10.244.2.0-24"), types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	must(t, err)
	for h.peer("10.244.2.0-24") != mark {
		if time.Since(begin) > limit {
			t.Fatalf("%s: what changes afterwards is not known after %v", what, limit)
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Logf("%s: what changes afterwards is known after %v", what, time.Since(begin).Round(time.Millisecond))
	h.mu.Lock()
	least := h.least
	h.mu.Unlock()
	if least < before {
		t.Errorf("%s: a snapshot had %d leases, not %d", what, least, before)
	}
	select {
	case <-h.reg.Lost():
		t.Errorf("%s: the registration is lost: %v", what, h.reg.Err())
	default:
	}
	until(t, "health", func() bool { return h.client.Health() == nil })
}

// The API server is away, and comes back with another certificate of the authority that the client trusts, or of another authority, which is
// written into the file that the client's configuration names, as kubelet does with that of a service account.
func TestNewCertificates(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.crt")
	h := newHostile(t, func(c *kubetest.Cluster, config string) string {
		pem, err := os.ReadFile(filepath.Join(filepath.Dir(c.Admin()), "ca.crt"))
		must(t, err)
		must(t, os.WriteFile(ca, pem, 0o600))
		before, rest, _ := strings.Cut(config, "certificate-authority-data: ")
		_, after, _ := strings.Cut(rest, "}")
		return before + "certificate-authority: " + ca + "}" + after
	})
	h.untouched(t, "a new certificate of the same authority", func() { must(t, h.cluster.Recertify(t.Context())) })
	if os.Getenv("TWILL_OUTAGE") == "" {
		return // client-go reads the file every five minutes
	}
	h.untouchedFor(t, 6*time.Minute, "a new authority", func() {
		pem, err := h.cluster.ReplaceAuthority(t.Context())
		must(t, err)
		until(t, "the client to find that it trusts the server no more", func() bool {
			err := h.client.Health()
			return err != nil && strings.Contains(err.Error(), "certificate")
		})
		must(t, os.WriteFile(ca, pem, 0o600))
	})
}

// etcd is restored from a backup: resource versions begin again where they were, below those that the client has seen.
func TestRestoredBackup(t *testing.T) {
	h := newHostile(t, nil)
	must(t, h.cluster.Backup(t.Context()))
	h.Put("10.244.4.0-24", peerValue(4)) // lost with the restore
	until(t, "a peer of after the backup", func() bool { return h.knows("10.244.1.0-24", "10.244.2.0-24", "10.244.3.0-24", "10.244.4.0-24") })
	for i := range 50 { // versions go on
		h.Put("10.244.3.0-24", peerValue(50+i))
	}
	until(t, "the last of these", func() bool { return h.peer("10.244.3.0-24") == "192.0.2.99" })
	must(t, h.cluster.Restore(t.Context()))
	must(t, h.create("late", mustKey(t, "10.244.5.0-24"), said1(t, "10.244.5.0-24", peerValue(5))))
	begin := time.Now()
	until(t, "what is true after the restore", func() bool {
		return h.knows("10.244.1.0-24", "10.244.2.0-24", "10.244.3.0-24", "10.244.5.0-24") && h.peer("10.244.3.0-24") == "192.0.2.3"
	})
	t.Logf("known after %v", time.Since(begin).Round(time.Millisecond))
}

func mustKey(t *testing.T, key string) store.Subnets {
	t.Helper()
	s, err := store.ParseKey(key)
	must(t, err)
	return s
}

func said1(t *testing.T, key, value string) map[string]string {
	t.Helper()
	_, with := said(key, value)
	return with
}

// A token that is not accepted any more is read again from its file.
func TestRotatedToken(t *testing.T) {
	if os.Getenv("TWILL_OUTAGE") == "" {
		t.Skip("client-go reads the file every minute: TWILL_OUTAGE=1 waits for that")
	}
	token := filepath.Join(t.TempDir(), "token")
	fresh := func(c *kubetest.Cluster, bound string) {
		t.Helper()
		must(t, c.Apply(t.Context(), "{apiVersion: v1, kind: Secret, metadata: {name: "+bound+"}}"))
		out, err := c.Kubectl(t.Context(), "create", "token", "twilld", "--bound-object-kind=Secret", "--bound-object-name="+bound)
		must(t, err)
		must(t, os.WriteFile(token, []byte(strings.TrimSpace(out)), 0o600))
	}
	h := newHostile(t, func(c *kubetest.Cluster, config string) string {
		must(t, c.Apply(t.Context(), `{apiVersion: v1, kind: ServiceAccount, metadata: {name: twilld}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: twilld}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin},
  subjects: [{kind: ServiceAccount, name: twilld, namespace: default}]}`))
		fresh(c, "first")
		before, rest, _ := strings.Cut(config, "client-certificate-data: ")
		_, after, _ := strings.Cut(rest, "}")
		return before + "tokenFile: " + token + "}" + after
	})
	h.untouchedFor(t, 90*time.Second, "a token that is revoked, and replaced in its file", func() {
		_, err := h.cluster.Kubectl(t.Context(), "delete", "secret", "first")
		must(t, err)
		must(t, h.cluster.Restart(t.Context())) // it knows tokens for some seconds, and does not look at those of watches that stand
		until(t, "the client to be refused", func() bool { return h.client.Health() != nil })
		fresh(h.cluster, "second")
	})
}

// Rights that are taken away while the daemon runs: what is known stays, what is missing is named, and it goes on when they are back.
func TestRightsTakenAway(t *testing.T) {
	const role = `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: twill}, rules: [
  {apiGroups: [""], resources: [nodes], verbs: [list, watch]}, {apiGroups: [""], resources: [nodes/status], verbs: [patch]}]}`
	const binding = `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: twill}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: twill},
  subjects: [{kind: User, name: twilld, apiGroup: rbac.authorization.k8s.io}]}`
	h := newHostile(t, func(c *kubetest.Cluster, _ string) string {
		must(t, c.Apply(t.Context(), role+"\n---\n"+binding))
		file, err := c.Kubeconfig("twilld")
		must(t, err)
		text, err := os.ReadFile(file)
		must(t, err)
		return string(text)
	})
	h.untouched(t, "no rights for a while", func() {
		must(t, h.cluster.Delete(t.Context(), binding))
		must(t, h.cluster.Restart(t.Context())) // a watch that stands is not asked again
		until(t, "the missing rule to be named", func() bool {
			err := h.client.Health()
			return err != nil && strings.Contains(err.Error(), "nodes")
		})
		must(t, h.cluster.Apply(t.Context(), binding))
	})
}

// What people do to Nodes by hand harms nobody but, at the most, the node that they do it to.
func TestAnnotationsByHand(t *testing.T) {
	h := newHostile(t, nil)
	annotate := func(name string, values map[string]any) {
		t.Helper()
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": values}})
		must(t, err)
		_, err = h.api.CoreV1().Nodes().Patch(h.ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
		must(t, err)
	}
	peer := nodeName("10.244.3.0-24")
	for _, garbage := range []map[string]any{
		{annotationData: "{"}, {annotationData: "[]"}, {annotationData: strings.Repeat("x", 100_000)}, {annotationPublicIP: "nonsense"}, {annotationPublicIP: "0.0.0.0"},
		{annotationType: ""}, {annotationPublicIPv6: "192.0.2.7%eth0"}, {annotationV6Data: "{}{}"}, {annotationManaged: "perhaps"},
	} {
		h.untouched(t, fmt.Sprintf("%.60v", garbage), func() { annotate(peer, garbage) })
		_, good := said("10.244.3.0-24", peerValue(3))
		mend := map[string]any{annotationV6Data: nil, annotationPublicIPv6: nil}
		for key, value := range good {
			mend[key] = value
		}
		annotate(peer, mend)
		until(t, "the mended peer", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.last.Rejected) == 0 && len(h.last.Leases) == 3
		})
	}

	h.untouched(t, "the node's own annotations removed", func() {
		none := map[string]any{}
		for _, key := range published {
			none[key] = nil
		}
		annotate("self", none)
		until(t, "they are there again", func() bool { v, ok := h.Get(selfSubnet); return ok && strings.Contains(v, "192.0.2.1") })
	})

	annotate("self", map[string]any{annotationOverwrite: "198.51.100.1"})
	until(t, "the operator's address", func() bool { return h.peer(selfSubnet) == "198.51.100.1" })
	annotate("self", map[string]any{annotationOverwrite: "nonsense"})
	until(t, "the complaint", func() bool { return h.reg.Err() != nil })
	if have := h.peer(selfSubnet); have != "198.51.100.1" {
		t.Errorf("nonsense in %s made the address %s", annotationOverwrite, have)
	}
	annotate("self", map[string]any{annotationOverwrite: nil})
	until(t, "the node's own address", func() bool { return h.peer(selfSubnet) == "192.0.2.1" && h.reg.Err() == nil })
}

// The Node is deleted, and kubelet registers it again: with the same subnets nothing happens but that it publishes again, with others the
// registration is lost.
func TestNodeRegisteredAgain(t *testing.T) {
	h := newHostile(t, nil)
	must(t, h.api.CoreV1().Nodes().Delete(h.ctx, "self", metav1.DeleteOptions{}))
	until(t, "the Node's end", func() bool { return h.reg.Err() != nil })
	must(t, h.create("self", mustKey(t, selfSubnet), nil))
	until(t, "the record", func() bool { v, ok := h.Get(selfSubnet); return ok && strings.Contains(v, "192.0.2.1") })
	until(t, "peace", func() bool { return h.reg.Err() == nil })
	select {
	case <-h.reg.Lost():
		t.Error("lost, with the same subnets")
	default:
	}
	must(t, h.api.CoreV1().Nodes().Delete(h.ctx, "self", metav1.DeleteOptions{}))
	must(t, h.create("self", mustKey(t, "10.244.77.0-24"), nil))
	select {
	case <-h.reg.Lost():
	case <-time.After(patience):
		t.Fatal("not lost")
	}
	if err := h.reg.Err(); !errors.Is(err, store.ErrLost) || !strings.Contains(err.Error(), "10.244.77.0/24") {
		t.Errorf("the error is %v", err)
	}
	if _, ok := h.Get("10.244.77.0-24"); ok {
		t.Error("the lost registration has published the new subnets")
	}
}
