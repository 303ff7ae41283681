package kubeends

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/kubenodes"
)

// nobody is the user and the group of the agents.
const nobody int64 = 65534

// podFor is a pod of the test: an agent that serves, on one node.
func podFor(name string, role connectivity.Role, node, image string) *corev1.Pod {
	yes, no, user, grace := true, false, nobody, int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: connectivity.Labels(name, role)},
		Spec: corev1.PodSpec{
			Affinity:                      onNode(node),
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			ServiceAccountName:            kubenodes.Account,
			AutomountServiceAccountToken:  &no,
			EnableServiceLinks:            &no,
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: &grace,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user,
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
				// Echo requests without a capability; it is one of the sysctls that Kubernetes calls safe.
				Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ping_group_range", Value: fmt.Sprintf("%d %d", nobody, nobody)}},
			},
			Containers: []corev1.Container{{
				Name: "agent", Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
				Command:                  []string{"twillctl", "agent", "serve", name},
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError, // an image without this command says so
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
				},
				ReadinessProbe: &corev1.Probe{
					ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(connectivity.Port)}},
					PeriodSeconds: 1, TimeoutSeconds: 2, FailureThreshold: 3,
				},
			}},
		},
	}
}

// onNode binds a pod to a node, and leaves it to the scheduler to place it there: what admits pods, quotas and preemption see it, as with a DaemonSet's.
func onNode(node string) *corev1.Affinity {
	is := corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{is}}}}}}
}

// running reports whether a pod's agent runs and has addresses, and if not, what is known of why. It will not run any more when it is over.
func running(p *corev1.Pod) (why string, over bool) {
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return "it has ended: " + p.Status.Reason + " " + p.Status.Message + lastWords(p), true
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running != nil && len(p.Status.PodIPs) > 0 {
			return "", false
		}
		if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			return w.Reason + ": " + w.Message, false
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "it has no place: " + c.Message, false
		}
	}
	return fmt.Sprintf("it is %s", p.Status.Phase), false
}

func lastWords(p *corev1.Pod) string {
	for _, c := range p.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil {
			return fmt.Sprintf("%s, exit code %d %s", t.Reason, t.ExitCode, t.Message)
		}
	}
	return ""
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
