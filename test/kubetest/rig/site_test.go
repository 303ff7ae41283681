package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// TestSite runs Pods on two machines, with reference plugins for their network. Each part goes on where the one before has ended.
func TestSite(t *testing.T) {
	begin := time.Now()
	s := kubetest.StartSite(t, kubetest.SiteOptions{})
	t.Logf("kubelets are healthy after %v", time.Since(begin).Round(time.Millisecond))
	connect(t, s)
	t.Logf("the Nodes are Ready after %v", time.Since(begin).Round(time.Millisecond))

	begin = time.Now()
	must(t, s.Cluster.Apply(t.Context(), pod("server", s.Machines[0], "[netexec]")+"---"+pod("client", s.Machines[1], "[pause]")))
	running(t, s, "server", "client")
	t.Logf("two Pods run after %v", time.Since(begin).Round(time.Millisecond))

	for _, part := range []struct {
		name string
		test func(*testing.T, *kubetest.Site)
	}{
		{"exec, between machines", testBetweenMachines},
		{"logs", testLogs},
		{"API server's proxy", testProxy},
		{"host paths and host network", testHostPaths},
		{"cluster DNS", testDNS},
		{"kubelet and containerd restart", testRestart},
		{"a machine crashes", testCrash},
		{"Pods end", testDelete},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.test(t, s) }) {
			return
		}
	}
}

// inPod runs a command in a Pod and returns what it printed, without the end of the line.
func inPod(ctx context.Context, s *kubetest.Site, pod string, args ...string) (string, error) {
	out, err := s.Cluster.Kubectl(ctx, append([]string{"exec", pod, "--"}, args...)...)
	return strings.TrimSpace(out), err
}

func testBetweenMachines(t *testing.T, s *kubetest.Site) {
	server := running(t, s, "server")[0]
	if len(server) != 2 {
		t.Errorf("the Pod has the addresses %v", server)
	}
	testExec(t, s, server...)
}

// testExec has the Pod "client" ask another one for its name, at all addresses.
func testExec(t *testing.T, s *kubetest.Site, server ...netip.Addr) {
	t.Helper()
	want, err := inPod(t.Context(), s, "server", "hostname")
	must(t, err)
	for _, ip := range server {
		must(t, s.Cluster.Await(t.Context(), "an answer of the Pod", func(ctx context.Context) error {
			out, err := inPod(ctx, s, "client", "curl", "-sS", "--max-time", "1", "http://"+net.JoinHostPort(ip.String(), "8080")+"/hostname")
			if err == nil && out != want {
				err = fmt.Errorf("%v is %q", ip, out)
			}
			return err
		}))
	}
}

func testLogs(t *testing.T, s *kubetest.Site) {
	out, err := s.Cluster.Kubectl(t.Context(), "logs", "server")
	if err != nil || !strings.Contains(out, "Started HTTP server") {
		t.Errorf("got %q, %v", out, err)
	}
}

func testProxy(t *testing.T, s *kubetest.Site) {
	must(t, s.RoutePods(t.Context()))
	out, err := s.Cluster.Kubectl(t.Context(), "get", "--raw", "/api/v1/namespaces/default/pods/server:8080/proxy/hostname")
	if err != nil || out != "server" {
		t.Errorf("got %q, %v", out, err)
	}
}

// testHostPaths has what the DaemonSet of a network needs: it writes into directories of the machine, sees what is mounted there later, mounts
// something itself, and finds the machine's network and settings.
func testHostPaths(t *testing.T, s *kubetest.Site) {
	must(t, s.Cluster.Apply(t.Context(), fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: %s
        args: [pause]
        securityContext: {privileged: true}
        volumeMounts:
        - {name: bin, mountPath: /host/bin}
        - {name: run, mountPath: /host/run, mountPropagation: Bidirectional}
        - {name: netns, mountPath: /run/netns, mountPropagation: HostToContainer}
      volumes:
      - {name: bin, hostPath: {path: /opt/cni/bin, type: DirectoryOrCreate}}
      - {name: run, hostPath: {path: /run/agent, type: DirectoryOrCreate}}
      - {name: netns, hostPath: {path: /run/netns, type: DirectoryOrCreate}}
`, kubetest.AgnhostImage)))
	must(t, s.Cluster.Await(t.Context(), "the DaemonSet", func(ctx context.Context) error {
		var d struct{ Status struct{ NumberReady int } }
		err := s.Cluster.Get(ctx, "/apis/apps/v1/namespaces/default/daemonsets/agent", &d)
		if err == nil && d.Status.NumberReady != len(s.Machines) {
			err = fmt.Errorf("%d are ready", d.Status.NumberReady)
		}
		return err
	}))
	for _, m := range s.Machines {
		name, err := s.Cluster.Kubectl(t.Context(), "get", "pod", "-l", "app=agent", "--field-selector", "spec.nodeName="+m.Name(), "-o",
			"jsonpath={.items[0].metadata.name}")
		must(t, err)
		run(t, m, "ip netns add late; sysctl -q -w net.ipv4.ip_default_ttl=77")
		_, err = inPod(t.Context(), s, name, "sh", "-c", "echo "+m.Name()+" >/host/bin/name; mkdir /host/run/sub; mount -t tmpfs none /host/run/sub; touch /host/run/sub/file")
		must(t, err)
		if got := run(t, m, "cat /opt/cni/bin/name; ls /run/agent/sub"); got != m.Name()+"\nfile" {
			t.Errorf("%s got %q from its Pod", m.Name(), got)
		}
		out, err := inPod(t.Context(), s, name, "sh", "-c", "nsenter --net=/run/netns/late ls /sys/../proc/sys/net/ipv4/conf; cat /proc/sys/net/ipv4/ip_default_ttl; ls /proc/sys/net/ipv4/conf | grep -x eth0; hostname")
		if want := "all\ndefault\nlo\n77\neth0\n" + m.Name(); err != nil || out != want {
			t.Errorf("the Pod of %s sees %q, %v", m.Name(), out, err)
		}
	}
}

// testDNS has kube-proxy and CoreDNS, which finds the API server through the Service of that.
func testDNS(t *testing.T, s *kubetest.Site) {
	for _, m := range s.Machines {
		kubetest.StartKubeProxy(t, s.Cluster, kubetest.ProxyOptions{Node: m.Name(), Namespace: m.Namespace()})
	}
	begin := time.Now()
	must(t, s.Cluster.InstallDNS(t.Context()))
	for _, pod := range []string{"client", "server"} {
		for _, query := range []struct{ kind, want string }{{"A", "10.96.0.10"}, {"AAAA", "fd00:96::"}} {
			must(t, s.Cluster.Await(t.Context(), "an answer of DNS", func(ctx context.Context) error {
				out, err := inPod(ctx, s, pod, "dig", "+short", "+search", "+tries=1", "+time=1", "kube-dns.kube-system", query.kind)
				if err == nil && !strings.HasPrefix(out, query.want) {
					err = fmt.Errorf("the answer is %q", out)
				}
				return err
			}))
		}
	}
	t.Logf("DNS answers after %v", time.Since(begin).Round(time.Millisecond))
}

// testRestart ends kubelet and containerd. The Pods live on.
func testRestart(t *testing.T, s *kubetest.Site) {
	m := s.Machines[0]
	const sum = `ps -e -o comm= | grep -c -x -e netexec -e agnhost -e pause`
	before := run(t, m, sum)
	m.KillKubelet()
	m.KillContainerd()
	if after := run(t, m, sum); after != before || before == "0" {
		t.Errorf("%s programs run in containers, were %s", after, before)
	}
	must(t, m.StartContainerd(t.Context()))
	must(t, m.StartKubelet(t.Context()))
	must(t, s.Cluster.AwaitReady(t.Context(), m.Name()))
	must(t, s.Cluster.Await(t.Context(), "kubelet to know the Pod", func(ctx context.Context) error {
		out, err := inPod(ctx, s, "server", "hostname")
		if err == nil && out != "server" {
			err = fmt.Errorf("its name is %q", out)
		}
		return err
	}))
}

// testCrash has a power cut. The Pods come back, with new networks, since those of the reference plugins are gone.
func testCrash(t *testing.T, s *kubetest.Site) {
	m := s.Machines[0]
	before := restarts(t, s, "server")
	must(t, m.Crash())
	must(t, m.Boot(t.Context()))
	must(t, m.StartKubelet(t.Context()))
	connect(t, s)
	must(t, s.Cluster.Await(t.Context(), "the Pod to be started again", func(context.Context) error {
		if restarts(t, s, "server") == before {
			return errors.New("it is not")
		}
		return nil
	}))
	testBetweenMachines(t, s)
}

func restarts(t *testing.T, s *kubetest.Site, pod string) string {
	t.Helper()
	out, err := s.Cluster.Kubectl(t.Context(), "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
	must(t, err)
	return out
}

// testDelete has nothing run on the machines that belongs to a Pod. What containerd remembers of the last containers kubelet removes later,
// once a minute.
func testDelete(t *testing.T, s *kubetest.Site) {
	_, err := s.Cluster.Kubectl(t.Context(), "delete", "--all-namespaces", "--all", "--grace-period=1", "daemonset,deployment,pod")
	must(t, err)
	for _, m := range s.Machines {
		must(t, s.Cluster.Await(t.Context(), "the end of the Pods", func(ctx context.Context) error {
			out, err := m.Run(ctx, "sh", "-c", "ctr -n k8s.io tasks ls -q; ls /run/netns | grep -v late; pidof containerd-shim-runc-v2; ls -d /sys/fs/cgroup/pids/k8s.io/*/ 2>/dev/null; :")
			if err == nil && strings.TrimSpace(out) != "" {
				err = fmt.Errorf("left: %s", out)
			}
			return err
		}))
	}
}
