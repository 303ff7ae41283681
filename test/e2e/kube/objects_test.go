package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// fields are those of an object, as JSON has them.
type fields = map[string]any

// manifest writes objects for Apply.
func manifest(t testing.TB, objects ...fields) string {
	t.Helper()
	var texts []string
	for _, o := range objects {
		text, err := json.Marshal(o)
		must(t, err)
		texts = append(texts, string(text))
	}
	return strings.Join(texts, "\n---\n")
}

// pod is a Pod of one container of agnhost, whose label app is its name. It binds itself to a machine: the scheduler has no say.
func pod(name string, m *kubetest.Machine, args ...string) fields {
	spec := fields{
		"terminationGracePeriodSeconds": 1, // with 0, the API forgets it before the kubelet knows
		"enableServiceLinks":            false,
		"containers":                    []fields{{"name": "main", "image": kubetest.AgnhostImage, "args": args}},
	}
	if m != nil {
		spec["nodeName"] = m.Name()
	}
	return fields{"apiVersion": "v1", "kind": "Pod", "metadata": fields{"name": name, "labels": fields{"app": name}}, "spec": spec}
}

// server is a pod that answers HTTP and UDP on port 8080 with /hostname, /clientip and more (agnhost netexec).
func server(name string, m *kubetest.Machine) fields {
	return pod(name, m, "netexec", "--http-port=8080", "--udp-port=8080")
}

// idle is a pod that does nothing, as cheaply as can be.
func idle(name string, m *kubetest.Machine) fields {
	p := pod(name, m)
	container(p)["image"] = kubetest.PauseImage
	delete(container(p), "args")
	return p
}

// container returns a pod's container, to be changed.
func container(pod fields) fields { return pod["spec"].(fields)["containers"].([]fields)[0] }

// labeled adds labels to an object.
func labeled(object fields, labels fields) fields {
	own, ok := object["metadata"].(fields)["labels"].(fields)
	if !ok {
		own = fields{}
		object["metadata"].(fields)["labels"] = own
	}
	for k, v := range labels {
		own[k] = v
	}
	return object
}

// service is a Service of both families for the pods with the label role.
func service(name, role string, spec fields) fields {
	all := fields{
		"ipFamilyPolicy": "RequireDualStack",
		"selector":       fields{"role": role},
		"ports":          []fields{{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}, {"name": "udp", "port": 90, "targetPort": 8080, "protocol": "UDP"}},
	}
	for k, v := range spec {
		all[k] = v
		if v == nil {
			delete(all, k)
		}
	}
	return fields{"apiVersion": "v1", "kind": "Service", "metadata": fields{"name": name}, "spec": all}
}

// standing is a pod that was made and runs.
type standing struct {
	name    string
	machine *kubetest.Machine
	addrs   []netip.Addr // IPv4, IPv6
}

// addr returns the address of a family.
func (p standing) addr(v6 bool) netip.Addr {
	for _, a := range p.addrs {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

type podState struct {
	Metadata struct{ Name, UID, DeletionTimestamp string }
	Spec     struct{ NodeName string }
	Status   struct {
		Phase, PodIP string
		PodIPs       []struct{ IP netip.Addr }
		Conditions   []struct{ Type, Status string }
		// How often the container was started again, and why.
		ContainerStatuses []struct {
			RestartCount int
			State        struct {
				Waiting struct{ Reason, Message string }
			}
		}
	}
}

func (p *podState) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

func (r *rig) pod(ctx context.Context, name string) (*podState, error) {
	p := &podState{}
	return p, r.Cluster.Get(ctx, "/api/v1/namespaces/default/pods/"+name, p)
}

// make applies objects, which are removed when the test ends, without waiting.
func (r *rig) make(t testing.TB, objects ...fields) {
	t.Helper()
	text := manifest(t, objects...)
	t.Cleanup(func() {
		if err := r.Cluster.Delete(context.Background(), text); err != nil {
			t.Error(err)
		}
	})
	must(t, r.Cluster.Apply(t.Context(), text))
}

// run makes pods and waits until they are ready. They are removed when the test ends.
func (r *rig) run(t testing.TB, pods ...fields) []standing {
	t.Helper()
	r.make(t, pods...)
	var names []string
	for _, p := range pods {
		names = append(names, p["metadata"].(fields)["name"].(string))
	}
	return r.running(t, names...)
}

// running waits until pods are ready.
func (r *rig) running(t testing.TB, names ...string) []standing {
	t.Helper()
	all := make([]standing, len(names))
	for i, name := range names {
		r.within(t, enough, func(ctx context.Context) error {
			p, err := r.pod(ctx, name)
			if err != nil {
				return err
			}
			if !p.ready() || p.Metadata.DeletionTimestamp != "" {
				return fmt.Errorf("pod %s is not ready: %+v", name, p.Status)
			}
			all[i] = standing{name: name}
			for _, m := range r.Machines {
				if m.Name() == p.Spec.NodeName {
					all[i].machine = m
				}
			}
			for _, ip := range p.Status.PodIPs {
				all[i].addrs = append(all[i].addrs, ip.IP)
			}
			if len(all[i].addrs) != 2 {
				return fmt.Errorf("pod %s has the addresses %v, want one a family", name, all[i].addrs)
			}
			return nil
		})
	}
	return all
}

// gone waits until pods do not exist.
func (r *rig) gone(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		r.within(t, enough, func(ctx context.Context) error {
			_, err := r.pod(ctx, name)
			switch {
			case err == nil:
				return fmt.Errorf("pod %s is still there", name)
			case kubetest.IsNotFound(err):
				return nil
			}
			return err
		})
	}
}

// standingPods returns servers that live as long as the site: two on each machine, the first of all on the first one.
func (r *rig) standingPods(t testing.TB) []standing {
	t.Helper()
	if r.pods == nil {
		t.Fatal("the site has no standing pods")
	}
	return r.pods
}

// stand makes them.
func (r *rig) stand(t testing.TB) {
	t.Helper()
	var pods []fields
	for _, suffix := range []string{"a", "b"} {
		for _, m := range r.Machines {
			pods = append(pods, labeled(server(suffix+"-"+m.Name(), m), fields{"role": "server"}))
		}
	}
	r.pods = r.run(t, pods...)
}

// Events

type eventState struct {
	Type, Reason, Note  string
	ReportingController string
	Regarding           struct{ Kind, Name string }
	DeprecatedCount     int
}

// events returns the Events about an object.
func (r *rig) events(ctx context.Context, kind, name string) ([]eventState, error) {
	var list struct{ Items []eventState }
	if err := r.Cluster.Get(ctx, "/apis/events.k8s.io/v1/events", &list); err != nil {
		return nil, err
	}
	var about []eventState
	for _, e := range list.Items {
		if e.Regarding.Kind == kind && e.Regarding.Name == name {
			about = append(about, e)
		}
	}
	return about, nil
}

// told waits for an Event of a reason (any, when it is empty) about an object whose text contains words, and returns it.
func (r *rig) told(t testing.TB, kind, name, reason string, words ...string) eventState {
	t.Helper()
	var found eventState
	r.within(t, enough, func(ctx context.Context) error {
		all, err := r.events(ctx, kind, name)
		if err != nil {
			return err
		}
		errs := []error{fmt.Errorf("no Event %s about %s %s says %q", reason, kind, name, words)}
		for _, e := range all {
			if (reason == "" || e.Reason == reason) && containsAll(e.Note, words) {
				found = e
				return nil
			}
			errs = append(errs, fmt.Errorf("%s %s: %s", e.Type, e.Reason, e.Note))
		}
		return errors.Join(errs...)
	})
	return found
}

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
