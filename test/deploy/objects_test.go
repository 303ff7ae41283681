package deploy

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// objects are what the chart renders. Each was read strictly: a field that its type does not have would have ended the test.
type objects struct {
	daemons  map[string]*appsv1.DaemonSet
	configs  map[string]*corev1.ConfigMap
	services map[string]*corev1.Service
	role     rbacv1.ClusterRole
	binding  rbacv1.ClusterRoleBinding
	account  corev1.ServiceAccount
	policy   admissionv1.ValidatingAdmissionPolicy
	enforced admissionv1.ValidatingAdmissionPolicyBinding
	others   map[string]map[string]any // kinds of the Prometheus operator
}

func helm(t *testing.T) Helm {
	t.Helper()
	h, err := NewHelm("../..")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func render(t *testing.T, values ...string) objects {
	t.Helper()
	text, err := helm(t).Template(values...)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

// parse reads what helm has rendered.
func parse(t *testing.T, text string) objects {
	t.Helper()
	docs, err := Split(text)
	if err != nil {
		t.Fatal(err)
	}
	o := objects{daemons: map[string]*appsv1.DaemonSet{}, configs: map[string]*corev1.ConfigMap{}, services: map[string]*corev1.Service{},
		others: map[string]map[string]any{}}
	seen := map[string]bool{}
	for _, d := range docs {
		if seen[d.Key()] {
			t.Errorf("%s is there twice", d.Key())
		}
		seen[d.Key()] = true
		if err := yaml.UnmarshalStrict(d.JSON, o.place(d)); err != nil {
			t.Errorf("%s: %v", d.Key(), err)
		}
	}
	return o
}

// place returns where the object is kept.
func (o *objects) place(d Document) any {
	switch d.Kind {
	case "DaemonSet":
		o.daemons[d.Metadata.Name] = &appsv1.DaemonSet{}
		return o.daemons[d.Metadata.Name]
	case "ConfigMap":
		o.configs[d.Metadata.Name] = &corev1.ConfigMap{}
		return o.configs[d.Metadata.Name]
	case "Service":
		o.services[d.Metadata.Name] = &corev1.Service{}
		return o.services[d.Metadata.Name]
	case "ClusterRole":
		return &o.role
	case "ClusterRoleBinding":
		return &o.binding
	case "ServiceAccount":
		return &o.account
	case "ValidatingAdmissionPolicy":
		return &o.policy
	case "ValidatingAdmissionPolicyBinding":
		return &o.enforced
	}
	other := map[string]any{}
	o.others[d.Kind] = other
	return &other
}

// daemon returns the pod that works on every node: the daemon's, or that of the cleanup.
func (o objects) daemon(t *testing.T, name string) corev1.PodSpec {
	t.Helper()
	d := o.daemons[name]
	if d == nil || len(o.daemons) != 1 {
		t.Fatalf("the DaemonSets are not just %s: %d", name, len(o.daemons))
	}
	return d.Spec.Template.Spec
}

// container returns a container or an init container.
func container(t *testing.T, pod corev1.PodSpec, name string) corev1.Container {
	t.Helper()
	all := slices.Concat(pod.InitContainers, pod.Containers)
	i := slices.IndexFunc(all, func(c corev1.Container) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("there is no container %s", name)
	}
	return all[i]
}

// hostPaths says which directories of the host a container sees: "path" or "path (read only)", sorted.
func hostPaths(pod corev1.PodSpec, c corev1.Container) []string {
	var paths []string
	for _, m := range c.VolumeMounts {
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 {
			paths = append(paths, "no volume "+m.Name)
			continue
		}
		if pod.Volumes[i].HostPath == nil {
			continue
		}
		path := pod.Volumes[i].HostPath.Path
		if m.MountPath != path {
			path += " at " + m.MountPath
		}
		if m.ReadOnly {
			path += " (read only)"
		}
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

// rights are the rules of the ClusterRole, one verb each, sorted: "list nodes", "patch events.events.k8s.io".
func (o objects) rights() []string {
	var rights []string
	for _, r := range o.role.Rules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					rights = append(rights, strings.TrimSuffix(fmt.Sprintf("%s %s.%s", verb, resource, group), "."))
				}
			}
		}
		if len(r.ResourceNames)+len(r.NonResourceURLs) > 0 {
			rights = append(rights, "rules with names or URLs")
		}
	}
	slices.Sort(rights)
	return rights
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
