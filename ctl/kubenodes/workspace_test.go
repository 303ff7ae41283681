package kubenodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
)

const enough = 30 * time.Second

// namespaces is an API server that has namespaces, and takes service accounts without a word.
type namespaces struct {
	mu      sync.Mutex
	objects map[string]*corev1.Namespace
	version int
	deleted int
	alive   bool // somebody shows a sign of life between any two questions
}

func (s *namespaces) put(n *corev1.Namespace) *corev1.Namespace {
	s.version++
	n.ResourceVersion = fmt.Sprint(s.version)
	s.objects[n.Name] = n
	return n
}

// read reads what client-go sends, in whichever of its formats; what cannot be read stays empty.
func read(r *http.Request, into runtime.Object) {
	if body, err := io.ReadAll(r.Body); err == nil {
		_, _, _ = scheme.Codecs.UniversalDeserializer().Decode(body, nil, into)
	}
}

func (s *namespaces) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces"), "/")
	n := s.objects[name]
	fail := func(code int, reason metav1.StatusReason) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{Status: metav1.StatusFailure, Message: string(reason), Code: int32(code), Reason: reason})
	}
	switch {
	case strings.HasSuffix(name, "/serviceaccounts"):
		_ = json.NewEncoder(w).Encode(corev1.ServiceAccount{})
	case r.Method == http.MethodPost:
		made := &corev1.Namespace{}
		read(r, made)
		if s.objects[made.Name] != nil {
			fail(http.StatusConflict, metav1.StatusReasonAlreadyExists)
			return
		}
		made.UID = types.UID(fmt.Sprintf("uid-%d", s.version))
		_ = json.NewEncoder(w).Encode(s.put(made))
	case n == nil:
		fail(http.StatusNotFound, metav1.StatusReasonNotFound)
	case r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(n)
		if s.alive {
			s.put(n)
		}
	case r.Method == http.MethodPatch:
		var patch corev1.Namespace
		_ = json.NewDecoder(r.Body).Decode(&patch)
		if patch.UID != n.UID {
			fail(http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		for k, v := range patch.Annotations {
			n.Annotations[k] = v
		}
		_ = json.NewEncoder(w).Encode(s.put(n))
	case r.Method == http.MethodDelete:
		var o metav1.DeleteOptions
		read(r, &o)
		p := o.Preconditions
		if p == nil || p.UID == nil || *p.UID != n.UID || p.ResourceVersion != nil && *p.ResourceVersion != n.ResourceVersion {
			fail(http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		s.deleted++
		delete(s.objects, name)
		_ = json.NewEncoder(w).Encode(metav1.Status{Status: metav1.StatusSuccess})
	}
}

var mine = WorkspaceOptions{Name: "test", Owner: "me@here", Beat: time.Millisecond}

// left is a namespace that is there already.
func left(mark func(*corev1.Namespace)) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: mine.Name, UID: "old", Labels: map[string]string{managedBy: tool}, Annotations: map[string]string{ownerMark: "you@there"}}}
	mark(n)
	return n
}

func TestOpenWorkspace(t *testing.T) {
	for name, tt := range map[string]struct {
		there *corev1.Namespace
		alive bool
		want  string // of the error
	}{
		"nothing there": {},
		"killed":        {there: left(func(*corev1.Namespace) {})},
		"kept":          {there: left(func(n *corev1.Namespace) { n.Annotations[keptMark] = "true" })},
		"under way":     {there: left(func(*corev1.Namespace) {}), alive: true, want: "another test is under way in namespace test, of you@there"},
		"foreign":       {there: left(func(n *corev1.Namespace) { n.Labels = nil }), want: "is not of twillctl's making"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &namespaces{objects: map[string]*corev1.Namespace{}, alive: tt.alive}
			if tt.there != nil {
				s.put(tt.there)
			}
			c := open(t, s.ServeHTTP)
			w, err := c.OpenWorkspace(t.Context(), mine)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || s.deleted > 0 {
					t.Errorf("%v; %d are deleted", err, s.deleted)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for alive, until := "", time.Now().Add(enough); alive == ""; { // it shows signs of life
				s.mu.Lock()
				n := s.objects[mine.Name].DeepCopy()
				if n == nil {
					n = &corev1.Namespace{}
				}
				alive = n.Annotations[aliveMark]
				s.mu.Unlock()
				if n.UID == "old" || n.Labels["pod-security.kubernetes.io/enforce"] != "restricted" || time.Now().After(until) {
					t.Fatalf("%+v", n)
				}
			}
			if err := w.Close(t.Context(), false); err != nil || len(s.objects) > 0 {
				t.Errorf("%v, %v", err, s.objects)
			}
			if err := w.Close(t.Context(), false); err != nil {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

// What is kept is removed by the next one without waiting, and a namespace that is another's by now is left alone.
func TestKeep(t *testing.T) {
	s := &namespaces{objects: map[string]*corev1.Namespace{}}
	c := open(t, s.ServeHTTP)
	slow := mine
	slow.Beat = time.Hour
	first, err := c.OpenWorkspace(t.Context(), slow)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(t.Context(), true); err != nil || len(s.objects) != 1 {
		t.Fatalf("%v, %v", err, s.objects)
	}
	second, err := c.OpenWorkspace(t.Context(), slow)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(t.Context(), false); err != nil || len(s.objects) != 1 {
		t.Errorf("the first has deleted the second's: %v, %v", err, s.objects)
	}
	if err := first.Close(t.Context(), true); err == nil {
		t.Error("the first has marked the second's")
	}
	if err := second.Close(t.Context(), false); err != nil || len(s.objects) != 0 {
		t.Errorf("%v, %v", err, s.objects)
	}
}

// Who is interrupted while it watches for a sign of life does not wait.
func TestReclaimInterrupted(t *testing.T) {
	s := &namespaces{objects: map[string]*corev1.Namespace{}}
	s.put(left(func(*corev1.Namespace) {}))
	c := open(t, s.ServeHTTP)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	slow := mine
	slow.Beat = time.Hour
	if _, err := c.OpenWorkspace(ctx, slow); !errors.Is(err, context.Canceled) || s.deleted > 0 {
		t.Error(err, s.deleted)
	}
}

func TestMachineOf(t *testing.T) {
	node := func(change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelOSStable: "linux"}}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeExternalIP, Address: "203.0.113.1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}}
		change(n)
		return n
	}
	for want, n := range map[string]*corev1.Node{
		"":                      node(func(*corev1.Node) {}),
		"it is cordoned":        node(func(n *corev1.Node) { n.Spec.Unschedulable = true }),
		"it is not Ready":       node(func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }),
		"it is being deleted":   node(func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{} }),
		"its system is windows": node(func(n *corev1.Node) { n.Labels[corev1.LabelOSStable] = "windows" }),
	} {
		if m := machineOf(n); m.Unfit != want || fmt.Sprint(m.Addresses) != "[192.0.2.1]" {
			t.Errorf("%+v, want %q", m, want)
		}
	}
}
