package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestScenarios makes every packet of the table meet Twill's service proxy and kube-proxy, and wants the same of both, but for the differences.
func TestScenarios(t *testing.T) {
	t.Parallel()
	for _, kind := range []implementation{twill, kubeProxy} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			newRig(t, kind).scenarios(t)
		})
	}
}

// failure is a probe that did not get what it should.
type failure struct {
	scenario int
	text     string
}

// scenarios does the first steps of all scenarios, then all their probes at once, then the second steps, and so on.
func (r *rig) scenarios(t *testing.T) {
	all := scenarios()
	t.Logf("%d scenarios", len(all))
	var failures []failure
	for i, more := 0, true; more; i++ {
		begin := time.Now()
		more = false
		for n := range all {
			if i < len(all[n].steps) {
				more = true
				r.change(t, n, all[n].steps[i])
			}
		}
		if !more {
			break
		}
		r.barrier(t)
		ready := time.Now()
		failures = append(failures, r.probes(t, all, i)...)
		t.Logf("step %d: changed in %v, probed in %v", i+1, ready.Sub(begin).Round(time.Millisecond), time.Since(ready).Round(time.Millisecond))
	}
	asked, waited := int64(0), int64(0)
	for _, m := range r.machines {
		asked, waited = asked+m.asked.Load(), waited+m.waited.Load()
	}
	t.Logf("%d questions asked, of which %d waited for a second packet", asked, waited)
	for n, s := range all {
		t.Run(s.name, func(t *testing.T) {
			for _, f := range failures {
				if f.scenario == n {
					t.Error(f.text)
				}
			}
		})
	}
}

// change makes a step's objects what they should be.
func (r *rig) change(t *testing.T, n int, s step) {
	t.Helper()
	vars := r.vars(t, n)
	if s.remove != "" {
		must(t, r.Delete(t.Context(), vars.expand(t, s.remove, "")))
	}
	if s.apply != "" {
		must(t, r.Apply(t.Context(), vars.expand(t, "{apiVersion: v1, kind: Namespace, metadata: {name: $ns}}\n"+s.apply, "")))
	}
}

// probes makes all probes of the i-th steps.
func (r *rig) probes(t *testing.T, all []scenario, i int) []failure {
	var (
		mu       sync.Mutex
		failures []failure
		group    sync.WaitGroup
	)
	for n, s := range all {
		if i >= len(s.steps) {
			continue
		}
		vars := r.vars(t, n)
		for _, p := range s.steps[i].probes {
			for _, one := range vars.probes(t, p) {
				want := one.want
				if d := differences[difference{s.name, p.from, one.original}]; r.kind == kubeProxy && d.kubeProxy != "" {
					want = d.kubeProxy
				}
				m := r.machines[p.from]
				group.Add(1)
				go func() {
					m.queue <- func() {
						defer group.Done()
						one.want = want
						begin := time.Now()
						have := m.judge(one.probe)
						if r.kind == kubeProxy && have == late && refusedLate(one.probe) {
							have = refused
						}
						if took := time.Since(begin); took > 4*time.Second {
							t.Logf("%s: %s took %v", s.name, one, took.Round(time.Millisecond))
						}
						if have == want {
							return
						}
						mu.Lock()
						defer mu.Unlock()
						failures = append(failures, failure{n, fmt.Sprintf("step %d: %s (%s): have %q, want %q", i+1, one, p.to, have, want)})
					}
				}()
			}
		}
	}
	group.Wait()
	return failures
}

// variables are what $name stands for in one scenario.
type variables map[string]string

// vars returns the variables of the n-th scenario: namespace ns; ClusterIP vip; a ClusterIP that nobody has, free; externalIP ext; a load balancer's
// address lb; node ports np and np2; health check node port hc; and the machines' addresses, by name. Addresses have a family at the end of their
// name: vip4, vip6. In a probe, one without it stands for both.
func (r *rig) vars(t *testing.T, n int) variables {
	t.Helper()
	n++
	if n > 220 {
		t.Fatal("there are no addresses for so many scenarios")
	}
	v := variables{
		"ns":   fmt.Sprintf("scenario-%d", n),
		"vip4": fmt.Sprintf("10.96.0.%d", 20+n), "vip6": fmt.Sprintf("fd00:96::%x", 20+n),
		"free4": fmt.Sprintf("10.96.200.%d", n), "free6": fmt.Sprintf("fd00:96::f0%02x", n),
		"ext4": fmt.Sprintf("198.51.100.%d", n), "ext6": fmt.Sprintf("2001:db8:e::%x", n),
		"lb4": fmt.Sprintf("203.0.113.%d", n), "lb6": fmt.Sprintf("2001:db8:f::%x", n),
		"np": strconv.Itoa(30000 + 4*n), "np2": strconv.Itoa(30001 + 4*n), "hc": strconv.Itoa(30002 + 4*n),
	}
	for name, m := range r.machines {
		v[name+"4"], v[name+"6"] = m.addrs[false].String(), m.addrs[true].String()
	}
	v["second1"], v["second2"] = "172.30.77.1", "172.30.77.2"
	for _, p := range r.lab.Pods() {
		for _, g := range p.Gateways() {
			if p.Name == "c" && g.Is4() {
				v["gateway2"] = g.String()
			}
		}
	}
	return v
}

// expand replaces variables. Those whose name lacks a family get the one given.
func (v variables) expand(t *testing.T, text, family string) string {
	t.Helper()
	return os.Expand(text, func(name string) string {
		value, ok := v[name]
		if !ok {
			value, ok = v[name+family]
		}
		if !ok {
			t.Fatalf("there is no variable $%s", name)
		}
		return value
	})
}

// expanded is a probe of one family.
type expanded struct {
	probe
	original string // what the table has as its to, with the family in the name of the address
}

var addressOf = regexp.MustCompile(`\$([a-z0-9]+):`) // in a probe

// probes returns the probe, once for each family that it is about.
func (v variables) probes(t *testing.T, p probe) []expanded {
	t.Helper()
	found := addressOf.FindStringSubmatch(p.to)
	if found == nil || v[found[1]] != "" {
		return []expanded{v.probe(t, p, p.to)}
	}
	var both []expanded
	for _, family := range []string{"4", "6"} {
		both = append(both, v.probe(t, p, strings.Replace(p.to, "$"+found[1]+":", "$"+found[1]+family+":", 1)))
	}
	return both
}

func (v variables) probe(t *testing.T, p probe, to string) expanded {
	i := strings.LastIndex(to, " ")
	how, rest := to[:i], to[i+1:]
	at := v.expand(t, rest, "")
	if i := strings.LastIndex(at, ":"); !strings.HasPrefix(at, "[") {
		if a, err := netip.ParseAddr(at[:i]); err == nil && a.Is6() {
			at = "[" + at[:i] + "]" + at[i:]
		}
	}
	return expanded{probe: probe{p.from, how + " " + at, v.expand(t, p.want, "")}, original: to}
}

// healthAnswer is what a health check says of the scenario's Service.
func healthAnswer(code int, mediaType string, endpoints int) string {
	return fmt.Sprintf(`%d %s weight=%d {"service":{"namespace":"$ns","name":"web"},"localEndpoints":%d,"serviceProxyHealthy":true}`,
		code, mediaType, endpoints, endpoints)
}

// barrier returns when everything that was changed before is in the kernels of all nodes: a Service that came last is. Proxies take changes of Services,
// and of EndpointSlices, in the order of their coming, and never fewer than those that they have.
func (r *rig) barrier(t *testing.T) {
	t.Helper()
	v := variables{"ns": "default", "a4": r.machines["a"].addrs[false].String(), "a6": r.machines["a"].addrs[true].String()}
	service, endpoints := service("barrier", "ipFamilyPolicy: RequireDualStack, ports: [{port: 80, targetPort: 8080}]"), slice{service: "barrier", endpoints: "a"}.yaml()
	must(t, r.Delete(t.Context(), v.expand(t, endpoints+service, "")))
	must(t, r.Apply(t.Context(), v.expand(t, service, "")))
	must(t, r.Apply(t.Context(), v.expand(t, endpoints, "")))
	var is struct {
		Spec struct{ ClusterIPs []netip.Addr }
	}
	must(t, r.Get(t.Context(), "/api/v1/namespaces/default/services/barrier", &is))
	within(t, patience, func() error {
		var errs []error
		for _, node := range nodeNames {
			for _, ip := range is.Spec.ClusterIPs {
				if have := r.ask(t.Context(), node, "tcp", netip.AddrPortFrom(ip, 80)); have != "a~" {
					errs = append(errs, fmt.Errorf("%s has %q of the last Service", node, have))
				}
			}
		}
		return errors.Join(errs...)
	})
}

// ask asks once, from a machine.
func (r *rig) ask(ctx context.Context, from, protocol string, to netip.AddrPort) string {
	answer := make(chan string, 1)
	m := r.machines[from]
	select {
	case m.queue <- func() { answer <- m.ask(protocol, to.String(), silence) }:
		return <-answer
	case <-ctx.Done():
		return ctx.Err().Error()
	}
}
