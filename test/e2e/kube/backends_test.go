package kube

import (
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// scenario is something that happens in a cluster on which Twill serves, in any backend. It leaves the cluster as it was.
type scenario struct {
	name  string
	short bool // CI has time for it
	run   func(*testing.T, *rig)
}

// scenarios are in an order in which a failure disturbs few that follow.
var scenarios = []scenario{
	{"connectivity", true, testConnectivity},
	{"status", true, testStatus},
	{"trace", true, testTrace},
	{"services", true, testServices},
	{"dns", true, testDNS},
	{"host ports", true, testHostPorts},
	{"probes", true, testProbes},
	{"rolling update", true, testRollingUpdate},
	{"condition", true, testCondition},
	{"twillctl node", false, testNode},
	{"twillctl sysdump", false, testSysdump},
	{"twillctl connectivity", false, testConnectivityCommand},
	{"daemon killed", false, testKills},
	{"churn", false, testChurn},
	{"runtime restart", false, testRuntimeRestart},
	{"node restart", false, testNodeRestart},
	{"outage", false, testOutage},
	{"wrong net-conf", false, testWrongNetConf},
	{"missing rule", false, testMissingRule},
	{"node removed", false, testNodeRemoved},
}

// impatient kubelets start a container that ended again within a second, whatever its past.
const impatient = "crashLoopBackOff: {maxContainerRestartPeriod: 1s}"

func TestVXLAN(t *testing.T) { testBackend(t, "vxlan") }

func TestBGP(t *testing.T) { testBackend(t, "bgp") }

func testBackend(t *testing.T, backend string) {
	r := start(t, backend, kubetest.SiteOptions{Kubelet: impatient})
	r.stand(t)
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			if testing.Short() && !s.short {
				t.Skip("takes too long for -short")
			}
			s.run(t, r)
		})
	}
}
