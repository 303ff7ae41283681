package kube

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kuberuntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/twill-cni/twill/store/storetest"
)

// Before Kubernetes 1.28 nobody could ask for pods by their network; those of their node's are left out here.
func TestPodsOfOldServer(t *testing.T) {
	host := policyPod(2)
	host.Spec.HostNetwork = true
	api := fake.NewClientset(policyPod(1), host)
	var refused atomic.Int32
	refuse := func(field string) error {
		if strings.Contains(field, "spec.hostNetwork") {
			refused.Add(1)
			return apierrors.NewBadRequest("field label not supported: spec.hostNetwork")
		}
		return nil
	}
	api.PrependReactor("list", "pods", func(a clienttesting.Action) (bool, kuberuntime.Object, error) {
		err := refuse(a.(clienttesting.ListAction).GetListRestrictions().Fields.String())
		return err != nil, nil, err
	})
	api.PrependWatchReactor("pods", func(a clienttesting.Action) (bool, watch.Interface, error) {
		err := refuse(a.(clienttesting.WatchAction).GetWatchRestrictions().Fields.String())
		return err != nil, nil, err
	})
	c := newClient(Config{Node: "node-a"}, slog.New(slog.DiscardHandler))
	c.api = api
	c.dynamic = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(kuberuntime.NewScheme(), map[schema.GroupVersionResource]string{clusterPolicyResource: "ClusterNetworkPolicyList"})
	t.Cleanup(func() { must(t, c.Close()) })
	v := storetest.WatchPolicies(t, c)
	v.Until("the pod", func() bool { return len(v.Pods) == 1 })
	if refused.Load() != 1 {
		t.Errorf("refused %d times", refused.Load())
	}
}

// largePod is a pod as a cluster has it, of some 8 KB.
func largePod(i int) *corev1.Pod {
	p := policyPod(i)
	p.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 3000)}
	for n := range 40 {
		p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprint("SOME_VARIABLE_", n), Value: strings.Repeat("v", 60)})
	}
	p.Spec.Volumes = make([]corev1.Volume, 6)
	p.Status.ContainerStatuses = make([]corev1.ContainerStatus, 2)
	return p
}

// BenchmarkPolicyMemory is the memory that 10,000 pods of a cluster take, in bytes for each, beside that of the pods as the API has them.
func BenchmarkPolicyMemory(b *testing.B) {
	const n = 10000
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	// decoded makes a pod that shares no memory with others, as those from the network.
	decoded := func(i int) *corev1.Pod {
		data, err := largePod(i).Marshal()
		must(b, err)
		p := &corev1.Pod{}
		must(b, p.Unmarshal(data))
		return p
	}
	for b.Loop() {
		before := inUse()
		whole := make([]*corev1.Pod, n/10)
		for i := range whole {
			whole[i] = decoded(i)
		}
		b.ReportMetric(float64(inUse()-before)/float64(len(whole)), "bytes/whole-pod")
		runtime.KeepAlive(whole)
		whole = nil

		before = inUse()
		a := newPolicyAccumulator()
		pods := podStore{a.add(a.pod)}
		trim := pods.Transformer()
		all := make([]any, 0, n)
		for i := range n {
			object, err := trim(decoded(i))
			must(b, err)
			all = append(all, object)
		}
		b.ReportMetric(float64(inUse()-before)/n, "bytes/trimmed-pod")
		must(b, pods.Replace(all, "1"))
		all = nil
		c, _ := a.take()
		b.ReportMetric(float64(inUse()-before)/n, "bytes/pod")
		if len(c.Pods) != n {
			b.Fatal(len(c.Pods))
		}
		runtime.KeepAlive(a)
		runtime.KeepAlive(c)
	}
}
