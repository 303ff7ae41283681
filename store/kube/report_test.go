package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/test/kubetest"
)

// The rules of deploy/ that a Reporter needs.
const (
	rulesToList      = `{apiGroups: [""], resources: [nodes], verbs: [list, watch]}`
	rulesToCondition = `{apiGroups: [""], resources: [nodes/status], verbs: [patch]}`
	rulesToTaint     = `{apiGroups: [""], resources: [nodes], verbs: [patch]}`
	rulesToEvent     = `{apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}`
)

// reporterRig is a Node in a real cluster and a Reporter that may do what the rules say.
type reporterRig struct {
	t       *testing.T
	cluster *kubetest.Cluster
	api     kubernetes.Interface
	user    string
	node    string
	log     *lines
	client  *Client
}

func newReporterRig(t *testing.T, h *harness, node string, rules ...string) *reporterRig {
	r := &reporterRig{t: t, cluster: h.cluster, api: h.api, user: "reporter-" + node, node: node, log: &lines{}}
	must(t, r.cluster.AddNode(t.Context(), kubetest.Node{Name: node}))
	t.Cleanup(func() { h.gone(h.api.CoreV1().Nodes().Delete(context.Background(), node, metav1.DeleteOptions{})) })
	r.allow(rules...)
	file, err := r.cluster.Kubeconfig(r.user)
	must(t, err)
	r.client, err = Open(Config{Kubeconfig: file, Node: node}, slog.New(slog.NewTextHandler(r.log, nil)))
	must(t, err)
	t.Cleanup(func() { must(t, r.client.Close()) })
	return r
}

func (r *reporterRig) allow(rules ...string) {
	r.t.Helper()
	must(r.t, r.cluster.Apply(r.t.Context(), fmt.Sprintf(`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: %[1]s}, rules: [%[2]s]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: %[1]s}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[1]s},
  subjects: [{kind: User, name: %[1]s, apiGroup: rbac.authorization.k8s.io}]}`, r.user, strings.Join(rules, ", "))))
}

// run runs a Reporter; stop ends it and waits until it has ended.
func (r *reporterRig) run() (reporter *Reporter, stop func()) {
	reporter = r.client.Reporter(func(time.Duration) time.Duration { return 0 })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- reporter.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
		ended <- nil
	}
	r.t.Cleanup(stop)
	return reporter, stop
}

func (r *reporterRig) get() *corev1.Node {
	r.t.Helper()
	n, err := r.api.CoreV1().Nodes().Get(r.t.Context(), r.node, metav1.GetOptions{})
	must(r.t, err)
	return n
}

// taint makes these all of the Node's taints.
func (r *reporterRig) taint(taints ...corev1.Taint) {
	r.t.Helper()
	n := r.get()
	n.Spec.Taints = taints
	_, err := r.api.CoreV1().Nodes().Update(r.t.Context(), n, metav1.UpdateOptions{})
	must(r.t, err)
}

func (r *reporterRig) condition(c corev1.NodeCondition) {
	r.t.Helper()
	n := r.get()
	n.Status.Conditions = append(n.Status.Conditions, c)
	_, err := r.api.CoreV1().Nodes().UpdateStatus(r.t.Context(), n, metav1.UpdateOptions{})
	must(r.t, err)
}

// network returns the Node's condition NetworkUnavailable; the zero one when there is none.
func (r *reporterRig) network() (found corev1.NodeCondition) {
	r.t.Helper()
	for _, c := range r.get().Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			found = c
		}
	}
	return found
}

func (r *reporterRig) tainted() bool {
	r.t.Helper()
	return taintPatch(r.get().Spec.Taints) != nil
}

// events returns the Events about an object.
func (r *reporterRig) events(namespace, name string) []eventsv1.Event {
	r.t.Helper()
	list, err := r.api.EventsV1().Events(namespace).List(r.t.Context(), metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("regarding.name", name).String()})
	must(r.t, err)
	return list.Items
}

var ours, oursToo, theirs = corev1.Taint{Key: agentNotReady, Effect: corev1.TaintEffectNoSchedule}, corev1.Taint{Key: agentNotReady, Value: "x", Effect: corev1.TaintEffectNoExecute},
	corev1.Taint{Key: "example.com/mine", Value: "y", Effect: corev1.TaintEffectNoSchedule}

func TestReporter(t *testing.T) {
	h := newHarness(t, startCluster(t))
	all := []string{rulesToList, rulesToCondition, rulesToTaint, rulesToEvent}

	t.Run("serving", func(t *testing.T) {
		r := newReporterRig(t, h, "serving", all...)
		r.taint(ours, theirs, oursToo)
		was := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
		r.condition(corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: "NoRouteCreated", LastTransitionTime: was})
		reporter, stop := r.run()
		reporter.Serving()
		until(t, "the taint", func() bool { return !r.tainted() })
		after := r.get()
		if diff := cmp.Diff([]corev1.Taint{theirs}, after.Spec.Taints, cmpopts.IgnoreFields(corev1.Taint{}, "TimeAdded")); diff != "" {
			t.Error(diff)
		}
		if c := r.network(); c.Status != corev1.ConditionFalse || c.Reason != reasonUp || !c.LastTransitionTime.After(was.Time) {
			t.Errorf("the condition is %v", c)
		}
		if len(after.Status.Conditions) != 2 {
			t.Errorf("conditions are %v", after.Status.Conditions)
		}
		stop()

		// All is right: another daemon's Reporter writes nothing.
		reporter, stop = r.run()
		reporter.Serving()
		until(t, "the look", func() bool {
			reporter.mu.Lock()
			defer reporter.mu.Unlock()
			return !reporter.asked
		})
		stop()
		if now := r.get(); now.ResourceVersion != after.ResourceVersion {
			t.Errorf("the Node was written: %s, before %s", now.ResourceVersion, after.ResourceVersion)
		}
	})

	t.Run("the taint comes back", func(t *testing.T) {
		r := newReporterRig(t, h, "again", all...)
		r.taint(ours)
		reporter, _ := r.run()
		reporter.Serving()
		until(t, "the taint", func() bool { return !r.tainted() })
		r.taint(theirs, ours)
		until(t, "the taint, again", func() bool { return !r.tainted() })
	})

	// Between the read and the patch, others change the list of taints.
	t.Run("race for taints", func(t *testing.T) {
		r := newReporterRig(t, h, "race", all...)
		for name, tt := range map[string]struct{ meanwhile, want []corev1.Taint }{
			"one behind":       {[]corev1.Taint{ours, theirs}, []corev1.Taint{theirs}},
			"one before":       {[]corev1.Taint{theirs, ours}, []corev1.Taint{theirs}},
			"ours is gone":     {[]corev1.Taint{theirs}, []corev1.Taint{theirs}},
			"ours is another":  {[]corev1.Taint{oursToo}, nil},
			"ours twice":       {[]corev1.Taint{ours, theirs, oursToo}, []corev1.Taint{theirs}},
			"nothing is there": {nil, nil},
		} {
			r.taint(ours)
			stale := r.get()
			r.taint(tt.meanwhile...)
			must(t, r.client.removeTaint(t.Context(), stale))
			if diff := cmp.Diff(tt.want, r.get().Spec.Taints, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	})

	t.Run("gone", func(t *testing.T) {
		r := newReporterRig(t, h, "gone", all...)
		reporter := r.client.Reporter(func(time.Duration) time.Duration { return 0 })
		must(t, reporter.Gone(t.Context()))
		if c := r.network(); c.Type != "" {
			t.Errorf("a condition that Twill did not write became %v", c)
		}
		n := r.get()
		must(t, r.client.setCondition(t.Context(), n, isUp))
		must(t, reporter.Gone(t.Context()))
		if c := r.network(); c.Status != corev1.ConditionTrue || c.Reason != reasonRemoved {
			t.Errorf("the condition is %v", c)
		}
		before := r.get().ResourceVersion
		must(t, reporter.Gone(t.Context()))
		if now := r.get().ResourceVersion; now != before {
			t.Error("written twice")
		}
		must(t, r.api.CoreV1().Nodes().Delete(t.Context(), r.node, metav1.DeleteOptions{}))
		must(t, reporter.Gone(t.Context()))
	})

	t.Run("forbidden", func(t *testing.T) {
		r := newReporterRig(t, h, "forbidden", rulesToList)
		r.taint(ours)
		reporter, _ := r.run()
		reporter.Serving()
		reporter.Event(store.Event{Warning: true, Reason: "NetworkNotReady", Message: "x"})
		until(t, "health", func() bool { return reporter.Health() != nil })
		if reason := store.ReasonOf(reporter.Health(), ""); reason != store.ReasonForbidden {
			t.Errorf("the reason is %q", reason)
		}
		until(t, "all rules", func() bool {
			text := fmt.Sprint(reporter.Health())
			return strings.Contains(text, `verb patch for the resource nodes/status of the API group ""`) && strings.Contains(text, `verb patch for the resource nodes of the API group ""`) &&
				strings.Contains(text, `verb create for the resource events of the API group "events.k8s.io"`)
		})
		if n := r.log.count("to ClusterRole twill"); n != 3 {
			t.Errorf("told %d times: %s", n, r.log.b.String())
		}
		r.allow(all...)
		until(t, "the new rules", func() bool {
			reporter.Serving()
			reporter.Event(store.Event{Reason: "Again", Message: time.Now().String()})
			return reporter.Health() == nil && !r.tainted() && r.network().Reason == reasonUp
		})
	})

	t.Run("events", func(t *testing.T) {
		r := newReporterRig(t, h, "events", all...)
		reporter, stop := r.run()
		pod := store.PodRef{Namespace: "default", Name: "web-1", UID: "8d1f0f0e-0000-4000-8000-000000000001"}
		for range 1000 {
			reporter.Event(store.Event{Pod: pod, Reason: "LinkRepaired", Message: "set up again"})
		}
		reporter.Event(store.Event{Warning: true, Reason: "NetworkNotReady", Message: strings.Repeat("ü", 1000)})
		reporter.Event(store.Event{Pod: store.PodRef{Namespace: "no-such-namespace", Name: "x"}, Reason: "LinkRepaired", Message: "set up again"})
		stop()
		got := r.events("default", "web-1")
		if len(got) != 1 || got[0].Series == nil || got[0].Series.Count != 1000 || got[0].Type != "Normal" || got[0].Regarding.UID != "8d1f0f0e-0000-4000-8000-000000000001" {
			t.Errorf("the pod's Events are %v", got)
		}
		got = r.events("default", "events")
		if len(got) != 1 || got[0].Series != nil || got[0].Type != "Warning" || len(got[0].Note) != 1024 || got[0].Regarding.Kind != "Node" {
			t.Errorf("the node's Events are %v", got)
		}
		if text, err := r.cluster.Kubectl(t.Context(), "describe", "node", "events"); err != nil || !strings.Contains(text, "NetworkNotReady") {
			t.Errorf("kubectl describe: %v: %s", err, text)
		}
		if err := reporter.Health(); err != nil {
			t.Error(err)
		}
	})

	t.Run("the API server is away", func(t *testing.T) {
		r := newReporterRig(t, h, "away", all...)
		r.taint(ours)
		reporter, _ := r.run()
		reporter.Event(store.Event{Reason: "First", Message: "before"})
		until(t, "the first Event", func() bool { return len(r.events("default", "away")) == 1 })
		h.Stop()
		reporter.Serving()
		reporter.Event(store.Event{Reason: "Second", Message: "meanwhile"})
		until(t, "the log", func() bool {
			return r.log.count("cannot report") >= 2 // Node and Event
		})
		if err := reporter.Health(); err != nil {
			t.Error(err)
		}
		h.Start()
		until(t, "the taint", func() bool { return !r.tainted() })
		until(t, "the condition", func() bool { return r.network().Reason == reasonUp })
		until(t, "the second Event", func() bool { return len(r.events("default", "away")) == 2 })
		if n := r.log.count("cannot report"); n != 2 { // also not that it was forbidden while the API server started
			t.Errorf("told %d times: %s", n, r.log.b.String())
		}
	})
}

func TestConditionChange(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	then := metav1.NewTime(now.Add(-time.Hour))
	at := metav1.NewTime(now)
	other := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionFalse, LastTransitionTime: then}
	have := func(status corev1.ConditionStatus, reason string) []corev1.NodeCondition {
		return []corev1.NodeCondition{other, {Type: corev1.NodeNetworkUnavailable, Status: status, Reason: reason, LastHeartbeatTime: then, LastTransitionTime: then}}
	}
	tests := map[string]struct {
		have       []corev1.NodeCondition
		writes     bool
		transition metav1.Time
	}{
		"none":                        {[]corev1.NodeCondition{other}, true, at},
		"ours":                        {have(corev1.ConditionFalse, reasonUp), false, at},
		"flannel's":                   {have(corev1.ConditionFalse, "FlannelIsUp"), true, then},
		"a cloud without a route":     {have(corev1.ConditionTrue, "NoRouteCreated"), true, at},
		"ours that was removed":       {have(corev1.ConditionTrue, reasonRemoved), true, at},
		"ours but the other way":      {have(corev1.ConditionTrue, reasonUp), true, at},
		"unknown to whoever cares":    {have(corev1.ConditionUnknown, "NodeStatusNeverUpdated"), true, at},
		"without conditions of nodes": {nil, true, at},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := conditionChange(tt.have, isUp, now)
			if !tt.writes {
				if got != nil {
					t.Errorf("writes %v", got)
				}
				return
			}
			want := isUp
			want.LastHeartbeatTime, want.LastTransitionTime = at, tt.transition
			if diff := cmp.Diff(&want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestForbiddenNamesTheRule(t *testing.T) {
	plain := errors.New("x")
	if err := forbidden(plain, mayTaint); err != plain {
		t.Error(err)
	}
	if err := forbidden(nil, mayTaint); err != nil {
		t.Error(err)
	}
}
