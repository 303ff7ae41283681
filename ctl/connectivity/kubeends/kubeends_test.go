package kubeends

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/twill-cni/twill/ctl/connectivity"
)

// Whatever nodes are called, the names of their pods' Services are allowed, and no two are the same.
func TestShorten(t *testing.T) {
	long := strings.Repeat("very-long-", 12)
	nodes := []string{"node1", "a.example.com", "a-example-com", "n-a-example-com-1", "10.0.0.1", "n-10-0-0-1-4", long + "a", long + "b", strings.Repeat("x", 40), strings.Repeat("x", 41), "1"}
	short := shorten(nodes)
	taken := map[string]bool{}
	for _, node := range nodes {
		name := short[node]
		service := name + "-" + string(connectivity.Client)
		if problems := validation.IsDNS1035Label(service); problems != nil || taken[name] {
			t.Errorf("%s: %s: %v", node, name, problems)
		}
		taken[name] = true
	}
	if short["node1"] != "node1" || short["a-example-com"] != "a-example-com" {
		t.Errorf("a good name is changed: %v", short)
	}
}

func TestRunning(t *testing.T) {
	pod := func(s corev1.ContainerState) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}, ContainerStatuses: []corev1.ContainerStatus{{State: s}}}}
	}
	waits := func(reason string) *corev1.Pod {
		return pod(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "why"}})
	}
	noPlace := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "no room"}}}}
	ended := pod(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}})
	ended.Status.Phase = corev1.PodFailed
	leaving := pod(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	leaving.DeletionTimestamp = &metav1.Time{}
	for name, tt := range map[string]struct {
		pod  *corev1.Pod
		why  string
		over bool
	}{
		"running":  {pod: pod(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})},
		"starting": {pod: waits("ContainerCreating"), why: "it is Pending"},
		"no image": {pod: waits("ImagePullBackOff"), why: "ImagePullBackOff: why"},
		"no place": {pod: noPlace, why: "it has no place: no room"},
		"ended":    {pod: ended, why: "OOMKilled, exit code 137", over: true},
		"leaving":  {pod: leaving, why: "it has ended", over: true},
	} {
		why, over := running(tt.pod)
		if over != tt.over || !strings.Contains(why, tt.why) || (why == "") != (tt.why == "") {
			t.Errorf("%s: %q, %t", name, why, over)
		}
	}
}
