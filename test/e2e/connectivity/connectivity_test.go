package connectivity

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
)

// item is a result as it is printed.
type item struct {
	Kind, From, To, Family, Question, Outcome, Detail, Why, Command string
	OK                                                              bool
}

type report struct {
	Total, Failed int
	NotRun        []struct{ Part, Why string }
	Results       []item
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func up(t *testing.T, name string, options lab.Options) *lab.Lab {
	t.Helper()
	options.Name, options.BinDir = runName+name, binDir
	l, err := lab.New(options)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	must(t, l.Up(t.Context()))
	return l
}

// twillctl runs it and returns its exit code. A busy machine gets more time for each answer than a person would give.
func twillctl(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(binDir, "twillctl"), append([]string{"connectivity"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return failed.ExitCode(), out.String(), errs.String()
	}
	must(t, err)
	return 0, out.String(), errs.String()
}

func test(t *testing.T, l *lab.Lab, want int, more ...string) report {
	t.Helper()
	args := append([]string{"test", "--lab", l.Name(), "-o", "json", "--wait", "4s", "--settle", "30s", "--together", "48"}, more...)
	code, out, errs := twillctl(t, args...)
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != want {
		t.Fatalf("exit code %d, want %d; %v: %s%s", code, want, err, out, errs)
	}
	wantNothingLeft(t, l)
	return r
}

// wantNothingLeft checks that pods, Services and policies of the test are gone.
func wantNothingLeft(t *testing.T, l *lab.Lab) {
	t.Helper()
	now, err := lab.Open(lab.Options{Name: l.Name()})
	must(t, err)
	for _, p := range now.Pods() {
		if p.Namespace() != "default" {
			t.Errorf("pod %s is left", p.Name)
		}
	}
	etcd, err := l.Etcd().Client()
	must(t, err)
	found, err := etcd.Get(t.Context(), lab.EtcdPrefix+"/registry/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	must(t, err)
	for _, kv := range found.Kvs {
		if strings.Contains(string(kv.Key), "twill-connectivity") {
			t.Errorf("%s is left", kv.Key)
		}
	}
}

func failures(r report) (out []item) {
	for _, one := range r.Results {
		if !one.OK {
			out = append(out, one)
		}
	}
	return out
}

// nodeOf returns the node of an end, which is a pod or the node itself.
func nodeOf(end string) string {
	node, _, _ := strings.Cut(end, "-")
	return node
}

// wantExactly checks that the cases that failed are those that broken says, by kind and ends.
func wantExactly(t *testing.T, r report, broken func(item) bool) {
	t.Helper()
	right, some := true, false
	for _, one := range r.Results {
		some = some || broken(one)
		if one.OK == broken(one) {
			right = false
			t.Errorf("OK %t: %s: %s to %s, %s: %s %s", one.OK, one.Kind, one.From, one.To, one.Question, one.Outcome, one.Detail)
		}
	}
	if !some {
		t.Error("no case is concerned: the test tests nothing")
	}
	if right && !slices.ContainsFunc(failures(r), func(i item) bool { return i.Why != "" && i.Command != "" }) {
		t.Errorf("no failure is explained: %+v", failures(r))
	}
}

func sh(t *testing.T, ns netns.Namespace, line string) {
	t.Helper()
	if out, err := lab.Command(t.Context(), ns, "sh", "-ec", line).CombinedOutput(); err != nil {
		t.Fatalf("in %s: %s: %v: %s", ns.Name(), line, err, out)
	}
}

// Where all is well, every kind of case is asked in both families, and passes; with something broken, what it concerns fails.
func TestBackends(t *testing.T) {
	for _, backend := range []string{lab.VXLAN, lab.BGP} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := up(t, backend, lab.Options{Nodes: 3, PodsPerNode: 1, Family: lab.DualStack, Proxy: "nftables", Routing: lab.Routing{Backend: backend},
				DaemonArgs: []string{"--policy=on", "--dns=on"}})
			well(t, l)
			blackhole(t, l)
			atOnce(t, l)
			if r := test(t, l, 0); r.Failed > 0 {
				t.Errorf("after all was undone: %+v", failures(r))
			}
		})
	}
}

func well(t *testing.T, l *lab.Lab) {
	t.Helper()
	r := test(t, l, 0)
	got := map[string]int{}
	for _, one := range r.Results {
		if one.Family == "IPv4" {
			got[one.Kind]++
		} else {
			got[one.Kind]--
		}
		got["all "+one.Kind]++
	}
	want := map[string]int{}
	for kind, n := range map[string]int{"pod-to-pod": 120, "large-packets": 60, "pod-to-node": 36, "node-to-pod": 36, "pod-to-service": 120, "hairpin": 24, "node-port": 48, "pod-to-dns": 24,
		"outside": 12, "policy-control": 30, "policy-denied": 48, "policy-allowed": 60} {
		want[kind], want["all "+kind] = 0, n // as many in each family
	}
	if diff := cmp.Diff(want, got); diff != "" || len(r.NotRun) > 0 {
		t.Errorf("%s, not run %v", diff, r.NotRun)
	}
}

// blackhole has node1 send nothing to node2's pods, by IPv4: it breaks both directions between their pods, and what node1 itself asks.
func blackhole(t *testing.T, l *lab.Lab) {
	t.Helper()
	nodes := l.Nodes()
	taken := netip.PrefixFrom(nodes[1].Pods()[0].Addrs()[0], 25).Masked()
	sh(t, nodes[0].Netns(), "ip route add blackhole "+taken.String())
	r := test(t, l, 1, "--wait", "2s")
	sh(t, nodes[0].Netns(), "ip route del blackhole "+taken.String())
	concerned := []string{"pod-to-pod", "large-packets", "pod-to-service", "policy-control", "policy-denied", "policy-allowed"}
	wantExactly(t, r, func(i item) bool {
		from, to := nodeOf(i.From), nodeOf(i.To)
		between := from == "node1" && to == "node2" || from == "node2" && to == "node1"
		if i.Kind == "node-port" { // the node that is asked asks a pod
			from, to = to, behind(i)
		}
		fromNode := i.Kind == "node-to-pod" || i.Kind == "node-port"
		return i.Family == "IPv4" && (slices.Contains(concerned, i.Kind) && between || fromNode && from == "node1" && to == "node2" ||
			fromNode && from == "node2" && to == "node1" && repliesToPods(l))
	})
	for _, one := range failures(r) {
		if one.Kind == "policy-denied" && one.Outcome != "not judged" {
			t.Errorf("a dead way is taken for a policy's: %+v", one)
		}
		if one.Why != "" && !strings.Contains(one.Why, "node1, route: a blackhole route") {
			t.Errorf("the trace says %q", one.Why)
		}
	}
}

// behind returns the node of the pod that is asked at a node's port: each of three clients asks each of three nodes for another, and the underlay for that of the next node.
func behind(i item) string {
	at := strings.Index("123", strings.TrimPrefix(i.To, "node"))
	if i.From == "underlay" {
		return fmt.Sprintf("node%d", (at+1)%3+1)
	}
	return fmt.Sprintf("node%d", (at+strings.Index("123", strings.TrimPrefix(nodeOf(i.From), "node")))%3+1)
}

// repliesToPods reports whether node2's own packets to pods bear an address of its pods' subnet, so that their replies go there: on VXLAN they do.
func repliesToPods(l *lab.Lab) bool { return l.Routing().Backend == lab.VXLAN }

// atOnce has a switch drop large frames to node2 and tell nobody, and a rule of somebody else drop connections to node2's node ports, which a daemon neither repairs nor
// removes. Neither hides the other.
func atOnce(t *testing.T, l *lab.Lab) {
	t.Helper()
	node := l.Nodes()[1].Netns()
	sh(t, l.Underlay(), "ip link set port2 mtu 1400")
	sh(t, node, "nft 'add table inet foreign; add chain inet foreign ports { type filter hook prerouting priority -150; }; "+
		"add rule inet foreign ports ct state new fib daddr type local meta l4proto { tcp, udp } th dport 30000-32767 drop'") // replies come to such numbers, too
	r := test(t, l, 1, "--wait", "2s", "--settle", "5s")
	sh(t, node, "nft delete table inet foreign")
	sh(t, l.Underlay(), "ip link set port2 mtu 1500")
	for _, n := range l.Nodes() { // they remember for ten minutes what a router told them of the way
		sh(t, n.Netns(), "ip -4 route flush cache; ip -6 route flush cache")
	}
	wantExactly(t, r, func(i item) bool {
		return i.Kind == "large-packets" && (nodeOf(i.From) == "node2") != (nodeOf(i.To) == "node2") || i.Kind == "node-port" && i.To == "node2"
	})
}

// What is off is not run, and said so, in JUnit's file, too; that names what failed.
func TestPartsAndJUnit(t *testing.T) {
	t.Parallel()
	l := up(t, "parts", lab.Options{Nodes: 2, PodsPerNode: 1, Proxy: "off"})
	r := test(t, l, 0)
	var off []string
	for _, n := range r.NotRun {
		off = append(off, n.Part+" "+n.Why)
	}
	want := []string{"dns --dns=off on node1, node2", "policies --policy=off on node1, node2", "services --proxy=off on node1, node2"}
	if diff := cmp.Diff(want, off); diff != "" {
		t.Error(diff)
	}
	code, out, errs := twillctl(t, "--lab", l.Name(), "-o", "junit", "--outside", "192.0.2.99:81", "--wait", "2s")
	var suites struct {
		Failures int `xml:"failures,attr"`
		Skipped  int `xml:"skipped,attr"`
		Suites   []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Name    string    `xml:"name,attr"`
				Failure *struct{} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal([]byte(out), &suites); err != nil || code != 1 {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, errs)
	}
	var failed []string
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			if c.Failure != nil {
				failed = append(failed, s.Name+": "+c.Name)
			}
		}
	}
	var bad []string
	for _, pod := range []string{"node1-client", "node1-server", "node2-client", "node2-server"} {
		bad = append(bad, fmt.Sprintf("outside: %s to 192.0.2.99, 192.0.2.99:81/tcp", pod))
	}
	if diff := cmp.Diff(bad, failed); diff != "" || suites.Failures != len(bad) || suites.Skipped != 3 {
		t.Errorf("%d failures, %d skipped: %s", suites.Failures, suites.Skipped, diff)
	}
	notRun(t, l)
	interrupted(t, l)
}

// notRun has a test that cannot be run end with 2, and say why.
func notRun(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--lab", runName + "none"}, "not found"},
		{[]string{}, "what is to be tested?"},
		{[]string{"--lab", l.Name(), "--nodes", "node9"}, `node "node9": not found`},
		{[]string{"--lab", l.Name(), "--outside", "example.com"}, `--outside "example.com"`},
		{[]string{"--lab", l.Name(), "-o", "xml"}, `--output "xml"`},
		{[]string{"--lab", l.Name(), "--wait", "0s"}, "--wait 0s"},
		{[]string{"--no-such-flag"}, "no-such-flag"},
		{[]string{"tset"}, "tset"},
	} {
		if code, out, errs := twillctl(t, tt.args...); code != 2 || out != "" || !strings.Contains(errs, tt.want) {
			t.Errorf("%v: exit code %d: %s%s", tt.args, code, out, errs)
		}
	}
	must(t, l.Nodes()[1].KillDaemon(t.Context()))
	if code, _, errs := twillctl(t, "--lab", l.Name()); code != 2 || !strings.Contains(errs, "ask node2 what is on") {
		t.Errorf("without a daemon: exit code %d: %s", code, errs)
	}
	must(t, l.Nodes()[1].StartDaemon())
	must(t, l.Nodes()[1].Ready(t.Context()))
}

// interrupted has a test that is interrupted remove what it made, and one that was killed be cleaned up by the next.
func interrupted(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		// Nobody answers at that address, so that the test is under way for as long as it takes.
		cmd := exec.CommandContext(t.Context(), filepath.Join(binDir, "twillctl"), "connectivity", "--lab", l.Name(), "--outside", "192.0.2.99:81", "--wait", "5m")
		must(t, cmd.Start())
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			now, err := lab.Open(lab.Options{Name: l.Name()})
			must(t, err)
			if len(now.Pods()) == 6 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the test's pods do not come")
			}
		}
		if code, _, errs := twillctl(t, "--lab", l.Name()); code != 2 || !strings.Contains(errs, "another connectivity test is under way") {
			t.Errorf("a second test: exit code %d: %s", code, errs)
		}
		must(t, cmd.Process.Signal(signal))
		_ = cmd.Wait() // how it ends is its exit code
		if signal == syscall.SIGKILL {
			test(t, l, 0)
			continue
		}
		if code := cmd.ProcessState.ExitCode(); code != 2 {
			t.Errorf("interrupted: exit code %d", code)
		}
		wantNothingLeft(t, l)
	}
	keep(t, l)
}

// keep leaves the pods for the commands that explain, which the next run removes.
func keep(t *testing.T, l *lab.Lab) {
	t.Helper()
	if code, _, errs := twillctl(t, "--lab", l.Name(), "--keep"); code != 0 || !strings.Contains(errs, "stay in namespace twill-connectivity") {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	to := "twill-connectivity/node2-server:8080"
	out, err := exec.CommandContext(t.Context(), filepath.Join(binDir, "twillctl"), "trace", "twill-connectivity/node1-client", to, "--lab", l.Name()).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "nothing is wrong") {
		t.Errorf("%v: %s", err, out)
	}
	test(t, l, 0, "--nodes", "node2")
}
