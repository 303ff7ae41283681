package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twill-cni/twill/dns/zone"
)

// key is one thing that can be configured.
type key struct {
	name     string // of the flag and of the YAML key
	fallback string // the default, as one would write it
	derived  string // what the default is when it is found out at run time
	usage    string
	flagOnly bool // an instruction for one run, not a setting
	isSwitch bool // the flag alone means true
	secret   bool // its value is not shown

	// parse stores the value in c. The error says what is wrong with it and what would be right.
	parse func(c *Config, value string) error
}

// env returns the name of the key's environment variable.
func (k key) env() string { return "TWILLD_" + strings.ToUpper(strings.ReplaceAll(k.name, "-", "_")) }

// keys is the table of everything that can be configured, in the order in which it is documented.
func keys() []key {
	return []key{
		{name: "backend", fallback: "vxlan", usage: "how nodes reach each other's pods; must agree with the stored network configuration: vxlan or bgp",
			parse: choice(func(c *Config) *string { return &c.Backend }, []string{"vxlan", "bgp"})},
		{name: "datastore", fallback: "etcd", usage: "where leases are kept: etcd, or kube for the Kubernetes API",
			parse: choice(func(c *Config) *string { return &c.Datastore }, []string{"etcd", "kube"})},
		{name: "etcd-endpoints", fallback: "http://127.0.0.1:2379", usage: "etcd's client URLs, divided by commas", parse: parseEndpoints},
		{name: "etcd-prefix", fallback: "/coreos.com/network", usage: "etcd key below which everything is kept; flannel's by default", parse: parsePrefix},
		{name: "etcd-cafile", usage: "file with the certificates that etcd's own is checked against",
			parse: path(func(c *Config) *string { return &c.EtcdCAFile }, optional)},
		{name: "etcd-certfile", usage: "file with the client certificate for etcd",
			parse: path(func(c *Config) *string { return &c.EtcdCertFile }, optional)},
		{name: "etcd-keyfile", usage: "file with the key of the client certificate",
			parse: path(func(c *Config) *string { return &c.EtcdKeyFile }, optional)},
		{name: "etcd-username", usage: "user name for etcd",
			parse: text(func(c *Config) *string { return &c.EtcdUsername })},
		{name: "etcd-password", secret: true, usage: "password for etcd; better given in a file, since every user of the host can read flags",
			parse: func(c *Config, v string) error { c.EtcdPassword = Secret(v); return nil }},
		{name: "etcd-password-file", usage: "file with the password for etcd",
			parse: path(func(c *Config) *string { return &c.EtcdPasswordFile }, optional)},
		{name: "kubeconfig", usage: "file that says how to reach the Kubernetes API; with the datastore etcd, the service proxy then takes Services from there and not " +
			"from etcd; with the datastore kube, empty in a pod, which has a service account",
			parse: path(func(c *Config) *string { return &c.Kubeconfig }, optional)},
		{name: "kube-api-address", usage: "where the API server answers even if nobody serves its Service, HOST:PORT, several divided by commas; tried before the address " +
			"of the kubeconfig or of the pod's environment, whose name its certificate still has to bear",
			parse: parseAPIAddresses},
		{name: "net-conf", fallback: "/etc/kube-flannel/net-conf.json", usage: "file with the network configuration, flannel's; for the datastore kube",
			parse: path(func(c *Config) *string { return &c.NetConf }, required)},
		{name: "node-name", derived: "the host name", usage: "name of this node, unique in the cluster", parse: parseNodeName},
		{name: "iface", derived: "that of the default route", usage: "uplink: name of the link by which nodes reach each other, or an address on it",
			parse: text(func(c *Config) *string { return &c.Iface })},
		{name: "iface-regex", usage: "uplink: the first link whose name or address matches", parse: parseRegex},
		{name: "public-ip", derived: "the uplink's", usage: "IPv4 address under which other nodes reach this one", parse: parseAddr(false)},
		{name: "public-ipv6", derived: "the uplink's", usage: "IPv6 address under which other nodes reach this one", parse: parseAddr(true)},
		{name: "ip-masq", fallback: "true", isSwitch: true, usage: "give traffic from pods to outside the cluster the node's address",
			parse: boolean(func(c *Config) *bool { return &c.IPMasq })},
		{name: "vxlan-checksum-offload", fallback: "keep", usage: "checksum offload of the VXLAN devices: on, off (for NICs that corrupt inner checksums) or keep as it is",
			parse: parseOffload},
		{name: "subnet-file", fallback: "/run/flannel/subnet.env", usage: "file that tells other programs the node's subnet and MTU, as flannel's does",
			parse: path(func(c *Config) *string { return &c.SubnetFile }, required)},
		{name: "run-dir", fallback: "/run/twill", usage: "directory for what lives until the next boot: attachments and address allocations",
			parse: path(func(c *Config) *string { return &c.RunDir }, required)},
		{name: "cni-conf-dir", fallback: "/etc/cni/net.d", usage: "directory for 10-twill.conflist",
			parse: path(func(c *Config) *string { return &c.CNIConfDir }, required)},
		{name: "cni-bin-dir", fallback: "/opt/cni/bin", usage: "directory into which the plugins beside twilld are installed; empty to install none",
			parse: path(func(c *Config) *string { return &c.CNIBinDir }, optional)},
		{name: "sysctl-dir", fallback: "/proc/sys", usage: "directory where the kernel's settings are written, net/ipv4/ip_forward and others; in a container, whose " +
			"/proc/sys is read-only, the one in which the host's /proc/sys/net is mounted as net",
			parse: path(func(c *Config) *string { return &c.SysctlDir }, required)},
		{name: "host-local-dir", fallback: "/var/lib/cni/networks", usage: "records of the reference IPAM plugin: addresses that it gave out before this node " +
			"changed over to Twill are not given out again; empty for none",
			parse: path(func(c *Config) *string { return &c.HostLocalDir }, optional)},
		{name: "pod-release-delay", fallback: "30s", usage: "for how long a pod's network namespace and link must be gone before its addresses are released, " +
			"when the runtime has not said that the pod is deleted",
			parse: parseReleaseDelay},
		{name: "health-address", fallback: "127.0.0.1:10270", usage: "address of /healthz and /readyz; empty for none",
			parse: address(func(c *Config) *string { return &c.HealthAddress })},
		{name: "metrics-address", fallback: "127.0.0.1:10270", usage: "address of /metrics, which may be that of /healthz; empty for none",
			parse: address(func(c *Config) *string { return &c.MetricsAddress })},
		{name: "page", usage: "address of a web page that shows how this node and its cluster are, ADDRESS:PORT, or PORT for 127.0.0.1; it asks for no password; empty for " +
			"none, and then this node does not measure how it reaches others either",
			parse: parsePage},
		{name: "proxy", fallback: "off", usage: "service proxy in place of kube-proxy: off or nftables",
			parse: choice(func(c *Config) *string { return &c.Proxy }, []string{"off", "nftables"})},
		{name: "proxy-config", usage: "file with the settings of the service proxy, a KubeProxyConfiguration; without it, kube-proxy's defaults",
			parse: path(func(c *Config) *string { return &c.ProxyConfig }, optional)},
		{name: "policy", fallback: "off", usage: "enforcement of NetworkPolicy and ClusterNetworkPolicy: on or off",
			parse: choice(func(c *Config) *string { return &c.Policy }, []string{"on", "off"})},
		{name: "policy-cut-mark", fallback: "0x80000000", usage: "the bit of the mark of tracked connections (ct mark) that stands for those which policies no longer allow; " +
			"no other program may use it",
			parse: parseCutMark},
		{name: "policy-log-group", fallback: "84", usage: "NFLOG group on which the daemon hears of packets that policies refuse; no other program may listen on it",
			parse: parseLogGroup},
		{name: "dns", fallback: "off", usage: "answer pods for the names of Services kept in etcd, at their gateway's address, and tell them so: on or off; in " +
			"Kubernetes CoreDNS does that",
			parse: choice(func(c *Config) *string { return &c.DNS }, []string{"on", "off"})},
		{name: "cluster-domain", fallback: "cluster.local", usage: "domain that the names of Services end with; all nodes of a cluster have the same",
			parse: parseDomain},
		{name: "dns-upstream", derived: "those of /etc/resolv.conf", usage: "servers that are asked for all other names, ADDRESS or ADDRESS:PORT, several divided by commas",
			parse: parseUpstreams},
		{name: "bgp-config", usage: "file with the settings of the backend bgp, read again when it changes; without it, all nodes peer with each other",
			parse: path(func(c *Config) *string { return &c.BGPConfig }, optional)},
		{name: "log-level", fallback: "info", usage: "least level that is logged: debug, info, warn, error", parse: parseLevel},
		{name: "log-format", fallback: "text", usage: "text or json",
			parse: choice(func(c *Config) *string { return &c.LogFormat }, []string{"text", "json"})},
		{name: "cleanup", fallback: "false", flagOnly: true, isSwitch: true, usage: "remove all that Twill made on this host, then exit",
			parse: boolean(func(c *Config) *bool { return &c.Cleanup })},
		{name: "install", fallback: "false", flagOnly: true, isSwitch: true, usage: "install the plugins beside twilld into cni-bin-dir, then exit",
			parse: boolean(func(c *Config) *bool { return &c.Install })},
		{name: "version", fallback: "false", flagOnly: true, isSwitch: true, usage: "print the version, then exit",
			parse: boolean(func(c *Config) *bool { return &c.Version })},
	}
}

const (
	optional = false
	required = true
)

// shownDefault is what the usage text and the documentation say of the default.
func (k key) shownDefault() string {
	if k.derived != "" {
		return k.derived
	}
	return k.fallback
}

// choice accepts the values in known.
func choice(field func(*Config) *string, known []string) func(*Config, string) error {
	return func(c *Config, v string) error {
		if slices.Contains(known, v) {
			*field(c) = v
			return nil
		}
		return fmt.Errorf("%q is unknown: use %s", v, strings.Join(known, " or "))
	}
}

func text(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		*field(c) = v
		return nil
	}
}

func path(field func(*Config) *string, must bool) func(*Config, string) error {
	return func(c *Config, v string) error {
		if v == "" {
			if must {
				return errors.New("is empty: give an absolute path")
			}
			*field(c) = ""
			return nil
		}
		if !filepath.IsAbs(v) {
			return fmt.Errorf("%q is no absolute path", v)
		}
		*field(c) = filepath.Clean(v)
		return nil
	}
}

func boolean(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", v)
		}
		*field(c) = b
		return nil
	}
}

func address(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		if v != "" {
			host, port, err := net.SplitHostPort(v)
			if err != nil {
				return fmt.Errorf("%q is no HOST:PORT such as 127.0.0.1:10270", v)
			}
			if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				return fmt.Errorf("%q: %q is no port from 1 to 65535", v, port)
			}
			if _, err := netip.ParseAddr(host); err != nil && host != "" {
				return fmt.Errorf("%q: %q is no IP address", v, host)
			}
		}
		*field(c) = v
		return nil
	}
}

// PageAddress returns the address that the value of "page" stands for: that of the loopback link where none is given, since what is shown is nobody else's business.
func PageAddress(v string) string {
	if port := strings.TrimPrefix(v, ":"); v != "" && !strings.Contains(port, ":") {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return v
}

func parsePage(c *Config, v string) error {
	return address(func(c *Config) *string { return &c.Page })(c, PageAddress(v))
}

func parseEndpoints(c *Config, v string) error {
	var endpoints []string
	for _, e := range strings.Split(v, ",") {
		e = strings.TrimRight(strings.TrimSpace(e), "/")
		u, err := url.Parse(e)
		switch {
		case strings.Contains(e, "@") && !strings.HasPrefix(e, "unix"): // whatever it is, it is not quoted: logs keep errors
			return errors.New("holds a user name or password: use etcd-username and etcd-password-file")
		case err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.Path == "":
		case err == nil && (u.Scheme == "unix" || u.Scheme == "unixs") && u.Host+u.Path != "":
		default:
			return fmt.Errorf("%q is no URL such as https://10.0.0.1:2379", e)
		}
		endpoints = append(endpoints, e)
	}
	c.EtcdEndpoints = endpoints
	return nil
}

func parseAPIAddresses(c *Config, v string) error {
	c.KubeAPIAddresses = nil
	for a := range strings.SplitSeq(v, ",") {
		if a = strings.TrimSpace(a); a == "" {
			continue
		}
		host, port, err := net.SplitHostPort(a)
		n, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || host == "" || portErr != nil || n == 0 {
			return fmt.Errorf("%q is no HOST:PORT such as 10.0.0.1:6443", a)
		}
		c.KubeAPIAddresses = append(c.KubeAPIAddresses, a)
	}
	return nil
}

func parseDomain(c *Config, v string) error {
	c.ClusterDomain = strings.ToLower(strings.TrimSuffix(v, "."))
	return zone.CheckDomain(v)
}

func parseUpstreams(c *Config, v string) error {
	c.DNSUpstreams = nil
	for text := range strings.SplitSeq(v, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		at, err := netip.ParseAddrPort(text)
		if addr, plain := netip.ParseAddr(text); plain == nil {
			at, err = netip.AddrPortFrom(addr, 53), nil
		}
		if err != nil || at.Port() == 0 || at.Addr().IsUnspecified() || at.Addr().IsMulticast() {
			return fmt.Errorf("%q is no address of a DNS server such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353", text)
		}
		c.DNSUpstreams = append(c.DNSUpstreams, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
	}
	return nil
}

func parsePrefix(c *Config, v string) error {
	trimmed := strings.TrimRight(v, "/")
	if !strings.HasPrefix(v, "/") || trimmed == "" {
		return fmt.Errorf("%q is no key such as /coreos.com/network", v)
	}
	c.EtcdPrefix = trimmed
	return nil
}

func parseNodeName(c *Config, v string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`).MatchString(v) {
		return fmt.Errorf("%q is no node name: use letters, digits, dots and dashes", v)
	}
	c.NodeName = v
	return nil
}

func parseRegex(c *Config, v string) error {
	if v == "" {
		return nil
	}
	re, err := regexp.Compile(v)
	if err != nil {
		return fmt.Errorf("%q is no regular expression: %w", v, err)
	}
	c.IfaceRegex = re
	return nil
}

func parseAddr(ipv6 bool) func(*Config, string) error {
	return func(c *Config, v string) error {
		if v == "" {
			return nil
		}
		family, field := "IPv4", &c.PublicIP
		if ipv6 {
			family, field = "IPv6", &c.PublicIPv6
		}
		addr, err := netip.ParseAddr(v)
		if err != nil || addr.Is6() != ipv6 || addr.Zone() != "" || addr.Is4In6() || !addr.IsGlobalUnicast() {
			return fmt.Errorf("%q is no %s unicast address", v, family)
		}
		*field = addr
		return nil
	}
}

func parseReleaseDelay(c *Config, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < 100*time.Millisecond || d > 24*time.Hour {
		return fmt.Errorf("%q is no duration from 100ms to 24h, such as 30s", v)
	}
	c.PodReleaseDelay = d
	return nil
}

func parseCutMark(c *Config, v string) error {
	mark, err := strconv.ParseUint(v, 0, 32)
	if err != nil || bits.OnesCount64(mark) != 1 {
		return fmt.Errorf("%q is no number with a single bit set, such as 0x80000000", v)
	}
	c.PolicyCutMark = uint32(mark)
	return nil
}

func parseLogGroup(c *Config, v string) error {
	group, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is no number from 0 to 65535", v)
	}
	c.PolicyLogGroup = uint16(group)
	return nil
}

func parseOffload(c *Config, v string) error {
	switch v {
	case "keep":
		c.VXLANChecksumOffload = nil
	case "on", "off":
		on := v == "on"
		c.VXLANChecksumOffload = &on
	default:
		return fmt.Errorf("%q is unknown: use keep, on or off", v)
	}
	return nil
}

func parseLevel(c *Config, v string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[v]
	if !ok {
		return fmt.Errorf("%q is unknown: use debug, info, warn or error", v)
	}
	c.LogLevel = level
	return nil
}
