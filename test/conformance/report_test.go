package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// As upstream writes it: every test of the program is in it, nearly all of them skipped by the focus.
const junit = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="5" failures="1">
  <testsuite name="Kubernetes e2e suite" tests="5">
    <testcase name="[SynchronizedBeforeSuite]" classname="Kubernetes e2e suite" status="passed" time="0.1"></testcase>
    <testcase name="[It] [sig-apps] Job should run [Conformance] [sig-apps, Conformance]" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
    <testcase name="[It] [sig-network] Services should work [Conformance] [sig-network, Conformance]" status="passed" time="12.5"></testcase>
    <testcase name="[It] [sig-network] DNS should work [LinuxOnly] [sig-network]" status="failed" time="3">
      <failure message="no answer&#xA;after 3 s" type="failed"></failure>
    </testcase>
    <testcase name="[It] [sig-network] Topology should work [sig-network]" status="skipped" time="0.25">
      <skipped message="skipped - needs three zones"></skipped>
    </testcase>
  </testsuite>
</testsuites>`

func TestReport(t *testing.T) {
	tests := []struct {
		name    string
		text    string
		want    []result
		verdict string
	}{
		{"of a run", junit, []result{
			{"[sig-network] Services should work [Conformance]", passed, 12500 * time.Millisecond, ""},
			{"[sig-network] DNS should work [LinuxOnly]", failed, 3 * time.Second, "no answer"},
			{"[sig-network] Topology should work", skipped, 250 * time.Millisecond, "needs three zones"},
		}, "1 tests failed"},
		{"of a run that did not begin", `<testsuites><testsuite>
			<testcase name="[SynchronizedBeforeSuite]" status="failed" time="1"><failure message="no API server"></failure></testcase>
			<testcase name="[It] [sig-network] DNS should work [sig-network]" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
			</testsuite></testsuites>`, []result{{"[SynchronizedBeforeSuite]", failed, time.Second, "no API server"}}, "1 tests failed"},
		{"of a focus that names nothing", `<testsuites><testsuite></testsuite></testsuites>`, nil, "no test was run"},
		{"of a test that was cut off", `<testsuites><testsuite>
			<testcase name="[It] [sig-network] DNS should work [sig-network]" status="interrupted" time="7"><error message="interrupted by user"></error></testcase>
			</testsuite></testsuites>`, []result{{"[sig-network] DNS should work", failed, 7 * time.Second, "interrupted by user"}}, "1 tests failed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var r report
			if err := r.add([]byte(test.text)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, r.results, cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("results (-want +got):\n%s", diff)
			}
			if err := r.verdict(); err == nil || err.Error() != test.verdict {
				t.Errorf("the verdict is %v, want %s", err, test.verdict)
			}
		})
	}
}

func TestTable(t *testing.T) {
	var r report
	if err := r.add([]byte(junit)); err != nil {
		t.Fatal(err)
	}
	table := r.table("vxlan", time.Minute)
	for _, want := range []string{
		"passed    12.5s  [sig-network] Services should work [Conformance]\n",
		"needs three zones\n",
		"vxlan: 1 passed, 1 failed, 1 skipped, in 1m0s\n",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("there is no %q in\n%s", want, table)
		}
	}
}

// TestExclusionsSpareConformance has names that must be run, and some that must not be.
func TestExclusionsSpareConformance(t *testing.T) {
	for name, want := range map[string]bool{
		"[sig-network] Services should serve a basic endpoint from pods [Conformance] [sig-network, Conformance]":                        false,
		"[sig-network] DNS should provide DNS for the cluster [Conformance] [sig-network, Conformance]":                                  false,
		"[sig-network] Networking Granular Checks: Pods should function for node-pod communication: udp [LinuxOnly] [Conformance]":       false,
		"[sig-network] Netpol API should support creating NetworkPolicy API operations [sig-network]":                                    false,
		"[sig-network] Networking Granular Checks: Services should function for pod-Service: sctp [Feature:SCTPConnectivity]":            true,
		"[sig-network] DNS should provide DNS for the cluster [Provider:gce] [sig-network]":                                              true,
		"[sig-network] Netpol NetworkPolicy between server and client should support a 'default-deny-ingress' [Feature:NetworkPolicy]":   true,
		"[sig-network] Services should work after restarting kube-proxy [Disruptive] [sig-network, Disruptive]":                          true,
		"[sig-network] LocalhostNodePorts should honor sessionAffinity=ClientIP for localhost NodePort [Feature:LocalhostNodePorts] [x]": true,
	} {
		if got := excluded(name); got != want {
			t.Errorf("excluded: %v, want %v: %s", got, want, name)
		}
	}
}

func excluded(name string) bool {
	for _, e := range exclusionsOf(options{}, "vxlan") {
		if regexp.MustCompile(e.pattern).MatchString(name) {
			return true
		}
	}
	return false
}
