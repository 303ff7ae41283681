package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// serviceState is what the API server says of a Service.
type serviceState struct {
	Spec struct {
		ClusterIPs          []netip.Addr
		HealthCheckNodePort int
		Ports               []struct {
			Name     string
			NodePort int
		}
	}
}

func (s *serviceState) nodePort(t testing.TB, name string) int {
	t.Helper()
	for _, p := range s.Spec.Ports {
		if p.Name == name && p.NodePort != 0 {
			return p.NodePort
		}
	}
	t.Fatalf("the Service has no node port %s: %+v", name, s)
	return 0
}

// serve makes a Service, which is removed when the test ends, and returns what became of it.
func (r *rig) serve(t testing.TB, s fields) *serviceState {
	t.Helper()
	r.make(t, s)
	state := &serviceState{}
	must(t, r.Cluster.Get(t.Context(), "/api/v1/namespaces/default/services/"+s["metadata"].(fields)["name"].(string), state))
	return state
}

// A teller runs a script somewhere: in a pod, on a machine, outside.
type teller struct {
	where string
	run   func(context.Context, string) (string, error)
}

func (r *rig) inPod(name string) teller {
	return teller{name, func(ctx context.Context, script string) (string, error) { return r.exec(ctx, name, script) }}
}

func (r *rig) onMachine(m *kubetest.Machine) teller {
	return teller{m.Name(), func(ctx context.Context, script string) (string, error) { return run(ctx, m, script) }}
}

func (r *rig) fromOutside() teller { return teller{"outside", r.outside} }

// answers asks a URL several times and counts what was answered.
func (from teller) answers(ctx context.Context, url string, times int) (map[string]int, error) {
	out, err := from.run(ctx, fmt.Sprintf("for i in $(seq %d); do echo $(curl -g -sS --max-time 3 '%s' 2>&1); done", times, url))
	if err != nil {
		return nil, fmt.Errorf("%s from %s: %w", url, from.where, err)
	}
	count := map[string]int{}
	for line := range strings.Lines(out) {
		count[strings.TrimSpace(line)]++
	}
	return count, nil
}

// served returns nil when a URL is answered by one of the pods.
func (from teller) served(ctx context.Context, url string, pods []standing) error {
	count, err := from.answers(ctx, url, 1)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if count[p.name] == 1 {
			return nil
		}
	}
	return fmt.Errorf("%s from %s answers %v", url, from.where, count)
}

// balanced returns nil when a URL is answered by some of the pods, and by nobody else. More than one of several have their turn.
func (from teller) balanced(ctx context.Context, url string, pods []standing) error {
	count, err := from.answers(ctx, url, 6)
	if err != nil {
		return err
	}
	for answer := range count {
		if !slices.ContainsFunc(pods, func(p standing) bool { return p.name == answer }) {
			return fmt.Errorf("%s from %s answers %v", url, from.where, count)
		}
	}
	if len(count) == 0 || len(count) < 2 && len(pods) > 1 {
		return fmt.Errorf("%s from %s answers %v: nothing is balanced", url, from.where, count)
	}
	return nil
}

// becomes waits until something is so: a Service takes a moment until it is in every kernel.
func (r *rig) becomes(t testing.TB, condition func(context.Context) error) {
	t.Helper()
	r.within(t, enough, condition)
}

// Addresses of Services that are routed to the cluster from outside.
var (
	externalIPs = []netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8:1::10")}
	balancerIPs = []netip.Addr{netip.MustParseAddr("198.51.100.20"), netip.MustParseAddr("2001:db8:1::20")}
)

func testServices(t *testing.T, r *rig) {
	pods := r.standingPods(t)
	everywhere := func() []teller {
		all := []teller{r.fromOutside(), r.inPod(pods[0].name), r.inPod(pods[1].name)}
		for _, m := range r.Machines {
			all = append(all, r.onMachine(m))
		}
		return all
	}
	inCluster := func() []teller { return everywhere()[1:] }
	// A Service's addresses on a port lead to the pods, from everywhere that is named.
	leads := func(t *testing.T, from []teller, addrs []netip.Addr, port int, to []standing) {
		t.Helper()
		r.becomes(t, func(ctx context.Context) error {
			return each(from, func(_ int, f teller) error {
				for _, addr := range addrs {
					if err := f.balanced(ctx, url(addr, port, "/hostname"), to); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}

	t.Run("cluster-ip", func(t *testing.T) {
		s := r.serve(t, service("cluster", "server", nil))
		leads(t, inCluster(), s.Spec.ClusterIPs, 80, pods)
		t.Run("udp", func(t *testing.T) {
			r.becomes(t, func(ctx context.Context) error {
				for _, addr := range s.Spec.ClusterIPs {
					out, err := r.exec(ctx, pods[0].name, fmt.Sprintf("echo hostname | /usr/bin/nc -u -w 1 %v 90", addr))
					if err != nil || !slices.ContainsFunc(pods, func(p standing) bool { return p.name == out }) {
						return fmt.Errorf("%v port 90 answers %q, %v", addr, out, err)
					}
				}
				return nil
			})
		})
		t.Run("a port that it has not is refused", func(t *testing.T) {
			for _, addr := range s.Spec.ClusterIPs {
				must(t, r.ask(t.Context(), pods[0].name, probe{url(addr, 81, "/"), failed}))
			}
		})
	})
	t.Run("hairpin", func(t *testing.T) {
		alone := r.run(t, labeled(server("alone", r.Machines[0]), fields{"role": "alone"}))
		s := r.serve(t, service("alone", "alone", nil))
		leads(t, []teller{r.inPod("alone")}, s.Spec.ClusterIPs, 80, alone)
	})
	t.Run("endpoints come and go", func(t *testing.T) {
		s := r.serve(t, service("changing", "changing", nil))
		refused := func(ctx context.Context) error {
			for _, addr := range s.Spec.ClusterIPs {
				if err := r.ask(ctx, pods[0].name, probe{url(addr, 80, "/hostname"), failed}); err != nil {
					return err
				}
			}
			return nil
		}
		r.becomes(t, refused)
		all := r.run(t, labeled(server("changing-1", r.Machines[0]), fields{"role": "changing"}), labeled(server("changing-2", r.Machines[1]), fields{"role": "changing"}))
		leads(t, inCluster(), s.Spec.ClusterIPs, 80, all)
		r.kubectl(t, "label", "pod", "changing-1", "role=other", "--overwrite")
		r.becomes(t, func(ctx context.Context) error {
			return r.inPod(pods[0].name).balanced(ctx, url(s.Spec.ClusterIPs[0], 80, "/hostname"), all[1:])
		})
		r.kubectl(t, "label", "pod", "changing-2", "role=other", "--overwrite")
		r.becomes(t, refused)
	})
	t.Run("node-port", func(t *testing.T) {
		s := r.serve(t, service("node-port", "server", fields{"type": "NodePort"}))
		for _, m := range r.Machines {
			leads(t, everywhere(), m.Addrs(), s.nodePort(t, "http"), pods)
		}
	})
	t.Run("external-ip", func(t *testing.T) {
		r.serve(t, service("external-ip", "server", fields{"externalIPs": externalIPs}))
		r.routeOutside(t, externalIPs)
		leads(t, everywhere(), externalIPs, 80, pods)
	})
	t.Run("load-balancer", func(t *testing.T) {
		s := r.serve(t, service("balancer", "server", fields{"type": "LoadBalancer"}))
		r.balance(t, "balancer")
		r.routeOutside(t, balancerIPs)
		leads(t, everywhere(), balancerIPs, 80, pods)
		leads(t, []teller{r.fromOutside()}, r.Machines[1].Addrs(), s.nodePort(t, "http"), pods)
	})
	t.Run("session affinity", func(t *testing.T) {
		s := r.serve(t, service("affine", "server", fields{"sessionAffinity": "ClientIP"}))
		for _, addr := range s.Spec.ClusterIPs {
			for _, from := range []standing{pods[0], pods[1]} {
				r.becomes(t, func(ctx context.Context) error {
					return r.inPod(from.name).served(ctx, url(addr, 80, "/hostname"), pods)
				})
				count, err := r.inPod(from.name).answers(t.Context(), url(addr, 80, "/hostname"), 20)
				if err != nil || len(count) != 1 {
					t.Errorf("20 connections from %s: %v, %v", from.name, count, err)
				}
			}
		}
	})
	t.Run("traffic policy local", func(t *testing.T) { testTrafficPolicyLocal(t, r) })
}

// routeOutside makes addresses known outside of the cluster, as a router's administrator does: by way of the first machine.
func (r *rig) routeOutside(t testing.TB, addrs []netip.Addr) {
	t.Helper()
	for _, addr := range addrs {
		route := fmt.Sprintf("%v via %v", addr, on(r.Machines[0], addr.Is6()))
		out, err := r.outside(t.Context(), "ip route replace "+route)
		if err != nil {
			t.Fatalf("%s: %v: %s", route, err, out)
		}
		t.Cleanup(func() {
			if out, err := r.outside(context.Background(), "ip route del "+route); err != nil {
				t.Errorf("%s: %v: %s", route, err, out)
			}
		})
	}
}

// balance says that a load balancer has given a Service balancerIPs.
func (r *rig) balance(t testing.TB, service string) {
	t.Helper()
	var ingress []string
	for _, a := range balancerIPs {
		ingress = append(ingress, fmt.Sprintf(`{"ip":"%v","ipMode":"VIP"}`, a))
	}
	r.kubectl(t, "patch", "service", service, "--subresource=status", "--type=merge", "-p",
		`{"status":{"loadBalancer":{"ingress":[`+strings.Join(ingress, ",")+`]}}}`)
}

// testTrafficPolicyLocal: what comes from outside goes to pods of the node that it comes to, whose clients' addresses they see; a node without
// them says so to load balancers.
func testTrafficPolicyLocal(t *testing.T, r *rig) {
	pods := r.standingPods(t)
	local := r.run(t, labeled(server("local", r.Machines[1]), fields{"role": "local"}))
	s := r.serve(t, service("local", "local", fields{"type": "LoadBalancer", "externalTrafficPolicy": "Local"}))
	port := s.nodePort(t, "http")
	gateways := r.Underlay.Gateways()
	r.becomes(t, func(ctx context.Context) error {
		var probes []probe
		for i, addr := range r.Machines[1].Addrs() {
			probes = append(probes, probe{url(addr, port, "/clientip"), gateways[i].String()}, probe{url(addr, port, "/hostname"), "local"})
		}
		for _, addr := range r.Machines[0].Addrs() {
			probes = append(probes, probe{url(addr, port, "/hostname"), failed})
		}
		return r.askOutside(ctx, probes...)
	})
	t.Run("clients in the cluster", func(t *testing.T) {
		r.becomes(t, func(ctx context.Context) error {
			var errs []error
			for _, from := range pods {
				for _, addr := range s.Spec.ClusterIPs {
					errs = append(errs, r.ask(ctx, from.name, probe{url(addr, 80, "/hostname"), local[0].name}))
				}
			}
			return errors.Join(errs...)
		})
	})
	t.Run("health check", func(t *testing.T) {
		r.becomes(t, func(ctx context.Context) error {
			got := map[string]string{}
			for _, m := range r.Machines {
				out, err := r.outside(ctx, fmt.Sprintf("curl -sS --max-time 3 -o /dev/null -w '%%{http_code}' http://%v:%d/", m.Addrs()[0], s.Spec.HealthCheckNodePort))
				if err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				got[m.Name()] = out
			}
			if want := map[string]string{"node-1": "503", "node-2": "200"}; !maps.Equal(got, want) {
				return fmt.Errorf("health checks say %v, want %v", got, want)
			}
			return nil
		})
	})
}
