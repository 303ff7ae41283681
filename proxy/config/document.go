package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	apiVersion = "kubeproxy.config.k8s.io/v1alpha1"
	kind       = "KubeProxyConfiguration"
)

// document is every key of a KubeProxyConfiguration of Kubernetes 1.37, so that others are found out as unknown. What is of type any is not
// acted upon.
type document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`

	HealthzBindAddress  string            `json:"healthzBindAddress"`
	MetricsBindAddress  string            `json:"metricsBindAddress"`
	BindAddressHardFail bool              `json:"bindAddressHardFail"`
	ClusterCIDR         string            `json:"clusterCIDR"`
	NodePortAddresses   []string          `json:"nodePortAddresses"`
	NFTables            nftablesDocument  `json:"nftables"`
	IPVS                ipvsDocument      `json:"ipvs"`
	Conntrack           conntrackDocument `json:"conntrack"`
	Mode                string            `json:"mode"`
	DetectLocalMode     string            `json:"detectLocalMode"`

	BindAddress                 any `json:"bindAddress"`
	ClientConnection            any `json:"clientConnection"`
	ConfigSyncPeriod            any `json:"configSyncPeriod"`
	DetectLocal                 any `json:"detectLocal"`
	EnableProfiling             any `json:"enableProfiling"`
	FeatureGates                any `json:"featureGates"`
	HostnameOverride            any `json:"hostnameOverride"`
	IPTables                    any `json:"iptables"`
	Logging                     any `json:"logging"`
	OOMScoreAdj                 any `json:"oomScoreAdj"`
	PortRange                   any `json:"portRange"`
	ShowHiddenMetricsForVersion any `json:"showHiddenMetricsForVersion"`
	Winkernel                   any `json:"winkernel"`
	WindowsRunAsService         any `json:"windowsRunAsService"`
}

type nftablesDocument struct {
	MasqueradeBit *int32    `json:"masqueradeBit"`
	MasqueradeAll bool      `json:"masqueradeAll"`
	SyncPeriod    *duration `json:"syncPeriod"`
	MinSyncPeriod *duration `json:"minSyncPeriod"`
}

type ipvsDocument struct {
	Scheduler string `json:"scheduler"`

	SyncPeriod    any `json:"syncPeriod"`
	MinSyncPeriod any `json:"minSyncPeriod"`
	ExcludeCIDRs  any `json:"excludeCIDRs"`
	StrictARP     any `json:"strictARP"`
	TCPTimeout    any `json:"tcpTimeout"`
	TCPFinTimeout any `json:"tcpFinTimeout"`
	UDPTimeout    any `json:"udpTimeout"`
}

type conntrackDocument struct {
	MaxPerCore            *int64    `json:"maxPerCore"`
	Min                   *int64    `json:"min"`
	TCPEstablishedTimeout *duration `json:"tcpEstablishedTimeout"`
	TCPCloseWaitTimeout   *duration `json:"tcpCloseWaitTimeout"`
	TCPBeLiberal          bool      `json:"tcpBeLiberal"`
	UDPTimeout            *duration `json:"udpTimeout"`
	UDPStreamTimeout      *duration `json:"udpStreamTimeout"`
}

// duration is a time as metav1.Duration writes it. What is wrong with it is told with its key.
type duration struct {
	d    time.Duration
	text string
	err  error
}

// UnmarshalJSON takes a string such as "30s".
func (d *duration) UnmarshalJSON(b []byte) error {
	if d.err = json.Unmarshal(b, &d.text); d.err != nil {
		d.text = string(b)
		d.d = -1
		return nil
	}
	if d.d, d.err = time.ParseDuration(d.text); d.err != nil {
		d.d = -1
	}
	return nil
}

// reasons says of each key that is not acted upon why.
var reasons = map[string]string{
	"bindAddress":                 "the node's addresses are those of --iface, --public-ip and --public-ipv6",
	"clientConnection":            "the API server is that of --kubeconfig",
	"configSyncPeriod":            "what the API server says is not asked for again; the kernel is compared every nftables.syncPeriod",
	"detectLocal":                 "clients in the cluster are known by clusterCIDR",
	"enableProfiling":             "there is no profiling over the network",
	"featureGates":                "there are no feature gates",
	"hostnameOverride":            "the node's name is that of --node-name",
	"iptables":                    "there are no iptables rules; nftables holds the settings that count",
	"logging":                     "see --log-level and --log-format",
	"oomScoreAdj":                 "it is a matter of the container or the systemd unit",
	"portRange":                   "no port is opened for a Service",
	"showHiddenMetricsForVersion": "there are no hidden metrics",
	"winkernel":                   "this is Linux",
	"windowsRunAsService":         "this is Linux",
	"ipvs.syncPeriod":             "nftables.syncPeriod counts",
	"ipvs.minSyncPeriod":          "nftables.minSyncPeriod counts",
	"ipvs.excludeCIDRs":           "no IPVS service is touched",
	"ipvs.strictARP":              "service addresses are on no link, so no ARP request is answered for them",
	"ipvs.tcpTimeout":             "see conntrack.tcpEstablishedTimeout",
	"ipvs.tcpFinTimeout":          "it is the kernel's nf_conntrack_tcp_timeout_fin_wait",
	"ipvs.udpTimeout":             "see conntrack.udpTimeout",
}

// unsupportedKeys names the keys that are set and have no effect, in alphabetical order.
func unsupportedKeys(data []byte) ([]Unsupported, error) {
	var all map[string]any
	if err := yaml.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("KubeProxyConfiguration: %w", err)
	}
	var out []Unsupported
	add := func(key string, v any) {
		if reason, ok := reasons[key]; ok && !empty(v) {
			out = append(out, Unsupported{key, reason})
		}
	}
	for key, v := range all {
		add(key, v)
		inner, _ := v.(map[string]any)
		for name, v := range inner {
			add(key+"."+name, v)
		}
	}
	if mode, _ := all["mode"].(string); mode != "" && mode != "nftables" {
		out = append(out, Unsupported{"mode: " + mode, "the mode is nftables"})
	}
	if mode, _ := all["detectLocalMode"].(string); mode != "" && mode != "ClusterCIDR" {
		out = append(out, Unsupported{"detectLocalMode: " + mode, "clients in the cluster are known by clusterCIDR"})
	}
	if list, _ := all["nodePortAddresses"].([]any); slices.Contains(list, any(nodePortsLocalhost)) {
		out = append(out, Unsupported{"nodePortAddresses: " + nodePortsLocalhost, "node ports do not answer at loopback addresses"})
	}
	slices.SortFunc(out, func(a, b Unsupported) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return out, nil
}

// empty reports whether a value says nothing: kubeadm writes null, 0, "" and such for what is not set.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == "" || v == "0" || v == "0s" || v == "0.0.0.0" || v == "::"
	case []any:
		return len(v) == 0
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if !empty(v[key]) {
				return false
			}
		}
		return true
	}
	return false
}
