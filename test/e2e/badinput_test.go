package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
)

// kernelState is what ip and nft say of a namespace.
func kernelState(t *testing.T, ns netns.Namespace) string {
	t.Helper()
	return sh(t, ns, "ip -o link; ip -o addr; ip route show table all; ip -6 route show table all; ip neigh show nud permanent; nft list ruleset; "+
		"sysctl net.ipv4.ip_forward net.ipv4.conf.all.route_localnet net.ipv6.conf.all.forwarding")
}

// fileState lists the files below a directory, with their content. The daemon's lock does not count.
func fileState(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == "twilld.lock" {
			return err
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%s: %s\n", path, text)
		return err
	}))
	return all.String()
}

// runTwilld runs the daemon in a namespace until it ends, at most for a few seconds. Its paths are below dir.
func runTwilld(t *testing.T, ns netns.Namespace, dir string, env []string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	paths := []string{"--run-dir=" + dir + "/run", "--subnet-file=" + dir + "/subnet.env", "--cni-conf-dir=" + dir + "/conf", "--cni-bin-dir=" + dir + "/bin"}
	cmd := lab.Command(ctx, ns, filepath.Join(binDir, "twilld"), append(paths, args...)...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); ctx.Err() != nil {
		t.Errorf("twilld %v does not end: %v\n%s", args, err, stderr.String())
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// A wrong setting, wherever it stands, is one error that names it, exit code 2, and a host as it was.
func TestBadSettings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		args  []string
		env   string
		file  string // content of the --config file
		names []string
	}{
		{name: "a flag that is not there", args: []string{"--nosuch"}, names: []string{"--nosuch", "--help"}},
		{name: "an argument", args: []string{"start"}, names: []string{`"start"`}},
		{name: "a backend nobody knows", args: []string{"--backend=udp"}, names: []string{"--backend", "udp", "vxlan or bgp"}},
		{name: "a BGP file that is not there", args: []string{"--backend=bgp", "--bgp-config=/nowhere/bgp.yaml"}, names: []string{"/nowhere/bgp.yaml"}},
		{name: "a datastore that there is not", args: []string{"--datastore=consul"}, names: []string{"--datastore", "consul", "etcd or kube"}},
		{name: "Kubernetes outside of it", args: []string{"--datastore=kube"}, names: []string{"datastore kube", "--kubeconfig", "no pod"}},
		{name: "a proxy that there is not", args: []string{"--proxy=iptables"}, names: []string{"--proxy", "iptables", "off or nftables"}},
		{name: "policies", args: []string{"--policy=maybe"}, names: []string{"policy", "maybe", "on", "off"}},
		{name: "by environment", env: "TWILLD_BACKEND=udp", names: []string{"TWILLD_BACKEND", "udp"}},
		{name: "by file", file: "backend: udp\n", names: []string{"twilld.yaml", "backend", "udp"}},
		{name: "not YAML", file: "backend: [vxlan\n", names: []string{"twilld.yaml", "line"}},
		{name: "not a mapping", file: "- vxlan\n", names: []string{"twilld.yaml", "mapping"}},
		{name: "a key that is not there", file: "ifaces: eth0\n", names: []string{"twilld.yaml", "ifaces", "docs/configuration.md"}},
		{name: "a key twice", file: "iface: eth0\niface: eth1\n", names: []string{"twilld.yaml", "iface"}},
		{name: "a mapping for a value", file: "iface: {name: eth0}\n", names: []string{"iface", "plain value"}},
		{name: "no file", args: []string{"--config=/nowhere/twilld.yaml"}, names: []string{"/nowhere/twilld.yaml"}},
		{name: "two wrong things", args: []string{"--public-ip=1.2.3", "--log-level=loud"}, names: []string{"--public-ip", "1.2.3", "--log-level", "loud"}},
		{name: "an endpoint without a scheme", args: []string{"--etcd-endpoints=10.0.0.1:2379"}, names: []string{"--etcd-endpoints", "10.0.0.1:2379", "https://"}},
		{name: "a password in the endpoint", args: []string{"--etcd-endpoints=http://me:secret@10.0.0.1:2379"}, names: []string{"--etcd-endpoints", "etcd-password"}},
		{name: "a user without a password", args: []string{"--etcd-username=me"}, names: []string{"etcd-username", "password"}},
		{name: "a CA that is not there", args: []string{"--etcd-endpoints=https://10.0.0.1:2379", "--etcd-cafile=/nowhere/ca.pem"}, names: []string{"/nowhere/ca.pem"}},
		{name: "TLS without https", args: []string{"--etcd-cafile=/nowhere/ca.pem"}, names: []string{"http://127.0.0.1:2379", "https"}},
		{name: "a key without a certificate", args: []string{"--etcd-keyfile=/k"}, names: []string{"etcd-keyfile", "etcd-certfile"}},
		{name: "a relative path", args: []string{"--run-dir=run"}, names: []string{"--run-dir", "absolute"}},
		{name: "two ways to name the uplink", args: []string{"--iface=eth0", "--iface-regex=eth.*"}, names: []string{"--iface", "--iface-regex"}},
		{name: "no regular expression", args: []string{"--iface-regex=("}, names: []string{"--iface-regex", `"("`}},
		{name: "a health address that is none", args: []string{"--health-address=here"}, names: []string{"--health-address", "here", "HOST:PORT"}},
		{name: "not a switch", args: []string{"--ip-masq=perhaps"}, names: []string{"--ip-masq", "perhaps"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ns, dir := sandbox(t), t.TempDir()
			args := test.args
			if test.file != "" {
				file := filepath.Join(t.TempDir(), "twilld.yaml")
				must(t, os.WriteFile(file, []byte(test.file), 0o600))
				args = append(args, "--config="+file)
			}
			before := kernelState(t, ns)
			o := runTwilld(t, ns, dir, []string{test.env}, args...)
			if o.code != 2 {
				t.Errorf("exit code %d, want 2", o.code)
			}
			for _, name := range test.names {
				if !strings.Contains(o.stderr, name) {
					t.Errorf("the error does not name %q", name)
				}
			}
			if t.Failed() || strings.Contains(o.stderr, "goroutine") || strings.Contains(o.stderr, "secret") || strings.Count(o.stderr, "\n") > 2 {
				t.Errorf("stderr:\n%s", o.stderr)
			}
			if diff := cmp.Diff(before, kernelState(t, ns)); diff != "" {
				t.Errorf("the kernel was changed:\n%s", diff)
			}
			if files := fileState(t, dir); files != "" {
				t.Errorf("files were made:\n%s", files)
			}
		})
	}
}

// A directory that cannot be written to is named, and nothing is announced.
func TestUnwritableDirectory(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 1})
	for _, flag := range []string{"--run-dir", "--cni-conf-dir", "--cni-bin-dir", "--subnet-file"} {
		t.Run(flag, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "file") // nothing can be made below a file, not even by root
			must(t, os.WriteFile(file, nil, 0o644))
			n, err := l.AddNode(t.Context(), lab.NodeOptions{Args: []string{flag + "=" + file + "/below"}})
			must(t, err)
			wantComplaint(t, n, file)
			if _, err := n.ConfList(); err == nil && flag != "--cni-conf-dir" {
				t.Error("it has announced the node all the same")
			}
			must(t, n.Delete(t.Context()))
		})
	}
}

// wantComplaint waits until the daemon names something in an answer of /readyz, or ends and has named it in its log.
func wantComplaint(t *testing.T, n *lab.Node, names string) {
	t.Helper()
	within(t, enough, func() error {
		err := ready(t, n)
		if err == nil {
			t.Fatalf("%s is ready", n.Name)
		}
		log, logErr := n.DaemonLog()
		must(t, logErr)
		if strings.Contains(err.Error(), names) || !n.DaemonRunning() && strings.Contains(log, names) {
			return nil
		}
		return fmt.Errorf("no word of %q: %w", names, err)
	})
}

// A network configuration in etcd that cannot be used is explained on /readyz; the node stays as it was, and comes up as soon as the
// configuration is mended.
func TestBadNetworkConfig(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, config, names string
		ends                bool // the daemon, since it is of no use to this cluster; its supervisor starts it again
	}{
		{"not JSON", `{"Network":`, "/config", false},
		{"no network", `{"Backend":{"Type":"vxlan"}}`, "Network", false},
		{"no CIDR", `{"Network":"10.1.0.0","Backend":{"Type":"vxlan"}}`, "10.1.0.0", false},
		{"a subnet larger than the network", `{"Network":"10.1.0.0/16","SubnetLen":12,"Backend":{"Type":"vxlan"}}`, "SubnetLen", false},
		{"bounds outside the network", `{"Network":"10.1.0.0/16","SubnetMin":"10.2.0.0","Backend":{"Type":"vxlan"}}`, "SubnetMin", false},
		{"bounds in the wrong order", `{"Network":"10.1.0.0/16","SubnetMin":"10.1.9.0","SubnetMax":"10.1.3.0","Backend":{"Type":"vxlan"}}`, "SubnetM", false},
		{"another backend", `{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}`, "host-gw", true},
		{"a VNI too large", `{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}`, "VNI", true},
		{"a VNI that is text", `{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":"one"}}`, "VNI", true},
		{"a negative port", `{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","Port":-1}}`, "Port", true},
		{"an MTU too small", `{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","MTU":60}}`, "MTU", true},
		{"IPv6 without a network", `{"Network":"10.1.0.0/16","EnableIPv6":true,"Backend":{"Type":"vxlan"}}`, "IPv6Network", false},
	}
	l := newLab(t, lab.Options{})
	must(t, l.Up(t.Context()))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			must(t, l.SetNetworkConfig(t.Context(), json.RawMessage(test.config)))
			n, err := l.AddNode(t.Context(), lab.NodeOptions{})
			must(t, err)
			before := kernelState(t, n.Netns())
			wantComplaint(t, n, test.names)
			if diff := cmp.Diff(before, kernelState(t, n.Netns())); diff != "" {
				t.Errorf("the kernel was changed:\n%s", diff)
			}
			if _, err := n.ConfList(); err == nil {
				t.Error("a conflist was written")
			}
			must(t, l.SetNetworkConfig(t.Context(), json.RawMessage(`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}`)))
			if test.ends {
				within(t, enough, func() error {
					if n.DaemonRunning() {
						return errors.New("twilld goes on")
					}
					return nil
				})
				must(t, n.StartDaemon())
			}
			within(t, enough, func() error { return ready(t, n) })
			must(t, n.Delete(t.Context()))
		})
	}
}

// What the node itself lacks is explained in the same way.
func TestBadNode(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 1, Networks: nil, NetworkConfig: json.RawMessage(`{"Network":"10.1.0.0/22","SubnetLen":24,"Backend":{"Type":"vxlan"}}`)})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, []byte("no certificate"), 0o644))
	tests := []struct {
		name  string
		args  []string
		names string
	}{
		{"no such link", []string{"--iface=eth7"}, "eth7"},
		{"no link that matches", []string{"--iface=", "--iface-regex=^wlan"}, "^wlan"},
		{"a public address that is not there", []string{"--public-ip=0.0.0.0"}, "--public-ip"},
		{"a CA without a certificate", []string{"--etcd-endpoints=https://172.30.0.1:2379", "--etcd-cafile=" + ca}, ca},
		{"TLS to an etcd without", []string{"--etcd-endpoints=https://172.30.0.1:2379"}, "handshake"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n, err := l.AddNode(t.Context(), lab.NodeOptions{NoDaemon: true})
			must(t, err)
			before := kernelState(t, n.Netns())
			must(t, n.Delete(t.Context()))
			n, err = l.AddNode(t.Context(), lab.NodeOptions{Args: test.args})
			must(t, err)
			wantComplaint(t, n, test.names)
			if links := sh(t, n.Netns(), "ip -br link | grep -c -E '^(cni0|flannel)' || true"); strings.TrimSpace(links) != "0" {
				t.Errorf("links were made; before:\n%s\nnow:\n%s", before, kernelState(t, n.Netns()))
			}
			must(t, n.Delete(t.Context()))
		})
	}
	t.Run("no subnet is left", func(t *testing.T) {
		// 10.1.0.0/22 holds four subnets; flannel's default bounds leave out the first.
		var last *lab.Node
		for range 4 {
			n, err := l.AddNode(t.Context(), lab.NodeOptions{})
			must(t, err)
			last = n
		}
		within(t, enough, func() error {
			var waiting []string
			for _, n := range l.Nodes() {
				if err := ready(t, n); err != nil {
					waiting = append(waiting, err.Error())
				}
			}
			if len(waiting) == 0 || !strings.Contains(waiting[len(waiting)-1], "10.1.0.0/22") {
				return fmt.Errorf("%d wait, the last, %s, says %v", len(waiting), last.Name, waiting)
			}
			return nil
		})
	})
}

// Where etcd asks who one is, a node without the right password waits, says why and does not print it; one with the password works.
func TestBadPassword(t *testing.T) {
	t.Parallel()
	l := newLab(t, lab.Options{})
	must(t, l.Up(t.Context()))
	client, err := l.Etcd().Client()
	must(t, err)
	_, err = client.UserAdd(t.Context(), "root", "right-one")
	must(t, err)
	_, err = client.UserGrantRole(t.Context(), "root", "root")
	must(t, err)
	_, err = client.AuthEnable(t.Context())
	must(t, err)
	for _, args := range [][]string{nil, {"--etcd-username=root", "--etcd-password=guessed-one"}, {"--etcd-username=nobody", "--etcd-password=right-one"}} {
		n, err := l.AddNode(t.Context(), lab.NodeOptions{Args: args})
		must(t, err)
		wantComplaint(t, n, "etcdserver: ")
		log, err := n.DaemonLog()
		must(t, err)
		if strings.Contains(log, "-one") {
			t.Errorf("the password is in the log:\n%s", log)
		}
		if links := sh(t, n.Netns(), "ip -br link | grep -E '^(cni0|flannel)' || true"); links != "" {
			t.Errorf("links were made:\n%s", links)
		}
		must(t, n.Delete(t.Context()))
	}
	n, err := l.AddNode(t.Context(), lab.NodeOptions{Args: []string{"--etcd-username=root", "--etcd-password=right-one"}})
	must(t, err)
	must(t, n.Ready(t.Context()))
}

// The tool's own errors: one line, exit code 1.
func TestBadCommands(t *testing.T) {
	t.Parallel()
	name := freshName(t)
	tests := []struct {
		args  []string
		names string
	}{
		{[]string{"nosuch"}, "nosuch"},
		{[]string{"lab", "--nosuch"}, "--nosuch"},
		{[]string{"lab", "extra"}, "extra"},
		{[]string{"lab", "--name", "Not_A_Name"}, "Not_A_Name"},
		{[]string{"lab", "--name", name, "--nodes=-1"}, "-1"},
		{[]string{"lab", "--name", name, "--pods=-1"}, "-1"},
		{[]string{"lab", "--name", name, "--mtu=10"}, "10"},
		{[]string{"lab", "--name", name, "--network=10.1.0.0"}, "10.1.0.0"},
		{[]string{"lab", "--name", name, "--network=fd00::/48"}, "fd00::/48"},
		{[]string{"lab", "--name", name, "--backend-config={"}, "backend"},
		{[]string{"lab", "--name", name, "--ipv6", "--dual-stack"}, "dual-stack"},
		{[]string{"lab", "--name", name, "--bin-dir=/nowhere"}, "/nowhere"},
		{[]string{"lab", "matrix", "--name", name}, name},
		{[]string{"lab", "pods", "--name", name}, name},
		{[]string{"lab", "exec", "--name", name, "node1", "--", "true"}, name},
		{[]string{"lab", "exec", "--name", name}, "arg"},
	}
	for _, test := range tests {
		t.Run(strings.ReplaceAll(strings.Join(test.args, " "), name, "NAME"), func(t *testing.T) {
			o := twillctl(t, test.args...)
			if o.code != 1 || o.stdout != "" || !strings.Contains(o.stderr, test.names) || strings.Count(o.stderr, "\n") > 3 {
				t.Errorf("exit code %d, want 1 and an error that names %q:\n%s%s", o.code, test.names, o.stdout, o.stderr)
			}
			wantGone(t, name)
		})
	}
	l := up(t, lab.Options{Nodes: 1, PodsPerNode: 1})
	if o := twillctl(t, "lab", "pods", "--name", l.Name(), "-o", "xml"); o.code != 1 || !strings.Contains(o.stderr, "json") {
		t.Errorf("an output format nobody knows: %+v", o)
	}
}

// What is no CNI call at all gets the specification's codes. TestFailedAddLeavesNothing has the rest.
func TestBadCNICalls(t *testing.T) {
	t.Parallel()
	ns := sandbox(t)
	for _, program := range []string{"twill", "twill-ipam"} {
		for _, test := range []struct {
			name, env, stdin string
			code             uint
		}{
			{"not JSON", "CNI_COMMAND=ADD", "{", types.ErrDecodingFailure},
			{"nothing", "CNI_COMMAND=ADD", "", types.ErrDecodingFailure},
			{"no verb that is known", "CNI_COMMAND=MEND", `{"cniVersion":"1.1.0","name":"n"}`, types.ErrInvalidEnvironmentVariables},
			{"no container id", "CNI_COMMAND=ADD CNI_CONTAINERID=", `{"cniVersion":"1.1.0","name":"n","type":"twill"}`, types.ErrInvalidEnvironmentVariables},
			{"no name", "CNI_COMMAND=ADD", `{"cniVersion":"1.1.0","type":"twill","ipam":{"type":"twill-ipam"}}`, types.ErrInvalidNetworkConfig},
			{"no IPAM", "CNI_COMMAND=ADD", `{"cniVersion":"1.1.0","name":"n","type":"twill"}`, types.ErrInvalidNetworkConfig},
		} {
			t.Run(program+" "+test.name, func(t *testing.T) {
				cmd := lab.Command(t.Context(), ns, filepath.Join(binDir, program))
				cmd.Env = append(os.Environ(), "CNI_CONTAINERID=x", "CNI_NETNS=/run/netns/nobody", "CNI_IFNAME=eth0", "CNI_PATH="+binDir)
				cmd.Env = append(cmd.Env, strings.Fields(test.env)...)
				cmd.Stdin = strings.NewReader(test.stdin)
				before := kernelState(t, ns)
				began := time.Now()
				out, err := cmd.Output()
				theirs := &types.Error{}
				if err == nil || json.Unmarshal(out, theirs) != nil || theirs.Code != test.code || theirs.Msg == "" {
					t.Errorf("%v, %s; want code %d", err, out, test.code)
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("that took %v", took)
				}
				if diff := cmp.Diff(before, kernelState(t, ns)); diff != "" {
					t.Errorf("the kernel was changed:\n%s", diff)
				}
			})
		}
	}
}
