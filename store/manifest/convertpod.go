package manifest

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/store"
)

// FromPod returns what a node needs of a pod: nil for one that has no address of its own (it uses its node's network), has ended, or is on no node
// yet. The pod's labels are those of the object, not a copy.
func FromPod(pod *corev1.Pod) *store.Pod {
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if pod.Spec.HostNetwork || ended || pod.Spec.NodeName == "" {
		return nil
	}
	out := &store.Pod{Name: nameOf(pod), Node: pod.Spec.NodeName, Labels: pod.Labels, Ports: containerPorts(&pod.Spec), UID: string(pod.UID)}
	texts := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	for _, text := range texts {
		addr, err := addrOf(text)
		ofPod := err == nil && !addr.IsUnspecified() && !addr.IsMulticast() && !addr.IsLoopback()
		if ofPod && !slices.ContainsFunc(out.Addrs, func(a netip.Addr) bool { return a.Is4() == addr.Is4() }) {
			out.Addrs = append(out.Addrs, addr)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.Ready = c.Status == corev1.ConditionTrue
		}
	}
	return out
}

// containerPorts returns the named ports of the containers that run as long as the pod does: the usual ones, and init containers that are restarted
// (KEP-753).
func containerPorts(spec *corev1.PodSpec) []store.PodPort {
	var out []store.PodPort
	add := func(ports []corev1.ContainerPort) {
		for _, p := range ports {
			protocol, err := protocolOf(p.Protocol)
			port, wrong := portOf(p.ContainerPort)
			named := store.PodPort{Name: p.Name, Protocol: protocol, Port: port}
			if p.Name != "" && err == nil && wrong == nil && !slices.Contains(out, named) {
				out = append(out, named)
			}
		}
	}
	for i := range spec.Containers {
		add(spec.Containers[i].Ports)
	}
	for i := range spec.InitContainers {
		if c := &spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c.Ports)
		}
	}
	return out
}
