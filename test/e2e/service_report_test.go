package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/proxy/dnat"
)

// reported asks a node for its Services, with twillctl's exit code.
func reported(t *testing.T, n *lab.Node, name string, args ...string) (dnat.Report, int) {
	t.Helper()
	o := twillctl(t, append([]string{"service", "-o", "json", "--lab-node", n.Name, "--name", name}, args...)...)
	var report dnat.Report
	if err := json.Unmarshal([]byte(o.stdout), &report); err != nil {
		t.Fatalf("%v\n%s%s", err, o.stdout, o.stderr)
	}
	return report, o.code
}

// TestServiceReport looks at a Service with affinity as an operator does: clients connect, somebody removes what is theirs from the kernel, the
// daemon repairs it.
func TestServiceReport(t *testing.T) {
	l := up(t, lab.Options{Nodes: 2, Family: lab.DualStack, Proxy: "nftables"})
	n := l.Nodes()[0]
	client, err := n.AddPod(t.Context(), lab.PodOptions{})
	must(t, err)
	backend, err := l.Nodes()[1].AddPod(t.Context(), lab.PodOptions{Labels: map[string]string{"app": "report"}})
	must(t, err)
	file := filepath.Join(t.TempDir(), "web.yaml")
	must(t, os.WriteFile(file, []byte(`
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: report}
  ipFamilyPolicy: RequireDualStack
  sessionAffinity: ClientIP
  ports: [{port: 80, targetPort: 8080}]
`), 0o644))
	twillctl(t, "apply", "-f", file, "--lab", l.Name()).wantOK(t)
	var web dnat.ServiceState
	within(t, enough, func() error {
		o := twillctl(t, "service", "web", "-o", "json", "--lab-node", n.Name, "--name", l.Name())
		if o.code != 0 {
			return errors.New(o.stderr)
		}
		var report dnat.Report
		must(t, json.Unmarshal([]byte(o.stdout), &report))
		web = report.Services[0]
		for _, f := range web.Frontends {
			if f.Endpoints != 1 {
				return fmt.Errorf("%s has %d endpoints", f.Address, f.Endpoints)
			}
		}
		return nil
	})
	if len(web.Frontends) != 2 {
		t.Fatalf("frontends are %+v", web.Frontends)
	}
	for _, f := range web.Frontends {
		for range 3 {
			must(t, client.Do(func() error { return refused(netip.AddrPortFrom(f.Address, f.Port)) }))
		}
	}
	report, code := reported(t, n, l.Name(), "web")
	if code != 0 {
		t.Errorf("exit code %d, differences %v", code, report.Differences)
	}
	for i, f := range report.Services[0].Frontends {
		endpoint := netip.AddrPortFrom(backend.Addrs()[i], 8080)
		if f.Hits != 3 || f.Endpoints != 1 || f.Slots[0] != (dnat.SlotState{Endpoint: endpoint, Weight: 1}) {
			t.Errorf("frontend %d is %+v", i, f)
		}
		if len(f.Clients) != 1 || f.Clients[0].Client != client.Addrs()[i] || f.Clients[0].Endpoint != endpoint {
			t.Errorf("remembered are %+v", f.Clients)
		}
	}
	missing := fmt.Sprintf("members: %s tcp 80", web.Frontends[0].Address)
	within(t, enough, func() error {
		// It is repaired at once the first time, and a moment later when it happens again.
		_, _ = trySh(t.Context(), n.Netns(), "nft flush map ip twill-proxy members")
		report, code := reported(t, n, l.Name())
		if code != 1 || len(report.Differences) != 1 {
			return fmt.Errorf("exit code %d, differences %v", code, report.Differences)
		}
		if d := report.Differences[0]; d.Service != "default/web" || !strings.HasPrefix(d.What, missing) || d.Have != "nothing" || d.Want != netip.AddrPortFrom(backend.Addrs()[0], 8080).String() {
			t.Errorf("difference is %+v", d)
		}
		return nil
	})
	within(t, enough, func() error {
		if report, code := reported(t, n, l.Name()); code != 0 {
			return fmt.Errorf("not repaired: %v", report.Differences)
		}
		return nil
	})
}

// refused connects to where nobody listens, and returns nil when it is refused: the connection was counted.
func refused(to netip.AddrPort) error {
	conn, err := net.DialTimeout("tcp", to.String(), 2*time.Second)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err == nil {
		_ = conn.Close()
		err = errors.New("somebody listens")
	}
	return err
}
