package kube

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

const (
	kubernetesVersion = "v1.37.2"

	// forMachines is added to kubelet's configuration, which kubeadm writes: what test/kubetest has for its own, since a machine is not a whole one.
	forMachines = `{"volumePluginDir": "/var/lib/kubelet/volumeplugins", "failSwapOn": false, "failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false,
		"enforceNodeAllocatable": [], "oomScoreAdj": 0, "imageGCHighThresholdPercent": 100, "imageMinimumGCAge": "24h",
		"evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%", "imagefs.inodesFree": "0%"}}`
	// machineFlags are for kubeadm init and join. SystemVerification looks at the kernel's configuration and at cgroups of the machine below.
	machineFlags = " --patches=/etc/kubeadm-patches --ignore-preflight-errors=SystemVerification,Swap"
)

// adm is a cluster that kubeadm makes, on machines that nobody has prepared but with images.
type adm struct {
	machines []*kubetest.Machine
	page     page
}

// launchAdm starts two machines.
func launchAdm(t *testing.T) *adm {
	t.Helper()
	u, err := kubetest.NewUnderlay()
	must(t, err)
	t.Cleanup(u.Close)
	standard, err := kubetest.StandardImages("")
	must(t, err)
	a := &adm{}
	for i := range 2 {
		m, err := kubetest.LaunchMachine(t.Context(), kubetest.MachineOptions{Name: fmt.Sprintf("node-%d", i+1), Underlay: u, Images: standard,
			Archives: []string{archive(t)}, Timeout: 2 * enough})
		must(t, err)
		t.Cleanup(func() { must(t, m.Close()) })
		a.machines = append(a.machines, m)
		must(t, m.Install("/opt/cni/bin", filepath.Join(cmp.Or(os.Getenv("TWILL_PEERS"), repository(".cache/peers")), "loopback")))
		must(t, m.Write("/etc/kubeadm-patches/kubeletconfiguration+merge.json", forMachines))
		// kubeadm's CoreDNS asks the node's name server for other names, and ends if there is none.
		must(t, m.Write("/etc/resolv.conf", "nameserver "+u.Gateways()[0].String()+"\n"))
		_, err = run(t.Context(), m, "sysctl -w net.ipv4.ip_forward=1") // as kubeadm's own page has it, among what to do before
		must(t, err)
	}
	t.Cleanup(func() { a.explain(t) })
	a.page = open(t, "docs/install-kubeadm.md", "192.0.2.10", a.control().Addrs()[0].String())
	return a
}

func (a *adm) control() *kubetest.Machine { return a.machines[0] }

// importImages makes kubeadm's images known to the machines: those of static Pods to the control plane node, CoreDNS's to both.
func (a *adm) importImages(t *testing.T) {
	t.Helper()
	out, err := run(t.Context(), a.control(), "kubeadm config images list --kubernetes-version="+kubernetesVersion)
	must(t, err)
	all := strings.Fields(out)
	onlyDNS := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !strings.Contains(name, "/coredns:") })
	dir := t.TempDir()
	must(t, each(a.machines, func(i int, m *kubetest.Machine) error {
		names := all
		if i > 0 {
			names = onlyDNS
		}
		images, err := kubetest.KubeadmImages("", names)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, m.Name())
		if err := kubetest.WriteImages(file, images...); err != nil {
			return err
		}
		return m.Import(t.Context(), file)
	}))
}

// operator runs a command as an operator on the control plane node, in a checkout, and returns what it printed.
func (a *adm) operator(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*enough)
	defer cancel()
	out, err := a.control().Run(ctx, "sh", "-c", "cd /root && export KUBECONFIG=/etc/kubernetes/admin.conf && "+command)
	return strings.TrimSpace(out), err
}

// do is operator for a command that must not fail.
func (a *adm) do(t *testing.T, command string) string {
	t.Helper()
	begin := time.Now()
	out, err := a.operator(t.Context(), command)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%v: %s", since(begin), command)
	return out
}

// kubeadm runs init or join on a machine, and starts kubelet when kubeadm waits for it.
func (a *adm) kubeadm(t *testing.T, m *kubetest.Machine, command string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*enough)
	defer cancel()
	cmd := m.Command(ctx, "sh", "-c", command+machineFlags)
	out := &expectation{text: "[kubelet-start] Starting the kubelet", met: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	begin := time.Now()
	must(t, cmd.Start())
	ended := make(chan struct{})
	var err error
	go func() {
		err = cmd.Wait()
		close(ended)
	}()
	var started error
	select {
	case <-out.met:
		if started = m.KubeletService(ctx); started != nil {
			cancel() // kubeadm would wait for minutes
		}
	case <-ended:
	}
	<-ended
	if err := errors.Join(err, started); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out.printed.String())
	}
	t.Logf("%v: %s\n%s", since(begin), command, out.printed.String())
}

// expectation holds what a program prints, and closes met when the text is in it. printed may be read when the program has ended. It is no
// bytes.Buffer itself, whose ReadFrom a copy would call in place of Write.
type expectation struct {
	printed bytes.Buffer
	text    string
	met     chan struct{}
	once    sync.Once
}

func (e *expectation) Write(p []byte) (int, error) {
	n, err := e.printed.Write(p)
	if strings.Contains(e.printed.String(), e.text) {
		e.once.Do(func() { close(e.met) })
	}
	return n, err
}

func (a *adm) explain(t *testing.T) {
	if !t.Failed() {
		return
	}
	for _, command := range []string{
		"kubectl get nodes,pods --all-namespaces -o wide",
		"kubectl get events --all-namespaces --sort-by=.metadata.creationTimestamp | tail -60",
		"kubectl -n kube-system logs -l app.kubernetes.io/name=twill --all-containers --prefix --tail=40",
	} {
		out, err := a.operator(context.Background(), command)
		t.Logf("%s: %v\n%s", command, err, out)
	}
	for _, m := range a.machines {
		t.Log(m.Log())
		out, err := run(context.Background(), m, "for f in /var/log/pods/*/*/*.log; do echo $f; tail -n 15 $f; done")
		t.Logf("logs of pods on %s: %v\n%s", m.Name(), err, out)
	}
}

// TestKubeadm does what docs/install-kubeadm.md says: kubeadm makes a cluster without kube-proxy and without a network, and Twill makes it work.
// Each step needs the one before.
func TestKubeadm(t *testing.T) {
	if testing.Short() {
		t.Skip("takes too long for -short")
	}
	a := launchAdm(t)
	inOrder(t, a,
		step[*adm]{"init", kubeadmInit},
		step[*adm]{"join", kubeadmJoin},
		step[*adm]{"install", kubeadmInstall},
		step[*adm]{"a Service by its name", kubeadmService},
	)
}

func kubeadmInit(t *testing.T, a *adm) {
	a.importImages(t)
	// Nobody can be asked for the newest version.
	a.kubeadm(t, a.control(), a.page.command(t, "kubeadm init")+" --kubernetes-version="+kubernetesVersion)
	if out := a.do(t, "kubectl -n kube-system get daemonsets -o name"); out != "" {
		t.Errorf("there are %s, want no kube-proxy", out)
	}
}

func kubeadmJoin(t *testing.T, a *adm) {
	command := a.do(t, a.page.command(t, "kubeadm token create"))
	a.kubeadm(t, a.machines[1], command)
	a.do(t, "kubectl wait --for=create node/node-2 --timeout=60s")
	out := a.do(t, `kubectl get nodes -o jsonpath='{range .items[*]}{.metadata.name} {.spec.podCIDR} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}'`)
	if lines := strings.Split(out, "\n"); len(lines) != 2 || strings.Contains(out, "True") {
		t.Errorf("nodes are\n%s\nwant two, not Ready", out)
	}
}

func kubeadmInstall(t *testing.T, a *adm) {
	manifests, err := os.ReadFile(repository("deploy/twill.yaml"))
	must(t, err)
	must(t, a.control().Write("/root/deploy/twill.yaml", string(manifests)))
	begin := time.Now()
	for _, begin := range []string{"kubectl -n kube-system create configmap", "kubectl apply", "kubectl -n kube-system rollout status daemonset/twill", "kubectl wait",
		"kubectl -n kube-system rollout status deployment/coredns"} {
		a.do(t, a.page.command(t, begin))
	}
	t.Logf("the network and DNS were there after %v", since(begin))
}

// kubeadmService reaches a Service by its name from each node, whose endpoint is on the other one.
func kubeadmService(t *testing.T, a *adm) {
	var objects []fields
	for i, m := range a.machines {
		// A pod that names its node is not kept away by the control plane's taint.
		objects = append(objects, server(fmt.Sprintf("web-%d", i+1), m))
		objects = append(objects, fields{"apiVersion": "v1", "kind": "Service", "metadata": fields{"name": fmt.Sprintf("web-%d", i+1)},
			"spec": fields{"selector": fields{"app": fmt.Sprintf("web-%d", i+1)}, "ports": []fields{{"port": 80, "targetPort": 8080}}}})
	}
	must(t, a.control().Write("/root/web.yaml", manifest(t, objects...)))
	a.do(t, "kubectl apply -f web.yaml")
	a.do(t, "kubectl wait --for=condition=Ready pods --all --timeout=120s")
	for _, c := range []struct{ from, to string }{{"web-1", "web-2"}, {"web-2", "web-1"}} {
		_, err := poll(t.Context(), enough, func(ctx context.Context) error {
			out, err := a.operator(ctx, fmt.Sprintf("kubectl exec %s -- curl -sS --max-time 10 http://%s/hostname", c.from, c.to))
			if err != nil || out != c.to {
				return fmt.Errorf("from %s: %q, %w; want %s", c.from, out, err, c.to)
			}
			out, err = a.operator(ctx, fmt.Sprintf("kubectl exec %s -- dig +search +short kubernetes.default A", c.from))
			if err != nil || out != "10.96.0.1" {
				return fmt.Errorf("from %s: %q, %w; want 10.96.0.1", c.from, out, err)
			}
			return nil
		})
		must(t, err)
	}
}
