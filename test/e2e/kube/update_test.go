package kube

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// load starts the traffic that must not notice what is done: 1,000 packets a second from each node to each other one, in both families, and to
// a ClusterIP, and a connection through the ClusterIP.
func (r *rig) load(t testing.TB) *traffic {
	t.Helper()
	pods := r.standingPods(t)[:len(r.Machines)] // one of each machine
	s := r.serve(t, service("load", "server", fields{"ports": []fields{{"name": "udp", "port": echoPort, "protocol": "UDP"},
		{"name": "tcp", "port": echoPort, "protocol": "TCP"}}}))
	l := newTraffic(t)
	for _, p := range r.pods { // all that the Service leads to
		l.echo(t, p)
	}
	for i, from := range pods {
		for j, to := range pods {
			if i == j {
				continue
			}
			for _, addr := range to.addrs {
				l.send(t, from, "udp", netip.AddrPortFrom(addr, echoPort))
			}
		}
		l.send(t, from, "udp", netip.AddrPortFrom(s.Spec.ClusterIPs[0], echoPort))
		l.send(t, from, "tcp", netip.AddrPortFrom(s.Spec.ClusterIPs[i%2], echoPort))
	}
	return l
}

// testRollingUpdate changes the DaemonSet's pod template under load.
func testRollingUpdate(t *testing.T, r *rig) {
	l := r.load(t)
	begin := time.Now()
	r.restart(t, begin.String())
	r.rolledOut(t, daemonSet)
	t.Logf("%d nodes took %v", len(r.Machines), since(begin))
	must(t, r.reachable(t.Context()))
	l.whole(t)
}

// processes returns the process IDs of twilld on a machine, as the machine numbers them.
func processes(ctx context.Context, m *kubetest.Machine) ([]string, error) {
	out, err := run(ctx, m, `for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = twilld ] && echo ${p#/proc/}; done; :`)
	return strings.Fields(out), err
}

// kill ends the daemon of a machine at once, and returns the process IDs that it had.
func kill(ctx context.Context, m *kubetest.Machine) ([]string, error) {
	pids, err := processes(ctx, m)
	if err == nil && len(pids) == 0 {
		err = fmt.Errorf("no twilld runs on %s", m.Name())
	}
	if err == nil {
		_, err = run(ctx, m, "kill -9 "+strings.Join(pids, " "))
	}
	return pids, err
}

// testKills kills the daemons again and again, at whatever they do at that moment, under load.
func testKills(t *testing.T, r *rig) {
	l := r.load(t)
	for range 5 {
		must(t, each(r.Machines, func(_ int, m *kubetest.Machine) error {
			was, err := kill(t.Context(), m)
			if err != nil {
				return err
			}
			_, err = poll(t.Context(), enough, func(ctx context.Context) error {
				now, err := processes(ctx, m)
				if err == nil && (len(now) == 0 || now[0] == was[0]) {
					err = fmt.Errorf("the daemon of %s was not started again", m.Name())
				}
				return err
			})
			return err
		}))
	}
	must(t, each(r.Machines, func(_ int, m *kubetest.Machine) error {
		_, err := poll(t.Context(), enough, func(ctx context.Context) error { return health(ctx, m, "/readyz") })
		return err
	}))
	r.rolledOut(t, daemonSet)
	must(t, r.reachable(t.Context()))
	l.whole(t)
}
