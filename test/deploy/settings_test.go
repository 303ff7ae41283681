package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	bgpconfig "github.com/twill-cni/twill/bgp/config"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/overlay"
	proxyconfig "github.com/twill-cni/twill/proxy/config"
	"github.com/twill-cni/twill/store"
)

// load reads a container's flags, environment and file as twilld does.
func load(t *testing.T, o objects, daemon, name string) *config.Config {
	t.Helper()
	c := container(t, o.daemon(t, daemon), name)
	values := map[string]string{"spec.nodeName": "node1", "status.hostIP": "192.0.2.1"}
	env := map[string]string{}
	var environ []string
	for _, e := range c.Env {
		value := e.Value
		if from := e.ValueFrom; from != nil && from.FieldRef != nil {
			value = values[from.FieldRef.FieldPath]
		} else if from != nil {
			continue // an optional ConfigMap, which is not there
		}
		env[e.Name] = value
		environ = append(environ, e.Name+"="+value)
	}
	args := make([]string, len(c.Args))
	for i, arg := range c.Args {
		args[i] = os.Expand(strings.NewReplacer("$(", "${", ")", "}").Replace(arg), func(name string) string {
			if _, ok := env[name]; !ok {
				t.Errorf("flag %s: there is no variable %s", arg, name)
			}
			return env[name]
		})
	}
	cfg, err := config.Load(config.Inputs{Args: args, Environ: environ, HostName: "a-pod", ReadFile: func(name string) ([]byte, error) {
		text, ok := mounted(o, name)
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		return []byte(text), nil
	}})
	if err != nil {
		t.Fatalf("twilld refuses its settings: %v", err)
	}
	return cfg
}

// mounted returns a file of the ConfigMap as the container sees it.
func mounted(o objects, name string) (string, bool) {
	if path.Dir(name) != "/etc/twill" {
		return "", false
	}
	text, ok := o.configs["twill"].Data[path.Base(name)]
	return text, ok
}

func TestSettingsAsTwilldReadsThem(t *testing.T) {
	type settings struct {
		Backend, Datastore, NodeName, Iface, CNIBinDir, SysctlDir, Health, Metrics, Proxy, Policy, Page string
		APIServers                                                                                      []string
		IPMasq, Cleanup                                                                                 bool
	}
	normal := func(change func(*settings)) settings {
		s := settings{Backend: "vxlan", Datastore: "kube", NodeName: "node1", SysctlDir: "/host/proc/sys", Health: "127.0.0.1:10270",
			Metrics: "127.0.0.1:10270", Proxy: "nftables", Policy: "off", IPMasq: true}
		change(&s)
		return s
	}
	for _, c := range []struct {
		name   string
		values []string
		want   settings
	}{
		{"default", nil, normal(func(*settings) {})},
		{"bgp", []string{"backend=bgp"}, normal(func(s *settings) { s.Backend = "bgp" })},
		{"beside kube-proxy", []string{"proxy.enabled=false"}, normal(func(s *settings) { s.Proxy = "off" })},
		{"without kube-proxy", []string{"kubernetes.apiServers={192.0.2.10:6443,[2001:db8::1]:6443}"},
			normal(func(s *settings) { s.APIServers = []string{"192.0.2.10:6443", "[2001:db8::1]:6443"} })},
		{"uplink", []string{"uplink.iface=eth1", "ipMasq=false"}, normal(func(s *settings) { s.Iface, s.IPMasq = "eth1", false })},
		{"uplink of the node's address", []string{"uplink.nodeIP=true"}, normal(func(s *settings) { s.Iface = "192.0.2.1" })},
		{"policies", []string{"policy.enabled=true"}, normal(func(s *settings) { s.Policy = "on" })},
		{"monitoring", []string{"monitoring.enabled=true", "monitoring.port=9000"}, normal(func(s *settings) { s.Metrics = ":9000" })},
		{"page", []string{"page.enabled=true"}, normal(func(s *settings) { s.Page = "127.0.0.1:10280" })},
		{"another port for probes", []string{"health.port=10300"}, normal(func(s *settings) { s.Health = "127.0.0.1:10300" })},
		{"flags", []string{"extraArgs={--proxy=off}"}, normal(func(s *settings) { s.Proxy = "off" })},
		{"cleanup", []string{"cleanup.enabled=true"}, normal(func(s *settings) { s.CNIBinDir, s.Cleanup = "/opt/cni/bin", true })},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := render(t, c.values...)
			daemon, name := "twill", "twilld"
			if c.want.Cleanup {
				daemon, name = "twill-cleanup", "cleanup"
			}
			cfg := load(t, o, daemon, name)
			have := settings{cfg.Backend, cfg.Datastore, cfg.NodeName, cfg.Iface, cfg.CNIBinDir, cfg.SysctlDir, cfg.HealthAddress, cfg.MetricsAddress,
				cfg.Proxy, cfg.Policy, cfg.Page, cfg.KubeAPIAddresses, cfg.IPMasq, cfg.Cleanup}
			if diff := cmp.Diff(c.want, have); diff != "" {
				t.Errorf("settings (-want +have):\n%s", diff)
			}
			if _, ok := mounted(o, cfg.NetConf); !ok {
				t.Errorf("there is no file %s", cfg.NetConf)
			}
		})
	}
	t.Run("install", func(t *testing.T) {
		if cfg := load(t, render(t), "twill", "install"); !cfg.Install || cfg.CNIBinDir != "/opt/cni/bin" {
			t.Errorf("the init container installs nothing: %v into %q", cfg.Install, cfg.CNIBinDir)
		}
	})
}

// What twilld writes to has to be mounted under the same name, since the plugin, on the host, uses the same paths.
func TestPathsAreMounted(t *testing.T) {
	for name, values := range map[string][]string{
		"default": nil,
		"moved":   {"host.runDir=/var/run/other", "host.subnetFile=/run/x/y/subnet.env", "host.cniConfDir=/etc/other", "host.hostLocalDir=/data/ipam"},
	} {
		t.Run(name, func(t *testing.T) {
			o := render(t, values...)
			cfg := load(t, o, "twill", "twilld")
			mounts := map[string]bool{}
			for _, m := range container(t, o.daemon(t, "twill"), "twilld").VolumeMounts {
				mounts[m.MountPath] = true
			}
			for _, dir := range []string{cfg.RunDir, cfg.CNIConfDir, path.Dir(cfg.SubnetFile), cfg.HostLocalDir, cfg.SysctlDir + "/net"} {
				if !mounts[dir] {
					t.Errorf("%s is not mounted", dir)
				}
			}
		})
	}
}

func TestNetworkConfiguration(t *testing.T) {
	for _, c := range []struct {
		name    string
		values  []string
		ipv4    string
		ipv6    string
		backend string
		vxlan   overlay.Config
	}{
		{"default", nil, "10.244.0.0/16", "", "vxlan", overlay.Config{VNI: 1}},
		{"dual stack", []string{"network.ipv6=fd00:5::/48"}, "10.244.0.0/16", "fd00:5::/48", "vxlan", overlay.Config{VNI: 1}},
		{"IPv6", []string{"network.ipv4=", "network.ipv6=fd00:5::/48"}, "", "fd00:5::/48", "vxlan", overlay.Config{VNI: 1}},
		{"device", []string{"vxlan.vni=4096", "vxlan.port=4789", "vxlan.mtu=9000", "vxlan.directRouting=true"}, "10.244.0.0/16", "", "vxlan",
			overlay.Config{VNI: 4096, Port: 4789, MTU: 9000, DirectRouting: true}},
		{"a large VNI", []string{"vxlan.vni=1234567"}, "10.244.0.0/16", "", "vxlan", overlay.Config{VNI: 1234567}},
		{"bgp", []string{"backend=bgp", "network.ipv4=10.0.0.0/8"}, "10.0.0.0/8", "", "bgp", overlay.Config{VNI: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			network, err := store.ParseNetwork([]byte(render(t, c.values...).configs["twill"].Data["net-conf.json"]))
			if err != nil {
				t.Fatal(err)
			}
			name := func(enabled bool, p store.Pool) string {
				if !enabled {
					return ""
				}
				return p.Network.String()
			}
			if v4, v6 := name(network.EnableIPv4, network.IPv4), name(network.EnableIPv6, network.IPv6); v4 != c.ipv4 || v6 != c.ipv6 {
				t.Errorf("have %q and %q, want %q and %q", v4, v6, c.ipv4, c.ipv6)
			}
			if network.BackendType != c.backend || len(network.Unknown) > 0 {
				t.Errorf("have backend %q and unknown keys %v, want %q", network.BackendType, network.Unknown, c.backend)
			}
			vxlan, err := overlay.ParseConfig(network.BackendConfig)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.vxlan, vxlan); diff != "" {
				t.Errorf("device (-want +have):\n%s", diff)
			}
		})
	}
}

func TestFilesOfTheUser(t *testing.T) {
	o := render(t, "backend=bgp", "bgp.config.as=65001", "bgp.config.peers[0].name=tor", "bgp.config.peers[0].address=192.0.2.126", "bgp.config.peers[0].as=65002",
		"bgp.passwordSecret=keys", "proxy.config.nftables.masqueradeAll=true", "proxy.config.conntrack.maxPerCore=70000")
	cfg := load(t, o, "twill", "twilld")
	text, _ := mounted(o, cfg.BGPConfig)
	if bgp, err := bgpconfig.Parse([]byte(text)); err != nil {
		t.Error(err)
	} else if len(bgp.Peers) != 1 {
		t.Errorf("bgp.yaml names %d peers", len(bgp.Peers))
	}
	text, _ = mounted(o, cfg.ProxyConfig)
	if proxy, _, err := proxyconfig.Parse([]byte(text)); err != nil {
		t.Error(err)
	} else if !proxy.MasqueradeAll {
		t.Error("proxy.yaml lost a key")
	}
	pod := o.daemon(t, "twill")
	for _, v := range pod.Volumes {
		// bgp/config refuses a password that others could read.
		if v.Secret != nil && (v.Secret.SecretName != "keys" || *v.Secret.DefaultMode != 0o400) {
			t.Errorf("Secret %s with mode %o", v.Secret.SecretName, *v.Secret.DefaultMode)
		}
	}
	if c := container(t, pod, "twilld"); !strings.Contains(fmt.Sprint(c.VolumeMounts), "/etc/twill-secrets") {
		t.Error("the passwords are not mounted")
	}

	plain := load(t, render(t, "backend=bgp"), "twill", "twilld")
	if plain.BGPConfig != "" || plain.ProxyConfig != "" {
		t.Errorf("files that are not there: %q, %q", plain.BGPConfig, plain.ProxyConfig)
	}
}

// Settings that are read at the start alone make new pods when they change; what is read again does not.
func TestChangesThatRestart(t *testing.T) {
	annotation := func(values ...string) string {
		a := render(t, values...).daemons["twill"].Spec.Template.Annotations["twill-cni.github.io/settings"]
		if a == "" {
			t.Fatal("there is no annotation")
		}
		return a
	}
	bgp := annotation("backend=bgp", "bgp.config.as=65001")
	for _, c := range []struct {
		change   string
		restarts bool
	}{
		{"bgp.config.mesh=off", false},
		{"network.ipv6=fd00:5::/48", true},
		{"log.level=debug", true},
		{"proxy.config.clusterCIDR=10.0.0.0/8", true},
	} {
		if restarts := annotation("backend=bgp", "bgp.config.as=65001", c.change) != bgp; restarts != c.restarts {
			t.Errorf("%s: restarts: %v, want %v", c.change, restarts, c.restarts)
		}
	}
}

func TestAPIServerFromAConfigMap(t *testing.T) {
	for _, e := range container(t, render(t).daemon(t, "twill"), "twilld").Env {
		if e.Name != "TWILLD_KUBE_API_ADDRESS" {
			continue
		}
		from := e.ValueFrom.ConfigMapKeyRef
		if from.Name != "twill-api-server" || from.Key != "address" || from.Optional == nil || !*from.Optional {
			t.Errorf("have %v", from)
		}
		// The name has to be that of twilld's setting.
		_, err := config.Load(config.Inputs{Environ: []string{e.Name + "=nonsense"}, ReadFile: func(string) ([]byte, error) { return nil, errors.ErrUnsupported }})
		if err == nil || !strings.Contains(err.Error(), e.Name) {
			t.Errorf("twilld does not read %s: %v", e.Name, err)
		}
		return
	}
	t.Error("there is no such variable")
}
