package rig

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connect gives the Pods of all machines a network: the reference plugins bridge and host-local, and a route to each other machine's Pods.
func connect(t testing.TB, s *kubetest.Site) {
	t.Helper()
	peers, err := filepath.Abs(cmp.Or(os.Getenv("TWILL_PEERS"), "../../../.cache/peers"))
	must(t, err)
	networks := make([][]netip.Prefix, len(s.Machines))
	for i, m := range s.Machines {
		must(t, s.Cluster.Await(t.Context(), "the Pod networks of "+m.Name(), func(ctx context.Context) error {
			networks[i], err = s.Cluster.PodCIDRs(ctx, m.Name())
			return err
		}))
	}
	for i, m := range s.Machines {
		for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap"} {
			must(t, m.Install("/opt/cni/bin", filepath.Join(peers, plugin)))
		}
		for j, other := range s.Machines {
			for k, network := range networks[j] {
				if i != j {
					_, err := m.Run(t.Context(), "ip", "route", "replace", network.String(), "via", other.Addrs()[k].String())
					must(t, err)
				}
			}
		}
		must(t, m.Write("/etc/cni/net.d/10-test.conflist", conflist(t, networks[i])))
	}
	for _, m := range s.Machines {
		must(t, s.Cluster.AwaitReady(t.Context(), m.Name()))
	}
}

func conflist(t testing.TB, networks []netip.Prefix) string {
	t.Helper()
	type fields = map[string]any
	var ranges [][]fields
	for _, n := range networks {
		ranges = append(ranges, []fields{{"subnet": n}})
	}
	text, err := json.Marshal(fields{"cniVersion": "1.0.0", "name": "test", "plugins": []fields{
		{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": true,
			"ipam": fields{"type": "host-local", "ranges": ranges, "routes": []fields{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}}}},
		{"type": "portmap", "capabilities": fields{"portMappings": true}},
	}})
	must(t, err)
	return string(text)
}

// pod returns the manifest of a Pod of agnhost on a machine.
func pod(name string, m *kubetest.Machine, args string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "%[3]s", args: %[4]s}]
`, name, m.Name(), kubetest.AgnhostImage, args)
}

// running waits until Pods run and returns their addresses.
func running(t testing.TB, s *kubetest.Site, names ...string) [][]netip.Addr {
	t.Helper()
	all := make([][]netip.Addr, len(names))
	for i, name := range names {
		must(t, s.Cluster.Await(t.Context(), "Pod "+name, func(ctx context.Context) error {
			var p struct {
				Status struct {
					Phase             string
					PodIPs            []struct{ IP netip.Addr }
					ContainerStatuses []struct{ State any }
				}
			}
			if err := s.Cluster.Get(ctx, "/api/v1/namespaces/default/pods/"+name, &p); err != nil {
				return err
			}
			if p.Status.Phase != "Running" {
				return fmt.Errorf("its status is %+v", p.Status)
			}
			all[i] = nil
			for _, ip := range p.Status.PodIPs {
				all[i] = append(all[i], ip.IP)
			}
			return nil
		}))
	}
	return all
}
