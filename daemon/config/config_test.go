package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// load reads a configuration from the given sources; the file, unless empty, is found as twill.yaml.
func load(args, environ []string, file string) (*Config, error) {
	if file != "" {
		args = append([]string{"--config=twill.yaml"}, args...)
	}
	return Load(Inputs{
		Args: args, Environ: environ, HostName: "Host1",
		ReadFile: func(name string) ([]byte, error) {
			if name != "twill.yaml" || file == "" {
				return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
			}
			return []byte(file), nil
		},
	})
}

func compare(t *testing.T, want, got *Config) {
	t.Helper()
	diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Config{}, "Settings"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b Secret) bool { return a == b }),
		cmp.Comparer(func(a, b *regexp.Regexp) bool { return fmt.Sprint(a) == fmt.Sprint(b) }))
	if diff != "" {
		t.Error(diff)
	}
}

func defaults() *Config {
	return &Config{
		Backend: "vxlan", Datastore: "etcd", EtcdEndpoints: []string{"http://127.0.0.1:2379"}, EtcdPrefix: "/coreos.com/network",
		NodeName: "host1", IPMasq: true,
		SubnetFile: "/run/flannel/subnet.env", RunDir: "/run/twill", CNIConfDir: "/etc/cni/net.d", CNIBinDir: "/opt/cni/bin",
		SysctlDir:    "/proc/sys",
		NetConf:      "/etc/kube-flannel/net-conf.json",
		HostLocalDir: "/var/lib/cni/networks",
		Proxy:        "off",
		Policy:       "off", PolicyCutMark: 1 << 31, PolicyLogGroup: 84,
		DNS: "off", ClusterDomain: "cluster.local",
		PodReleaseDelay: 30 * time.Second,
		HealthAddress:   "127.0.0.1:10270", MetricsAddress: "127.0.0.1:10270", LogFormat: "text",
	}
}

func TestDefaults(t *testing.T) {
	got, err := load(nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, defaults(), got)
}

// Every key can be given as a flag, as a variable and in the file, with the same outcome.
func TestEveryKeyFromEverySource(t *testing.T) {
	off := false
	values := map[string]string{
		"backend": "vxlan", "datastore": "etcd", "etcd-endpoints": "https://10.0.0.1:2379, https://10.0.0.2:2379/", "etcd-prefix": "/x/",
		"etcd-cafile": "/ca", "etcd-certfile": "/cert", "etcd-keyfile": "/key", "etcd-username": "u", "etcd-password": "p",
		"node-name": "n1", "iface": "eth1", "public-ip": "192.0.2.9", "public-ipv6": "2001:db8::9", "ip-masq": "false",
		"vxlan-checksum-offload": "off", "subnet-file": "/s", "run-dir": "/r", "cni-conf-dir": "/c/", "cni-bin-dir": "", "host-local-dir": "/h/", "sysctl-dir": "/host/proc/sys/", "pod-release-delay": "2m",
		"health-address": "[::1]:1", "metrics-address": "", "page": "10280", "proxy": "nftables", "proxy-config": "/p", "kubeconfig": "/k", "policy": "on", "policy-cut-mark": "0x400", "policy-log-group": "7", "log-level": "debug", "log-format": "json",
		"dns": "off", "cluster-domain": "K8s.Test.", "dns-upstream": "192.0.2.53, [2001:db8::53]:5353", // --dns=on excludes kubeconfig
		"net-conf": "/n", "kube-api-address": "10.0.0.1:6443, api.example:443", "bgp-config": "/b",
	}
	elsewhere := []string{"iface-regex", "etcd-password-file"} // exclude one of the above; see TestAlternatives
	want := &Config{
		Backend: "vxlan", BGPConfig: "/b", Policy: "on", PolicyCutMark: 0x400, PolicyLogGroup: 7, Proxy: "nftables", ProxyConfig: "/p", Kubeconfig: "/k", KubeAPIAddresses: []string{"10.0.0.1:6443", "api.example:443"}, NetConf: "/n", Datastore: "etcd", EtcdEndpoints: []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379"}, EtcdPrefix: "/x",
		EtcdCAFile: "/ca", EtcdCertFile: "/cert", EtcdKeyFile: "/key", EtcdUsername: "u", EtcdPassword: "p",
		NodeName: "n1", Iface: "eth1", PublicIP: netip.MustParseAddr("192.0.2.9"), PublicIPv6: netip.MustParseAddr("2001:db8::9"),
		VXLANChecksumOffload: &off, SubnetFile: "/s", RunDir: "/r", CNIConfDir: "/c", HostLocalDir: "/h", SysctlDir: "/host/proc/sys", PodReleaseDelay: 2 * time.Minute, HealthAddress: "[::1]:1", Page: "127.0.0.1:10280",
		LogLevel: slog.LevelDebug, LogFormat: "json", DNS: "off", ClusterDomain: "k8s.test",
		DNSUpstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[2001:db8::53]:5353")},
	}
	var args, environ []string
	var file strings.Builder
	for _, k := range keys() {
		value, ok := values[k.name]
		if !ok {
			if !k.flagOnly && !strings.Contains(strings.Join(elsewhere, " "), k.name) {
				t.Errorf("key %s has no value in this test", k.name)
			}
			continue
		}
		args = append(args, "--"+k.name+"="+value)
		environ = append(environ, k.env()+"="+value)
		fmt.Fprintf(&file, "%s: %q\n", k.name, value)
	}
	for name, get := range map[string]func() (*Config, error){
		"flags":       func() (*Config, error) { return load(args, nil, "") },
		"environment": func() (*Config, error) { return load(nil, environ, "") },
		"file":        func() (*Config, error) { return load(nil, nil, file.String()) },
	} {
		t.Run(name, func(t *testing.T) {
			got, err := get()
			if err != nil {
				t.Fatal(err)
			}
			compare(t, want, got)
		})
	}
}

func TestAlternatives(t *testing.T) {
	got, err := load([]string{"--iface-regex=^eth", "--etcd-username=u", "--etcd-password-file=/pw", "--cleanup"}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.IfaceRegex, want.EtcdUsername, want.EtcdPasswordFile, want.Cleanup = regexp.MustCompile("^eth"), "u", "/pw", true
	compare(t, want, got)
}

func TestPrecedence(t *testing.T) {
	const file, env, flag = "iface: fromfile\n", "TWILLD_IFACE=fromenv", "--iface=fromflag"
	tests := []struct {
		name          string
		args, environ []string
		file, want    string
	}{
		{"file", nil, nil, file, "fromfile"},
		{"environment beats file", nil, []string{env}, file, "fromenv"},
		{"flag beats both", []string{flag}, []string{env}, file, "fromflag"},
		{"an empty flag is a value too", []string{"--iface="}, []string{env}, file, ""},
		{"file named by the environment", nil, []string{"TWILLD_CONFIG=twill.yaml"}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(tt.args, tt.environ, tt.file)
			if tt.file == "" {
				if err == nil || !strings.Contains(err.Error(), "twill.yaml") {
					t.Errorf("error %v, want one about twill.yaml", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Iface != tt.want {
				t.Errorf("iface %q, want %q", got.Iface, tt.want)
			}
		})
	}
}

func TestYAMLValues(t *testing.T) {
	got, err := load(nil, nil, `
etcd-endpoints:
  - http://10.0.0.1:2379
  - http://10.0.0.2:2379
ip-masq: false
node-name: 17
`)
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.EtcdEndpoints, want.IPMasq, want.NodeName = []string{"http://10.0.0.1:2379", "http://10.0.0.2:2379"}, false, "17"
	compare(t, want, got)
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name          string
		args, environ []string
		file          string
		want          string // the whole error
	}{
		{"unknown backend", nil, []string{"TWILLD_BACKEND=udp"}, "", `env TWILLD_BACKEND: "udp" is unknown: use vxlan or bgp`},
		{"datastore", nil, nil, "datastore: consul", `file twill.yaml key datastore: "consul" is unknown: use etcd or kube`},
		{"unknown proxy", []string{"--proxy=iptables"}, nil, "", `flag --proxy: "iptables" is unknown: use off or nftables`},
		{"policy", []string{"--policy=yes"}, nil, "", `flag --policy: "yes" is unknown: use on or off`},
		{"DNS in Kubernetes", []string{"--dns=on", "--datastore=kube"}, nil, "", "flag --dns and flag --datastore: in a Kubernetes cluster CoreDNS answers"},
		{"DNS for Services of Kubernetes", []string{"--dns=on", "--kubeconfig=/k"}, nil, "",
			"flag --dns and flag --kubeconfig: Services are those of a Kubernetes cluster, where CoreDNS answers"},
		{"cluster domain", []string{"--cluster-domain=a b"}, nil, "", `flag --cluster-domain: domain "a b": want labels of letters, digits and hyphens, ` +
			"divided by dots, such as cluster.local"},
		{"DNS upstream", []string{"--dns-upstream=192.0.2.53,ns.example.com"}, nil, "",
			`flag --dns-upstream: "ns.example.com" is no address of a DNS server such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353`},
		{"two bits for cut connections", []string{"--policy-cut-mark=3"}, nil, "", `flag --policy-cut-mark: "3" is no number with a single bit set, such as 0x80000000`},
		{"a bit that is too high", []string{"--policy-cut-mark=0x100000000"}, nil, "", `flag --policy-cut-mark: "0x100000000" is no number with a single bit set, such as 0x80000000`},
		{"log group", []string{"--policy-log-group=65536"}, nil, "", `flag --policy-log-group: "65536" is no number from 0 to 65535`},
		{"API server's address", []string{"--kube-api-address=10.0.0.1"}, nil, "", `flag --kube-api-address: "10.0.0.1" is no HOST:PORT such as 10.0.0.1:6443`},
		{"API server's port", []string{"--kube-api-address=10.0.0.1:6443,b:0"}, nil, "", `flag --kube-api-address: "b:0" is no HOST:PORT such as 10.0.0.1:6443`},
		{"relative BGP file", []string{"--bgp-config=bgp.yaml"}, nil, "", `flag --bgp-config: "bgp.yaml" is no absolute path`},
		{"public address", nil, []string{"TWILLD_PUBLIC_IP=10.0.0"}, "", `env TWILLD_PUBLIC_IP: "10.0.0" is no IPv4 unicast address`},
		{"public address of the other family", []string{"--public-ip=::1"}, nil, "", `flag --public-ip: "::1" is no IPv4 unicast address`},
		{"endpoint without scheme", []string{"--etcd-endpoints=10.0.0.1:2379"}, nil, "", `flag --etcd-endpoints: "10.0.0.1:2379" is no URL such as https://10.0.0.1:2379`},
		{"empty endpoint", []string{"--etcd-endpoints=http://a:1,"}, nil, "", `flag --etcd-endpoints: "" is no URL such as https://10.0.0.1:2379`},
		{"password in an endpoint", []string{"--etcd-endpoints=http://u:secret@a:1"}, nil, "", "flag --etcd-endpoints: holds a user name or password: use etcd-username and etcd-password-file"},
		{"password in an endpoint without a scheme", []string{"--etcd-endpoints=u:secret@a:1"}, nil, "", "flag --etcd-endpoints: holds a user name or password: use etcd-username and etcd-password-file"},
		{"password in an endpoint that is no URL", []string{"--etcd-endpoints=http://u:sec%ret@a:1"}, nil, "", "flag --etcd-endpoints: holds a user name or password: use etcd-username and etcd-password-file"},
		{"prefix", []string{"--etcd-prefix=x"}, nil, "", `flag --etcd-prefix: "x" is no key such as /coreos.com/network`},
		{"relative path", []string{"--run-dir=run"}, nil, "", `flag --run-dir: "run" is no absolute path`},
		{"empty path", nil, nil, `run-dir: ""`, "file twill.yaml key run-dir: is empty: give an absolute path"},
		{"regular expression", []string{"--iface-regex=("}, nil, "", "flag --iface-regex: \"(\" is no regular expression: error parsing regexp: missing closing ): `(`"},
		{"boolean", []string{"--ip-masq=maybe"}, nil, "", `flag --ip-masq: "maybe" is neither true nor false`},
		{"page without port", []string{"--page=192.0.2.1:"}, nil, "", `flag --page: "192.0.2.1:": "" is no port from 1 to 65535`},
		{"page at a name", []string{"--page=node1:80"}, nil, "", `flag --page: "node1:80": "node1" is no IP address`},
		{"address without port", []string{"--health-address=127.0.0.1"}, nil, "", `flag --health-address: "127.0.0.1" is no HOST:PORT such as 127.0.0.1:10270`},
		{"port zero", []string{"--metrics-address=127.0.0.1:0"}, nil, "", `flag --metrics-address: "127.0.0.1:0": "0" is no port from 1 to 65535`},
		{"host name to listen on", []string{"--metrics-address=node1:80"}, nil, "", `flag --metrics-address: "node1:80": "node1" is no IP address`},
		{"node name", []string{"--node-name=a/b"}, nil, "", `flag --node-name: "a/b" is no node name: use letters, digits, dots and dashes`},
		{"log level", []string{"--log-level=loud"}, nil, "", `flag --log-level: "loud" is unknown: use debug, info, warn or error`},
		{"offload", []string{"--vxlan-checksum-offload=yes"}, nil, "", `flag --vxlan-checksum-offload: "yes" is unknown: use keep, on or off`},
		{"both ways to choose the uplink", []string{"--iface=a"}, nil, "iface-regex: b", "flag --iface and file twill.yaml key iface-regex: give one of them"},
		{"install into nothing", []string{"--install"}, []string{"TWILLD_CNI_BIN_DIR="}, "", "flag --install and env TWILLD_CNI_BIN_DIR: there is no directory to install into"},
		{"install and clean up", []string{"--install", "--cleanup"}, nil, "", "flag --install and flag --cleanup: give one of them"},
		{"empty directory of sysctls", []string{"--sysctl-dir="}, nil, "", "flag --sysctl-dir: is empty: give an absolute path"},
		{"certificate without key", []string{"--etcd-certfile=/c", "--etcd-endpoints=https://a:1"}, nil, "",
			"flag --etcd-certfile and default of etcd-keyfile: give both or none"},
		{"password without user", nil, []string{"TWILLD_ETCD_PASSWORD=hunter2"}, "", "default of etcd-username and env TWILLD_ETCD_PASSWORD: a password needs a user name"},
		{"user without password", []string{"--etcd-username=u"}, nil, "", "flag --etcd-username and default of etcd-password-file: a user name needs a password"},
		{"TLS files without TLS", []string{"--etcd-cafile=/c"}, nil, "", "default of etcd-endpoints: http://127.0.0.1:2379 is not https, but TLS files are given"},
		{"unknown flag", []string{"--ifcae=a"}, nil, "", "unknown flag: --ifcae; see twilld --help"},
		{"argument", []string{"start"}, nil, "", `argument "start": twilld takes flags only; see twilld --help`},
		{"unknown keys in the file", nil, nil, "ifcae: a\nbakcend: b", "file twill.yaml: key bakcend is unknown; see docs/configuration.md\nkey ifcae is unknown; see docs/configuration.md"},
		{"flag in the file", nil, nil, "cleanup: true", "file twill.yaml: key cleanup is a flag only: it asks for one run, not for a setting"},
		{"key without value", nil, nil, "iface:", `file twill.yaml: key iface has no value: remove it, or write "" for an empty one`},
		{"mapping as value", nil, nil, "iface: {a: b}", "file twill.yaml: key iface is a mapping; want a plain value"},
		{"list as document", nil, nil, "- iface", "file twill.yaml: want a mapping of keys to values, such as `iface: eth0`"},
		{"missing file", []string{"--config=other.yaml"}, nil, "", "read configuration: open other.yaml: file does not exist"},
		{"all at once", []string{"--backend=udp"}, []string{"TWILLD_LOG_LEVEL=loud"}, "run-dir: x\nfoo: 1",
			"file twill.yaml: key foo is unknown; see docs/configuration.md\n" +
				`flag --backend: "udp" is unknown: use vxlan or bgp` + "\n" +
				`file twill.yaml key run-dir: "x" is no absolute path` + "\n" +
				`env TWILLD_LOG_LEVEL: "loud" is unknown: use debug, info, warn or error`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(tt.args, tt.environ, tt.file)
			if err == nil {
				t.Fatalf("no error, got %+v", got)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMalformedYAMLNamesTheFile(t *testing.T) {
	for _, file := range []string{"iface: [", "iface: a\niface: b", "\tiface: a"} {
		if _, err := load(nil, nil, file); err == nil || !strings.Contains(err.Error(), "file twill.yaml: ") {
			t.Errorf("%q: error %v, want one that names the file", file, err)
		}
	}
}

func TestHelp(t *testing.T) {
	if _, err := load([]string{"--help"}, nil, ""); !errors.Is(err, ErrHelp) {
		t.Errorf("error %v, want ErrHelp", err)
	}
	for _, k := range keys() {
		if !strings.Contains(Usage(), "--"+k.name) {
			t.Errorf("the usage text has no --%s", k.name)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	c, err := load([]string{"--etcd-username=u", "--etcd-password=hunter2"}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("configuration", "password", c.EtcdPassword)
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", c, c, *c), logged.String()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the password shows in %s", text)
		}
	}
	if c.EtcdPassword.Reveal() != "hunter2" {
		t.Errorf("password %q", c.EtcdPassword.Reveal())
	}
}

// The table in the documentation is the one that this package renders. TWILL_WRITE_DOCS=1 writes it.
func TestDocumentation(t *testing.T) {
	const path, begin, end = "../../docs/configuration.md", "<!-- begin: twilld -->\n", "<!-- end: twilld -->\n"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no lines %q and %q", path, begin, end)
	}
	if table == Markdown() {
		return
	}
	if os.Getenv("TWILL_WRITE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(before+begin+Markdown()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the table is out of date: TWILL_WRITE_DOCS=1 go test ./daemon/config\n%s", cmp.Diff(table, Markdown()))
}

func FuzzYAML(f *testing.F) {
	f.Add([]byte("iface: eth0\netcd-endpoints: [http://a:1, http://b:2]\n"))
	f.Add([]byte("ip-masq: yes\nnode-name: 1e3\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := load([]string{"--config=twill.yaml"}, nil, "#\n"+string(data))
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v and error %v", c, err)
		}
		if err == nil && (c.NodeName == "" || len(c.EtcdEndpoints) == 0) {
			t.Errorf("accepted %+v", c)
		}
	})
}

// The example for plain hosts says nothing but defaults, and what it has as comments are keys too.
func TestExampleFile(t *testing.T) {
	data, err := os.ReadFile("../../deploy/twilld.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := load(nil, nil, string(data))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, defaults(), got)
	known := map[string]bool{}
	for _, k := range keys() {
		known[k.name] = true
	}
	for _, m := range regexp.MustCompile(`(?m)^# ([a-z]+(-[a-z0-9]+)*): `).FindAllStringSubmatch(string(data), -1) {
		if !known[m[1]] {
			t.Errorf("the example names the unknown key %s", m[1])
		}
	}
}

// Settings say where each came from, and hold no secret.
func TestSettings(t *testing.T) {
	c, err := Load(Inputs{Args: []string{"--iface=eth7", "--etcd-password=planted"}, Environ: []string{"TWILLD_ETCD_USERNAME=root"}, HostName: "host1"})
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]Setting{}
	for _, s := range c.Settings {
		by[s.Name] = s
	}
	for name, want := range map[string]Setting{
		"iface":         {"iface", "eth7", "flag --iface"},
		"etcd-username": {"etcd-username", "root", "env TWILLD_ETCD_USERNAME"},
		"etcd-password": {"etcd-password", "(hidden)", "flag --etcd-password"},
		"backend":       {"backend", "vxlan", "default of backend"},
		"node-name":     {"node-name", "host1", "host name"},
	} {
		if by[name] != want {
			t.Errorf("%+v, want %+v", by[name], want)
		}
	}
	if _, ok := by["cleanup"]; ok {
		t.Error("an instruction is among the settings")
	}
	for _, k := range keys() {
		if strings.Contains(k.name, "password") && !strings.HasSuffix(k.name, "-file") && !k.secret {
			t.Errorf("%s is not secret", k.name)
		}
	}
}
