package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/test/kubetest"
)

// testNamespace is where twillctl connectivity has its pods.
const testNamespace = "twill-connectivity"

// connectivityReport is what twillctl connectivity -o json says.
type connectivityReport struct {
	Total, Failed int
	NotRun        []struct{ Part, Why string }
	Results       []connectivityCase
}

type connectivityCase struct {
	Kind, From, To, Family, Question, Outcome, Detail, Why, Command string
	OK                                                              bool
}

// connectivity runs twillctl connectivity, which has to end with an exit code, and returns what it says on standard error.
func (r *rig) connectivity(t testing.TB, code int, args ...string) (report connectivityReport, said string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*enough)
	defer cancel()
	cmd, told, err := r.twillctlCommand(ctx, append([]string{"connectivity", "-o", "json"}, args...)...)
	must(t, err)
	out, err := cmd.Output()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != code {
		t.Fatalf("twillctl connectivity %v: %v, want exit code %d: %s%s", args, err, code, told, lastLines(string(out), 60))
	}
	if code < 2 {
		must(t, json.Unmarshal(out, &report))
	}
	return report, told.String()
}

// deserted returns nil when the test's namespace is gone.
func (r *rig) deserted(ctx context.Context) error {
	var list struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	if err := r.Cluster.Get(ctx, "/api/v1/namespaces", &list); err != nil {
		return err
	}
	for _, n := range list.Items {
		if n.Metadata.Name == testNamespace {
			return errors.New("the namespace " + testNamespace + " is still there")
		}
	}
	return nil
}

// testConnectivityCommand has pods of twillctl's own tell who reaches whom: all, and with a hole in one machine's routes what the hole concerns.
func testConnectivityCommand(t *testing.T, r *rig) {
	r.installDNS(t)
	outside := r.Underlay.Gateways()[0].String()
	// Two machines, two pods on each, two families.
	counts := map[string]int{"pod-to-pod": 48, "large-packets": 24, "pod-to-node": 16, "node-to-pod": 4, "pod-to-service": 48, "hairpin": 16, "node-port": 16, "pod-to-dns": 8, "outside": 4}
	t.Run("well", func(t *testing.T) {
		report, _ := r.connectivity(t, 0, "--outside", outside, "--keep")
		wantCounts(t, report, counts)
		for _, one := range report.NotRun {
			if one.Part != "policies" || !strings.HasPrefix(one.Why, "--policy=off on "+r.Machines[0].Name()) {
				t.Errorf("not run: %+v", one)
			}
		}
	})
	t.Run("hole", func(t *testing.T) { r.connectivityHole(t) }) // after the pods that were kept are gone
	must(t, r.deserted(t.Context()))
	t.Run("two at a time", func(t *testing.T) { r.connectivityTwice(t) })
	must(t, r.deserted(t.Context()))
	r.noLeaks(t)
}

func wantCounts(t *testing.T, report connectivityReport, want map[string]int) {
	t.Helper()
	got := map[string]int{}
	for _, one := range report.Results {
		got[one.Kind]++
		if !one.OK {
			t.Errorf("%+v", one)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("cases (-want +got): %s; not run: %v", diff, report.NotRun)
	}
}

// connectivityHole has the first machine send nothing to the second one's pods, by IPv4.
func (r *rig) connectivityHole(t *testing.T) {
	from, to := r.Machines[0], r.Machines[1]
	n, err := r.node(t.Context(), to)
	must(t, err)
	dns := r.machineOfDNS(t)
	for _, p := range n.Spec.PodCIDRs {
		if p.Addr().Is6() {
			continue
		}
		// Two halves win over the route to the whole.
		upper := p.Addr().As4()
		upper[3] += 128
		for _, half := range []string{p.Addr().String() + "/25", fmt.Sprintf("%d.%d.%d.%d/25", upper[0], upper[1], upper[2], upper[3])} {
			_, err := from.Run(t.Context(), "ip", "route", "add", "blackhole", half)
			must(t, err)
			t.Cleanup(func() {
				_, err := from.Run(context.WithoutCancel(t.Context()), "ip", "route", "del", "blackhole", half)
				must(t, err)
			})
		}
	}
	report, _ := r.connectivity(t, 1)
	why := 0
	for _, one := range report.Results {
		if one.OK == r.brokenByHole(one, dns) {
			t.Errorf("OK %t: %+v", one.OK, one)
		}
		if one.Why != "" {
			why++
			if !strings.Contains(one.Why, from.Name()+", route: a blackhole route") || !strings.HasPrefix(one.Command, "twillctl trace "+testNamespace+"/") {
				t.Errorf("the trace says %+v", one)
			}
		}
	}
	if why == 0 {
		t.Error("no failure is explained")
	}
}

// brokenByHole reports whether a case is between the machines, by IPv4. A name is looked up by IPv4, whatever is asked for.
func (r *rig) brokenByHole(c connectivityCase, dns string) bool {
	machine := func(pod string) string { return pod[:strings.LastIndex(pod, "-")] }
	switch c.Kind {
	case "pod-to-dns":
		return machine(c.From) != dns
	case "node-port": // from the second machine each is asked for the other's pod; with VXLAN the reply to the second one goes to an address among its pods'
		return c.Family == "IPv4" && machine(c.From) == r.Machines[1].Name() && (c.To == r.Machines[0].Name() || r.backend == "vxlan")
	}
	return c.Family == "IPv4" && slices.Contains([]string{"pod-to-pod", "large-packets", "pod-to-service"}, c.Kind) && machine(c.From) != machine(c.To)
}

// machineOfDNS returns the name of the machine on which CoreDNS is.
func (r *rig) machineOfDNS(t *testing.T) string {
	t.Helper()
	var list struct {
		Items []struct{ Spec struct{ NodeName string } }
	}
	must(t, r.Cluster.Get(t.Context(), "/api/v1/namespaces/"+namespace+"/pods?labelSelector=k8s-app%3Dkube-dns", &list))
	if len(list.Items) != 1 {
		t.Fatalf("%d pods of CoreDNS", len(list.Items))
	}
	return list.Items[0].Spec.NodeName
}

// connectivityTwice has a second test stay away from one that is under way, interrupts that, and has a test clear up what a killed one left.
func (r *rig) connectivityTwice(t *testing.T) {
	started := func() *exec.Cmd {
		cmd, _, err := r.twillctlCommand(t.Context(), "connectivity", "--outside", "198.51.100.1", "--wait", "5m") // nobody answers there
		must(t, err)
		must(t, cmd.Start())
		r.within(t, enough, func(ctx context.Context) error {
			if r.deserted(ctx) == nil {
				return errors.New("there is no namespace yet")
			}
			return nil
		})
		return cmd
	}
	first := started()
	if _, said := r.connectivity(t, 2); !strings.Contains(said, "another test is under way in namespace "+testNamespace) {
		t.Error(said)
	}
	must(t, first.Process.Signal(os.Interrupt))
	if err := first.Wait(); err == nil || first.ProcessState.ExitCode() != 2 {
		t.Errorf("interrupted: %v", err)
	}
	must(t, r.deserted(t.Context()))
	killed := started()
	must(t, killed.Process.Kill())
	_ = killed.Wait() // it was killed
	report, _ := r.limited(t).connectivity(t, 0, "--nodes", r.Machines[0].Name())
	if report.Total == 0 || report.Failed > 0 {
		t.Errorf("after one that was killed: %+v", report)
	}
}

// limited returns the rig with twillctl as a user who may do what docs/connectivity.md asks for, and no more.
func (r *rig) limited(t *testing.T) *rig {
	t.Helper()
	const name = "connectivity-tester"
	page, err := os.ReadFile(repository("docs/connectivity.md"))
	must(t, err)
	_, rules, _ := strings.Cut(string(page), "```yaml\nrules:")
	rules, _, found := strings.Cut(rules, "```")
	if !found {
		t.Fatal("docs/connectivity.md has no rules")
	}
	must(t, r.Cluster.Apply(t.Context(), "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: "+name+"}\nrules:"+rules+
		"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: "+name+"}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "+name+
		"}\nsubjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "+name+"}]\n"))
	config := r.kubectl(t, "config", "view", "--raw", "--flatten", "-o", "json")
	var parsed map[string]any
	must(t, json.Unmarshal([]byte(config), &parsed))
	for _, user := range parsed["users"].([]any) {
		user.(map[string]any)["user"].(map[string]any)["as"] = name
	}
	text, err := json.Marshal(parsed)
	must(t, err)
	limited := *r
	limited.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(limited.kubeconfig, text, 0o600))
	return &limited
}

// TestConnectivityOfPolicies: with policies enforced, nothing is left out, and what they deny and allow is as it is to be.
func TestConnectivityOfPolicies(t *testing.T) {
	if testing.Short() {
		t.Skip("takes too long for -short")
	}
	r := bare(t, "vxlan", kubetest.SiteOptions{Kubelet: impatient})
	r.helm(t, append([]string{"install", "twill", repository("deploy/chart/twill"), "-n", namespace}, r.values("policy.enabled=true")...)...)
	r.serving(t)
	r.stand(t)
	r.installDNS(t)
	report, _ := r.connectivity(t, 0)
	wantCounts(t, report, map[string]int{"pod-to-pod": 48, "large-packets": 24, "pod-to-node": 16, "node-to-pod": 4, "pod-to-service": 48, "hairpin": 16, "node-port": 16, "pod-to-dns": 8,
		"policy-control": 12, "policy-denied": 16, "policy-allowed": 24})
	if len(report.NotRun) > 0 {
		t.Errorf("not run: %+v", report.NotRun)
	}
	must(t, r.deserted(t.Context()))
}
