package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/proxy/service"
)

const head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

func TestParse(t *testing.T) {
	with := func(change func(*Config)) *Config {
		c := Default()
		change(c)
		return c
	}
	prefix := netip.MustParsePrefix
	tests := []struct {
		name string
		text string
		want *Config
		keys []string // unsupported
	}{
		{"nothing", "", Default(), nil},
		{"addresses", "healthzBindAddress: 127.0.0.1:1\nmetricsBindAddress: \"::\"\nbindAddressHardFail: true", with(func(c *Config) {
			c.HealthzAddress, c.MetricsAddress, c.BindHardFail = "127.0.0.1:1", "[::]:10249", true
		}), nil},
		{"nftables", "mode: nftables\nnftables: {masqueradeBit: 31, masqueradeAll: true, syncPeriod: 1m, minSyncPeriod: 10ms}", with(func(c *Config) {
			c.MasqueradeBit, c.MasqueradeAll, c.SyncPeriod, c.MinSyncPeriod = 31, true, time.Minute, 10*time.Millisecond
		}), nil},
		{"networks", "clusterCIDR: 10.5.0.0/16,fd00:5::/48\nnodePortAddresses: [192.0.2.7/24]\ndetectLocalMode: ClusterCIDR", with(func(c *Config) {
			c.ClusterNetworks = []netip.Prefix{prefix("10.5.0.0/16"), prefix("fd00:5::/48")}
			c.NodePortPrimary, c.NodePortNetworks = false, []netip.Prefix{prefix("192.0.2.0/24")}
		}), nil},
		{"node ports at the primary address", "nodePortAddresses: [primary]", Default(), nil},
		{"node ports at the primary address and others", "nodePortAddresses: [192.0.2.0/24, primary]", with(func(c *Config) {
			c.NodePortNetworks = []netip.Prefix{prefix("192.0.2.0/24")}
		}), nil},
		{"node ports everywhere", "nodePortAddresses: [all, localhost]", with(func(c *Config) {
			c.NodePortPrimary, c.NodePortNetworks = false, []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")}
		}), []string{"nodePortAddresses: localhost"}},
		{"scheduler of IPVS", "mode: ipvs\nipvs: {scheduler: lc, strictARP: true}", with(func(c *Config) { c.Scheduler = service.LeastConnections }),
			[]string{"ipvs.strictARP", "mode: ipvs"}},
		{"conntrack", "conntrack: {maxPerCore: 32768, min: 131072, tcpEstablishedTimeout: 24h0m0s, tcpCloseWaitTimeout: 1h0m0s, tcpBeLiberal: true, udpTimeout: 30s, udpStreamTimeout: 2m}",
			with(func(c *Config) {
				c.Conntrack = Conntrack{BeLiberal: true, MaxPerCore: 32768, Min: 131072, TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour,
					UDP: 30 * time.Second, UDPStream: 2 * time.Minute}
			}), nil},
		{"all that kubeadm writes", `bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection: {acceptContentTypes: "", burst: 0, contentType: "", kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: ""
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: null, udpStreamTimeout: 0s, udpTimeout: 0s}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
metricsBindAddress: ""
mode: ""
nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: "", rootHnsEndpointName: "", sourceVip: ""}
`, Default(), []string{"clientConnection"}},
		{"others", "hostnameOverride: x\niptables: {masqueradeAll: true}\ndetectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}", Default(),
			[]string{"detectLocal", "detectLocalMode: BridgeInterface", "hostnameOverride", "iptables"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, unsupported, err := Parse([]byte(head + tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
			var keys []string
			for _, u := range unsupported {
				if u.Reason == "" {
					t.Errorf("%s is unsupported for no reason", u.Key)
				}
				keys = append(keys, u.Key)
			}
			if diff := cmp.Diff(tt.keys, keys); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"another kind", "apiVersion: v1\nkind: ConfigMap", `apiVersion: have "v1", want kubeproxy.config.k8s.io/v1alpha1`},
		{"nothing", "", `kind: have "", want KubeProxyConfiguration`},
		{"unknown key", head + "clusterCidrs: x", `unknown field "clusterCidrs"`},
		{"unknown inner key", head + "nftables: {bit: 3}", `unknown field "bit"`},
		{"key given twice", head + "mode: a\nmode: b", `"mode" already set`},
		{"bit", head + "nftables: {masqueradeBit: 32}", `nftables.masqueradeBit: have "32", want a bit from 0 to 31`},
		{"duration", head + "nftables: {syncPeriod: soon}", `nftables.syncPeriod: have "soon", want a duration such as 30s`},
		{"negative duration", head + "nftables: {syncPeriod: -1s}", `nftables.syncPeriod: have "-1s", want a duration`},
		{"number as duration", head + "conntrack: {udpTimeout: 30}", `conntrack.udpTimeout: have "30", want a duration`},
		{"address", head + "healthzBindAddress: localhost:1", `healthzBindAddress: have "localhost:1", want an address and a port`},
		{"network", head + "clusterCIDR: 10.0.0.0", `clusterCIDR: have "10.0.0.0", want a network such as`},
		{"scheduler", head + "ipvs: {scheduler: best}", `ipvs.scheduler: have "best", want [random rr`},
		{"not YAML", "{", "did not find"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Parse([]byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("have %v, want %s", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(head + "nftables: {syncPeriod: 1s}")
	f.Add("{")
	f.Fuzz(func(t *testing.T, text string) {
		c, _, err := Parse([]byte(text))
		if err == nil && (c.MasqueradeBit > 31 || c.SyncPeriod <= 0 || c.MinSyncPeriod < 0) {
			t.Errorf("accepted %+v", c)
		}
	})
}
