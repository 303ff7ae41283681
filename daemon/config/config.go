package config

import (
	"log/slog"
	"net/netip"
	"regexp"
	"time"
)

// Config is what twilld was told, checked. It is not changed after Load.
type Config struct {
	Backend   string
	Datastore string

	EtcdEndpoints []string
	EtcdPrefix    string
	EtcdCAFile    string
	EtcdCertFile  string
	EtcdKeyFile   string
	EtcdUsername  string
	EtcdPassword  Secret

	EtcdPasswordFile string

	NodeName   string
	Iface      string         // empty: chosen by IfaceRegex, or else by the default route
	IfaceRegex *regexp.Regexp // nil when not given
	PublicIP   netip.Addr     // the zero Addr stands for the uplink's own address
	PublicIPv6 netip.Addr

	IPMasq               bool
	VXLANChecksumOffload *bool // nil leaves the devices as they are

	SubnetFile string
	RunDir     string
	CNIConfDir string
	CNIBinDir  string // empty: plugins are not installed

	SysctlDir    string // where the kernel's settings are read and written
	HostLocalDir string // empty: none
	BGPConfig    string // file; empty: none

	Kubeconfig       string   // file; empty: none, or with the datastore kube that of the pod
	KubeAPIAddresses []string // HOST:PORT; empty: that of the kubeconfig alone
	NetConf          string   // file

	Proxy       string // "off" or "nftables"
	ProxyConfig string // file; empty: none

	Policy         string // "on" or "off"
	PolicyCutMark  uint32 // one bit
	PolicyLogGroup uint16

	DNS           string           // "on" or "off"
	ClusterDomain string           // as it was given, such as cluster.local
	DNSUpstreams  []netip.AddrPort // empty: those of the host's resolv.conf

	PodReleaseDelay time.Duration // for how long a pod must be gone before what is left of it is released

	HealthAddress  string // empty: off
	MetricsAddress string // empty: off
	Page           string // ADDRESS:PORT; empty: off

	LogLevel  slog.Level
	LogFormat string // "text" or "json"

	Cleanup bool // remove all that Twill made on this host, then exit
	Install bool // install the plugins, then exit
	Version bool // print the version, then exit

	// Settings are all of the above as they were given, for people; secrets are hidden.
	Settings []Setting
}

// Setting is one that was made, and where.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"` // "flag --iface", "env TWILLD_IFACE", "file /etc/twill/twilld.yaml key iface", "default of iface"
}

// Secret is a string that does not show up in logs and dumps.
type Secret string

// String hides the secret from fmt.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(hidden)"
}

// GoString hides the secret from fmt's %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }
