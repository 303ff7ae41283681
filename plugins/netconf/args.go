package netconf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// Args is the content of CNI_ARGS.
type Args struct {
	IPs []netip.Addr // IP=, several divided by commas; a prefix length is ignored, the range decides
	MAC kernel.MAC   // MAC=; zero when not given
	Pod string       // "namespace/name" of K8S_POD_NAMESPACE and K8S_POD_NAME, for people; empty when not given

	PodUID string // K8S_POD_UID; empty when not given
}

// ParseArgs reads CNI_ARGS: key=value pairs divided by semicolons. Keys other than those of Args are errors unless
// IgnoreUnknown is true, wherever it stands; those that Kubernetes runtimes add are known.
func ParseArgs(s string) (Args, error) {
	var out Args
	var unknown, namespace, name string
	ignoreUnknown := false
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return Args{}, fmt.Errorf("CNI_ARGS: %q is not of the form key=value", pair)
		}
		var err error
		switch key {
		case "IgnoreUnknown":
			ignoreUnknown, err = strconv.ParseBool(value)
		case "IP":
			out.IPs, err = parseIPs(value)
		case "MAC":
			out.MAC, err = parseMAC(value)
		case "K8S_POD_NAMESPACE":
			namespace = value
		case "K8S_POD_NAME":
			name = value
		case "K8S_POD_UID":
			out.PodUID = value
		case "K8S_POD_INFRA_CONTAINER_ID":
		default:
			unknown = key
		}
		if err != nil {
			return Args{}, fmt.Errorf("CNI_ARGS: %s: %w", key, err)
		}
	}
	if unknown != "" && !ignoreUnknown {
		return Args{}, fmt.Errorf("CNI_ARGS: unknown key %q, and IgnoreUnknown is not true", unknown)
	}
	if name != "" {
		out.Pod = namespace + "/" + name
	}
	return out, nil
}

func parseIPs(s string) ([]netip.Addr, error) {
	var ips []netip.Addr
	for text := range strings.SplitSeq(s, ",") {
		if p, err := netip.ParsePrefix(text); err == nil {
			ips = append(ips, p.Addr().Unmap())
			continue
		}
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" {
			return nil, fmt.Errorf("%q is not an IP address", text)
		}
		ips = append(ips, ip.Unmap())
	}
	return ips, nil
}
