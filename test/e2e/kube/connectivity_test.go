package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// probe is a question by HTTP, and the answer that it wants. An address stands for itself with any port: that is how /clientip answers.
type probe struct {
	url, want string
}

// ask has a pod ask all of them in one go, and returns what was answered wrongly.
func (r *rig) ask(ctx context.Context, pod string, probes ...probe) error {
	if err := check(probes, func(script string) (string, error) { return r.exec(ctx, pod, script) }); err != nil {
		return fmt.Errorf("from %s: %w", pod, err)
	}
	return nil
}

// askFrom has a machine ask.
func askFrom(ctx context.Context, m *kubetest.Machine, probes ...probe) error {
	if err := check(probes, func(script string) (string, error) { return run(ctx, m, script) }); err != nil {
		return fmt.Errorf("from %s: %w", m.Name(), err)
	}
	return nil
}

// askOutside has somebody outside of the cluster ask.
func (r *rig) askOutside(ctx context.Context, probes ...probe) error {
	if err := check(probes, func(script string) (string, error) { return r.outside(ctx, script) }); err != nil {
		return fmt.Errorf("from outside: %w", err)
	}
	return nil
}

// failed is the answer of what does not answer, whatever the reason.
const failed = "curl: "

// check has a script that asks all of them run.
func check(probes []probe, run func(string) (string, error)) error {
	var script strings.Builder
	for _, p := range probes {
		patience := 5
		if p.want == failed {
			patience = 1
		}
		// -g: addresses in brackets are no patterns.
		fmt.Fprintf(&script, "echo $(curl -g -sS --max-time %d '%s' 2>&1)\n", patience, p.url)
	}
	out, err := run(script.String())
	if err != nil {
		return err
	}
	lines := strings.Split(out, "\n")
	var errs []error
	for i, p := range probes {
		got := ""
		if i < len(lines) {
			got = strings.TrimSpace(lines[i])
		}
		if !p.matches(got) {
			errs = append(errs, fmt.Errorf("%s says %q, want %q", p.url, got, p.want))
		}
	}
	return errors.Join(errs...)
}

func (p probe) matches(got string) bool {
	if p.want == failed {
		return strings.HasPrefix(got, failed)
	}
	if want, err := netip.ParseAddr(p.want); err == nil {
		addr, err := netip.ParseAddrPort(got)
		return err == nil && addr.Addr().Unmap() == want
	}
	return got == p.want
}

func url(addr netip.Addr, port int, path string) string {
	return fmt.Sprintf("http://%v%s", netip.AddrPortFrom(addr, uint16(port)), path)
}

// on returns the address of a machine of a family.
func on(m *kubetest.Machine, v6 bool) netip.Addr {
	for _, a := range m.Addrs() {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// everyone returns what a pod asks every pod, itself too, in both families: its name, and whom it sees.
func everyone(from standing, pods []standing) []probe {
	var probes []probe
	for _, to := range pods {
		for _, addr := range to.addrs {
			probes = append(probes, probe{url(addr, 8080, "/hostname"), to.name}, probe{url(addr, 8080, "/clientip"), from.addr(addr.Is6()).String()})
		}
	}
	return probes
}

// reachable returns nil when every standing pod reaches all of them.
func (r *rig) reachable(ctx context.Context) error {
	return each(r.pods, func(_ int, from standing) error { return r.ask(ctx, from.name, everyone(from, r.pods)...) })
}

// testConnectivity: every pod reaches every pod, the nodes and what is outside, and nodes reach pods, in both families. The other end sees the
// pod's own address, except outside of the cluster.
func testConnectivity(t *testing.T, r *rig) {
	pods := r.standingPods(t)
	t.Run("pod to pod", func(t *testing.T) { must(t, r.reachable(t.Context())) })

	var hosts []fields
	for _, m := range r.Machines {
		h := pod("host-"+m.Name(), m, "netexec", "--http-port=8090", "--udp-port=8090")
		h["spec"].(fields)["hostNetwork"] = true
		hosts = append(hosts, h)
	}
	hostPods := r.run(t, hosts...)
	t.Run("pod to node", func(t *testing.T) {
		must(t, each(pods, func(_ int, from standing) error {
			var probes []probe
			for _, m := range r.Machines {
				for _, addr := range m.Addrs() {
					seen := from.addr(addr.Is6())
					if m != from.machine { // a node's address is not of the pods' networks: it is outside of them
						seen = on(from.machine, addr.Is6())
					}
					probes = append(probes, probe{url(addr, 8090, "/hostname"), m.Name()}, probe{url(addr, 8090, "/clientip"), seen.String()})
				}
			}
			return r.ask(t.Context(), from.name, probes...)
		}))
	})
	t.Run("node to pod", func(t *testing.T) {
		must(t, each(hostPods, func(_ int, from standing) error {
			var probes []probe
			for _, to := range pods {
				for _, addr := range to.addrs {
					probes = append(probes, probe{url(addr, 8080, "/hostname"), to.name})
				}
			}
			return r.ask(t.Context(), from.name, probes...)
		}))
	})
	t.Run("pod to outside", func(t *testing.T) {
		listener := serveOutside(t, r, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.RemoteAddr) }))
		must(t, each(pods, func(_ int, from standing) error {
			var probes []probe
			for _, addr := range r.Underlay.Gateways() {
				probes = append(probes, probe{url(addr, listener, "/"), on(from.machine, addr.Is6()).String()})
			}
			return r.ask(t.Context(), from.name, probes...)
		}))
	})
}

// serveOutside serves HTTP outside of the cluster until the test ends, and returns the port.
func serveOutside(t testing.TB, r *rig, h http.Handler) int {
	t.Helper()
	var listener net.Listener
	must(t, inside(r.Underlay.Namespace(), func() (err error) {
		listener, err = net.Listen("tcp", ":0")
		return err
	}))
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(listener) // it ends with Close
	}()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return listener.Addr().(*net.TCPAddr).Port
}
