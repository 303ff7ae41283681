package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/test/e2e/harness"
)

// The addresses that a load balancer has given to the Service web, and what a node announces of them.
const (
	balanced4, balanced6 = "198.51.100.7", "2001:db8:e::7"
	announcedServices    = "services: {loadBalancerIPs: [198.51.100.0/24, \"2001:db8:e::/64\"], communities: [\"64512:200\"]}\n"
)

// front is three nodes with a service proxy, and FRR as the router in front of them.
type front struct {
	lab   *lab.Lab
	nodes []*lab.Node
	tor   *lab.Node
	frr   *peertest.FRR
	log   string // of FRR's bgpd
	peer  string // in the nodes' configuration
}

func newFront(t *testing.T) *front {
	t.Helper()
	l := upBGP(t, lab.Options{Nodes: 3, Family: lab.DualStack, DaemonArgs: []string{"--proxy=nftables"}})
	f := &front{lab: l, nodes: l.Nodes(), tor: outsider(t, l, "tor"), log: "/tmp/" + l.Name() + ".log"}
	must(t, os.WriteFile(f.log, nil, 0o666))
	must(t, os.Chmod(f.log, 0o666)) // FRR is not root
	t.Cleanup(func() { _ = os.Remove(f.log) })
	sh(t, f.tor.Netns(), "sysctl -qw net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1")
	f.frr = router{as: rackAS, nodes: f.nodes, global: "log file " + f.log + "\ndebug bgp updates in\n"}.frr(t, f.tor)
	f.peer = fmt.Sprintf("peers:\n- {name: tor, address: %s, as: %d}\n", address(t, f.tor, false), rackAS)
	for _, n := range f.nodes {
		must(t, n.SetBGPConfig([]byte(f.peer+announcedServices)))
	}
	for _, n := range f.nodes {
		established(t, n, 3)
	}
	return f
}

// apply stores the Service with a traffic policy.
func (f *front) apply(t *testing.T, policy string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "web.yaml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  externalTrafficPolicy: %s
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: %s}, {ip: "%s"}]}}
`, policy, balanced4, balanced6), 0o644))
	twillctl(t, "apply", "-f", file, "--lab", f.lab.Name()).wantOK(t)
}

// endpoint attaches a pod of the Service to a node. It says its name and the client's address to whoever connects.
func (f *front) endpoint(t *testing.T, on *lab.Node, name string) *lab.Pod {
	t.Helper()
	pod, err := on.AddPod(t.Context(), lab.PodOptions{Name: name, Labels: map[string]string{"app": "web"}})
	must(t, err)
	for _, a := range pod.Addrs() {
		harness.ServeTCP(t, pod.Netns(), netip.AddrPortFrom(a, 8080), func(conn *net.TCPConn) {
			from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
			_, _ = fmt.Fprintf(conn, "%s %v\n", name, from) // the client notices
		})
	}
	return pod
}

// visit connects to the Service and returns which endpoint answered, and whom it saw.
func visit(ctx context.Context, from netns.Namespace, to string) (endpoint string, client netip.Addr, err error) {
	var conn net.Conn
	err = from.Do(func() (err error) {
		d := net.Dialer{Timeout: 2 * time.Second}
		conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(to, "80"))
		return err
	})
	if err != nil {
		return "", client, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", client, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", client, fmt.Errorf("read the answer of %s: %w", to, err)
	}
	endpoint, seen, _ := strings.Cut(strings.TrimSpace(line), " ")
	client, err = netip.ParseAddr(seen)
	return endpoint, client, err
}

// routed reports whether the router's kernel sends packets to the Service by these nodes, in both families.
func (f *front) routed(t *testing.T, by ...*lab.Node) func() error {
	t.Helper()
	return func() error {
		var errs []error
		for i, line := range []string{"ip -4 route show " + balanced4, "ip -6 route show " + balanced6} {
			text, err := trySh(t.Context(), f.tor.Netns(), line)
			if err != nil {
				return err
			}
			var have, want []string
			words := strings.Fields(text)
			for i, word := range words[:max(0, len(words)-1)] {
				if word == "via" {
					have = append(have, words[i+1])
				}
			}
			for _, n := range by {
				want = append(want, address(t, n, i == 1).String())
			}
			slices.Sort(have)
			slices.Sort(want)
			if !slices.Equal(have, want) {
				errs = append(errs, fmt.Errorf("%s: by way of %v, want %v", line, have, want))
			}
		}
		return errors.Join(errs...)
	}
}

// answered checks that clients at the router reach the Service many times over, and that it sees what it should see of them.
func (f *front) answered(t *testing.T, by []string, keepsClient bool) {
	t.Helper()
	for i, to := range []string{balanced4, balanced6} {
		for range 20 {
			endpoint, client, err := visit(t.Context(), f.tor.Netns(), to)
			if err != nil {
				t.Fatalf("%s from the router: %v", to, err)
			}
			if !slices.Contains(by, endpoint) {
				t.Fatalf("%s is answered by %s, want one of %v", to, endpoint, by)
			}
			if kept := client == address(t, f.tor, i == 1); kept != keepsClient {
				t.Fatalf("%s: the endpoint sees the client %v; want its own address: %v", to, client, keepsClient)
			}
		}
	}
}

// withdrawals returns how often FRR heard that a route to the Service is gone.
func (f *front) withdrawals(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile(f.log)
	must(t, err)
	if !strings.Contains(string(text), "rcvd UPDATE") {
		t.Errorf("FRR logs no updates:\n%s", text)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "withdrawn") {
			n++
		}
	}
	return n
}

// A router learns the addresses of Services from the nodes and reaches them by all nodes, or, with externalTrafficPolicy Local, by those with an
// endpoint of their own, which see who the client is.
func TestBGPServices(t *testing.T) {
	f := newFront(t)
	one := f.endpoint(t, f.nodes[0], "web-1")

	f.apply(t, "Cluster")
	within(t, enough, f.routed(t, f.nodes...))
	f.answered(t, []string{one.Name}, false)
	f.wantShown(t)
	for _, n := range f.nodes { // nodes translate by themselves
		if routes := sh(t, n.Netns(), "ip route show "+balanced4+"; ip -6 route show "+balanced6); routes != "" {
			t.Errorf("%s has routes to a Service:\n%s", n.Name, routes)
		}
		for _, to := range []string{balanced4, balanced6} {
			if _, _, err := visit(t.Context(), n.Netns(), to); err != nil {
				t.Errorf("%s from %s: %v", to, n.Name, err)
			}
		}
	}

	f.apply(t, "Local")
	within(t, enough, f.routed(t, f.nodes[0]))
	f.answered(t, []string{one.Name}, true)

	three := f.endpoint(t, f.nodes[2], "web-3")
	came := within(t, enough, f.routed(t, f.nodes[0], f.nodes[2]))
	f.answered(t, []string{one.Name, three.Name}, true)
	must(t, three.Detach(t.Context()))
	went := within(t, enough, f.routed(t, f.nodes[0]))
	t.Logf("after a node's first endpoint came the router had the route after %v; after its last one went, it had lost it after %v",
		came.Round(time.Millisecond), went.Round(time.Millisecond))
	if max(came, went) > time.Second {
		t.Error("want a second at most")
	}
	f.answered(t, []string{one.Name}, true)
	f.endpoint(t, f.nodes[1], "web-2")
	within(t, enough, f.routed(t, f.nodes[0], f.nodes[1]))
	must(t, one.Detach(t.Context()))
	within(t, enough, f.routed(t, f.nodes[1]))
	f.answered(t, []string{"web-2"}, true)

	twillctl(t, "delete", "service", "web", "--lab", f.lab.Name()).wantOK(t)
	within(t, enough, f.routed(t))
}

// wantShown checks what twillctl says of the Service on the first node.
func (f *front) wantShown(t *testing.T) {
	t.Helper()
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"routes"}, []string{balanced4 + "/32", balanced6 + "/128", "(this node: Service)", "(this node: pod subnet)"}},
		{[]string{"explain", balanced4 + "/32"}, []string{"this node's own, origin: Service", "announced to", "tor", "64512:200", "an export rule rejects it"}},
	} {
		out := twillctl(t, slices.Concat([]string{"bgp"}, tt.args, []string{"--lab-node", f.nodes[0].Name, "--name", f.lab.Name()})...)
		out.wantOK(t)
		for _, want := range tt.want {
			if !strings.Contains(out.stdout, want) {
				t.Errorf("%v: no %q in\n%s", tt.args, want, out.stdout)
			}
		}
	}
}

// A daemon that is stopped or killed and comes back takes no Service away from the router, and clients notice nothing, even when nobody can say
// which Services there are.
func TestBGPServicesSurviveRestarts(t *testing.T) {
	f := newFront(t)
	f.endpoint(t, f.nodes[0], "web-1")
	f.apply(t, "Local")
	within(t, enough, f.routed(t, f.nodes[0]))
	f.answered(t, []string{"web-1"}, true)
	monitor, before := f.frr.Monitor(), f.withdrawals(t)
	mute := filepath.Join(t.TempDir(), "kubeconfig") // of an API server that does not answer
	must(t, os.WriteFile(mute, []byte(`{"apiVersion": "v1", "kind": "Config", "current-context": "x",
"clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}], "contexts": [{"name": "x", "context": {"cluster": "x"}}]}`), 0o600))
	for _, step := range []struct {
		name string
		end  func(context.Context) error
		args []string
	}{
		{"SIGTERM", f.nodes[0].StopDaemon, nil},
		{"no source of Services", f.nodes[0].StopDaemon, []string{"--kubeconfig=" + mute}},
		{"SIGKILL", f.nodes[0].KillDaemon, nil},
	} {
		must(t, step.end(t.Context()))
		f.answered(t, []string{"web-1"}, true)
		must(t, f.nodes[0].SetDaemon(lab.NodeOptions{Args: step.args}))
		must(t, f.nodes[0].StartDaemon())
		if step.args == nil {
			must(t, f.nodes[0].Ready(t.Context()))
		}
		established(t, f.nodes[0], 3)
		within(t, enough, func() error {
			for i, family := range []string{"ipv4", "ipv6"} {
				prefix := []string{balanced4 + "/32", balanced6 + "/128"}[i]
				if paths := f.frr.Paths(family, prefix); len(paths) != 1 || paths[0].Stale || !paths[0].Valid {
					return fmt.Errorf("%s: FRR has for %s: %+v", step.name, prefix, paths)
				}
			}
			return nil
		})
		f.answered(t, []string{"web-1"}, true)
	}
	if now := f.withdrawals(t); now > before {
		t.Errorf("FRR heard %d withdrawals", now-before)
	}
	if out := monitor.Output(); strings.Contains(out, "Deleted") {
		t.Errorf("routes were deleted at the router:\n%s", out)
	}
}

// What is announced can be changed while the daemon runs. A node that announces no Services any more goes on serving them.
func TestBGPServicesByConfiguration(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	f.endpoint(t, f.nodes[0], "web-1")
	f.apply(t, "Cluster")
	within(t, enough, f.routed(t, f.nodes...))
	must(t, f.nodes[0].SetBGPConfig([]byte(f.peer)))
	within(t, enough, f.routed(t, f.nodes[1:]...))
	f.answered(t, []string{"web-1"}, false)
	must(t, f.nodes[0].SetBGPConfig([]byte(f.peer+"services: {loadBalancerIPs: [192.0.2.0/24]}\n")))
	must(t, f.nodes[1].SetBGPConfig([]byte(f.peer+"services: {loadBalancerIPs: true, trafficPolicy: local}\n")))
	within(t, enough, f.routed(t, f.nodes[2]))
	must(t, f.nodes[0].SetBGPConfig([]byte(f.peer+announcedServices)))
	within(t, enough, f.routed(t, f.nodes[0], f.nodes[2]))
	for _, s := range sessions(t, f.nodes[0]) {
		if s.Flaps > 0 {
			t.Errorf("the session with %s ended", s.Name)
		}
	}
	f.wantNoLoop(t)
}

// wantNoLoop checks that nodes whose default route leads to the router do not send it back what it sent them for a Service and what no
// port of the Service takes.
func (f *front) wantNoLoop(t *testing.T) {
	t.Helper()
	for i, to := range []string{balanced4, balanced6} {
		v6 := i == 1
		sh(t, f.tor.Netns(), "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
		for _, n := range f.nodes {
			sh(t, n.Netns(), fmt.Sprintf("ip route replace default via %v", address(t, f.tor, v6)))
		}
		counter := "awk '$1 == \"Ip:\" { n = $7 } END { print n }' /proc/net/snmp"
		if v6 {
			counter = "awk '$1 == \"Ip6OutForwDatagrams\" { print $2 }' /proc/net/snmp6"
		}
		before := sh(t, f.tor.Netns(), counter)
		for range 3 {
			if err := echo(t.Context(), f.tor.Netns(), netip.MustParseAddr(to), 0); err == nil {
				t.Errorf("somebody answers echo requests to %s", to)
			}
		}
		if after := sh(t, f.tor.Netns(), counter); after != before {
			t.Errorf("%s: packets came back: the router had forwarded %s, and now %s", to, strings.TrimSpace(before), strings.TrimSpace(after))
		}
	}
}
