package kube

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// plain is hosts with containerd and without Kubernetes. The first has etcd.
type plain struct {
	t        *testing.T // daemons live as long
	machines []*kubetest.Machine
	page     page
	etcd     string // URL
	daemons  []func()
}

// placed is where the test puts what the page puts into /usr/local/bin, which is not a machine's own.
const placed = "/opt/twill/bin"

// TestContainerd does what docs/install-containerd.md says. Each step needs the one before.
func TestContainerd(t *testing.T) {
	p := launchPlain(t)
	inOrder(t, p,
		step[*plain]{"install", plainInstall},
		step[*plain]{"containers", plainContainers},
		step[*plain]{"gone", plainGone},
		step[*plain]{"remove", plainRemove},
	)
}

// launchPlain starts two machines, and etcd on the first.
func launchPlain(t *testing.T) *plain {
	t.Helper()
	u := kubetest.StartUnderlay(t)
	standard, err := kubetest.StandardImages("")
	must(t, err)
	p := &plain{t: t}
	for _, name := range []string{"host-a", "host-b"} {
		p.machines = append(p.machines, kubetest.StartMachine(t, kubetest.MachineOptions{Name: name, Underlay: u, Images: standard, Archives: []string{archive(t)}, Timeout: enough}))
	}
	addr := p.machines[0].Addrs()[0].String()
	p.etcd = "http://" + addr + ":2379"
	p.page = open(t, "docs/install-containerd.md", "192.0.2.10", addr, "/usr/local/bin/", placed+"/", "docker.io/library/busybox:1.37", kubetest.BusyboxImage)
	p.serve(p.machines[0], "etcd --data-dir=/var/lib/etcd --listen-client-urls=http://0.0.0.0:2379 --advertise-client-urls="+p.etcd)
	return p
}

// serve runs a command on a machine until it is stopped or the test ends. What it printed is shown when the test failed.
func (p *plain) serve(m *kubetest.Machine, command string) (stop func()) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	// Its parent has to be a process of the machine, as systemd is: a daemon whose parent it cannot see takes itself for one in a container.
	cmd := m.Command(ctx, "unshare", "--fork", "--kill-child", "sh", "-c", "exec "+command)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(p.t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it ends by a signal
		close(ended)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	p.t.Cleanup(func() {
		stop()
		if p.t.Failed() {
			p.t.Logf("%s on %s:\n%s", command, m.Name(), lastLines(out.String(), 40))
		}
	})
	return stop
}

// try runs a command on a machine, in a checkout, and returns what it printed.
func (p *plain) try(ctx context.Context, m *kubetest.Machine, command string) (string, error) {
	out, err := run(ctx, m, "cd /root && export CONTAINERD_NAMESPACE=k8s.io PATH="+placed+":$PATH && "+command)
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return out, nil
}

// do is try for a command that must not fail.
func (p *plain) do(t *testing.T, m *kubetest.Machine, command string) string {
	t.Helper()
	out, err := p.try(t.Context(), m, command)
	must(t, err)
	return out
}

// becomes tries a command until it succeeds and prints this.
func (p *plain) becomes(t *testing.T, m *kubetest.Machine, command, want string) {
	t.Helper()
	_, err := poll(t.Context(), enough, func(ctx context.Context) error {
		out, err := p.try(ctx, m, command)
		if err == nil && out != want {
			err = fmt.Errorf("%s on %s prints %q, want %q", command, m.Name(), out, want)
		}
		return err
	})
	must(t, err)
}

// putNetwork does what the page's etcdctl does, which machines do not have, by etcd's other interface.
func (p *plain) putNetwork(t *testing.T) {
	t.Helper()
	words := regexp.MustCompile(`put (\S+) '(.*)'$`).FindStringSubmatch(p.page.command(t, "etcdctl"))
	if words == nil {
		t.Fatal("the page's etcdctl puts nothing")
	}
	text := base64.StdEncoding.EncodeToString
	put := fmt.Sprintf(`curl -fsS -o /dev/null --max-time 5 %s/v3/kv/put -d '{"key": "%s", "value": "%s"}'`, p.etcd, text([]byte(words[1])), text([]byte(words[2])))
	p.becomes(t, p.machines[0], put, "")
}

// checkout gives a machine what the page takes from one: the programs, out of the image, and deploy/.
func (p *plain) checkout(t *testing.T, m *kubetest.Machine) {
	t.Helper()
	p.do(t, m, "mkdir -p bin /mnt/image /etc/systemd/system "+placed+" && ctr images mount $(ctr images list -q | grep /twill:) /mnt/image && "+
		"cp /mnt/image/usr/bin/* bin/ && ctr images unmount /mnt/image")
	for _, file := range []string{"deploy/twilld.yaml", "deploy/twilld.service"} {
		text, err := os.ReadFile(repository(file))
		must(t, err)
		must(t, m.Write(filepath.Join("/root", file), string(text)))
	}
}

func plainInstall(t *testing.T, p *plain) {
	p.putNetwork(t)
	for _, m := range p.machines {
		p.checkout(t, m)
		for _, begin := range []string{"install -m 0755", "install -d", "install -m 0600", "sed -i", "install -m 0644"} {
			p.do(t, m, p.page.command(t, begin))
		}
		p.do(t, m, "echo 'pod-release-delay: 2s' >>/etc/twill/twilld.yaml") // the page's 30 s are long for a test
		p.daemons = append(p.daemons, p.serve(m, unitCommand(t)))
	}
	for _, m := range p.machines {
		_, err := poll(t.Context(), enough, func(ctx context.Context) error {
			_, err := p.try(ctx, m, p.page.command(t, "curl"))
			return err
		})
		must(t, err)
	}
}

// unitCommand returns what systemd would do of deploy/twilld.service: the command, with no more capabilities.
func unitCommand(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(repository("deploy/twilld.service"))
	must(t, err)
	setting := func(key string) string {
		found := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(string(text))
		if found == nil {
			t.Fatalf("the unit has no %s", key)
		}
		return found[1]
	}
	capabilities := "-all"
	for _, name := range strings.Fields(setting("CapabilityBoundingSet")) {
		capabilities += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	return "setpriv --no-new-privs --inh-caps=-all --bounding-set=" + capabilities + " " + strings.Replace(setting("ExecStart"), "/usr/local/bin", placed, 1)
}

func plainContainers(t *testing.T, p *plain) {
	a, b := p.machines[0], p.machines[1]
	p.do(t, a, p.page.command(t, "ctr run -d"))
	p.reached(t, b, p.address(t, a))
}

// address returns that of the container web.
func (p *plain) address(t *testing.T, m *kubetest.Machine) string {
	t.Helper()
	out := p.do(t, m, p.page.command(t, "ctr tasks exec"))
	found := regexp.MustCompile(`inet (\S+)/`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("the container has no address: %s", out)
	}
	return found[1]
}

// reached runs a client on a machine.
func (p *plain) reached(t *testing.T, m *kubetest.Machine, addr string) {
	t.Helper()
	if out := p.do(t, m, replace(t, p.page.command(t, "ctr run --rm"), "10.5.7.2", addr)); out != "hello" {
		t.Errorf("the answer is %q, want hello", out)
	}
}

// leases prints the addresses that are given out on a host.
const leases = "ls /run/twill/ipam/twill/addresses"

// plainGone: addresses are given back however containers end.
func plainGone(t *testing.T, p *plain) {
	a, b := p.machines[0], p.machines[1]
	p.becomes(t, b, leases, "")
	p.do(t, b, "ctr run -d --cni "+kubetest.BusyboxImage+" short true")
	p.becomes(t, b, "ctr tasks rm short && ctr containers rm short", "")
	p.becomes(t, b, leases, "")
	p.becomes(t, b, "curl -fsS http://127.0.0.1:10270/metrics | sed -n 's/^twill_attachments_released_total //p'", "1")
	addr := p.address(t, a)
	if out := p.do(t, a, leases); out != addr {
		t.Errorf("addresses in use are %q, want %s", out, addr)
	}
}

// plainRemove: containers go on without the daemon, and --cleanup leaves nothing.
func plainRemove(t *testing.T, p *plain) {
	a, b := p.machines[0], p.machines[1]
	for _, stop := range p.daemons {
		stop()
	}
	p.reached(t, b, p.address(t, a))
	p.do(t, a, "ctr tasks kill -s SIGKILL web")
	p.becomes(t, a, leases, "")
	for _, m := range p.machines {
		p.do(t, m, p.page.command(t, "twilld --config"))
		if out := p.do(t, m, "ip -o link show | grep -E 'cni0|flannel' ; ls /etc/cni/net.d /opt/cni/bin -A | grep twill; nft list tables | grep twill; :"); out != "" {
			t.Errorf("left on %s: %s", m.Name(), out)
		}
	}
}
