package kubenodes

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// open opens a cluster whose API server is that handler.
func open(t *testing.T, handler http.HandlerFunc) *Cluster {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c}}]\n", server.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(file, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pod(name, node, container string, running bool) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-system"}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: container, Image: "twill:1"}}}}
	if running {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: container, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	}
	return p
}

// The daemons' pods are found through all pages; others that have the label, and what is on its way out or not placed yet, are left out.
func TestList(t *testing.T) {
	leaving := pod("old", "n1", container, true)
	now := metav1.Now()
	leaving.DeletionTimestamp = &now
	pages := map[string]corev1.PodList{
		"":     {ListMeta: metav1.ListMeta{Continue: "more"}, Items: []corev1.Pod{pod("twill-b", "n2", container, true), pod("twill-cleanup", "n1", "cleanup", true)}},
		"more": {Items: []corev1.Pod{pod("twill-a", "n1", container, false), pod("twill-c", "", container, false), leaving}},
	}
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("labelSelector") != selector {
			http.Error(w, "another selector", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(pages[r.FormValue("continue")])
	})
	nodes, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Node{{"n1", "kube-system", "twill-a", false, "twill:1"}, {"n2", "kube-system", "twill-b", true, "twill:1"}}
	if diff := cmp.Diff(want, nodes); diff != "" {
		t.Error(diff)
	}
	if _, err := c.Dial(t.Context(), nodes[0]); err == nil || !strings.Contains(err.Error(), "kubectl -n kube-system describe pod twill-a") {
		t.Errorf("a daemon that does not run: %v", err)
	}
}

func TestNothingThere(t *testing.T) {
	c := open(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(corev1.PodList{})
	})
	if _, err := c.List(t.Context()); err == nil || !strings.Contains(err.Error(), "no pod of Twill") {
		t.Error(err)
	}
}

// Who may not exec learns it from the first read.
func TestForbidden(t *testing.T) {
	c := open(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(metav1.Status{Status: metav1.StatusFailure, Message: "pods/exec is forbidden", Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden})
	})
	conn, err := c.Dial(t.Context(), Node{"n1", "kube-system", "twill-a", true, "twill:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.ReadAll(conn); err == nil || !strings.Contains(err.Error(), "kube-system/twill-a") || !strings.Contains(err.Error(), "forbidden") && !strings.Contains(err.Error(), "403") {
		t.Error(err)
	}
}

// What the relay says on its standard error is why it ended.
func TestEnd(t *testing.T) {
	ours, theirs := net.Pipe()
	s := &stream{Conn: ours, pod: "kube-system/twill-a", cancel: func() {}}
	s.end(fmt.Errorf("command terminated with exit code 1"), "twillctl: twilld does not answer on this node\n")
	_ = theirs.Close()
	if _, err := s.Read(make([]byte, 1)); err == nil || err.Error() != "pod kube-system/twill-a: twillctl: twilld does not answer on this node" {
		t.Error(err)
	}
	var l lines
	for range 3 {
		if n, err := l.Write(make([]byte, 3<<10)); n != 3<<10 || err != nil {
			t.Error(n, err)
		}
	}
	if n := len(l.String()); n != 4<<10 {
		t.Errorf("%d bytes are kept", n)
	}
}
