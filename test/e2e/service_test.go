package e2e

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/twill-cni/twill/ctl/balance"
)

// TestServiceFollowsPods makes a Service over a lab's pods with the operator's tool alone: every pod answers everybody, in both families and with
// both backends; pods that come and go are followed.
func TestServiceFollowsPods(t *testing.T) {
	for _, backend := range []string{"vxlan", "bgp"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			name := freshName(t)
			twillctl(t, "lab", "up", "--name", name, "--dual-stack", "--pods", "1", "--backend", backend).wantOK(t)
			balanced(t, name, 3)
			twillctl(t, "lab", "attach", "--name", name, "node2", "--pod", name+"-extra", "--label", "app=lab").wantOK(t)
			balanced(t, name, 4)
			twillctl(t, "lab", "detach", "--name", name, name+"-extra").wantOK(t)
			balanced(t, name, 3)
		})
	}
}

// balanced checks that each of the cluster's pods answers every client.
func balanced(t *testing.T, name string, pods int) {
	t.Helper()
	o := twillctl(t, "lab", "balance", "--name", name, "--connections", "100", "-o", "json")
	o.wantOK(t)
	var report balance.Report
	must(t, json.Unmarshal([]byte(o.stdout), &report))
	if len(report.Pods) != pods {
		t.Errorf("pods are %v, want %d", report.Pods, pods)
	}
	for _, row := range report.Rows {
		for _, pod := range report.Pods {
			if row.Answers[pod] == 0 {
				t.Errorf("%s to %v: %s never answered: %s", row.From, row.To, pod, fmt.Sprint(row.Answers))
			}
		}
	}
}
