package ipam

import (
	"fmt"
	"net/netip"
	"strings"
)

// Args is what the CNI_ARGS variable says to address management.
type Args struct {
	IPs []netip.Addr // of the key IP; several are divided by commas
	Pod string       // K8S_POD_NAMESPACE/K8S_POD_NAME; empty when either is missing
}

// ParseArgs reads CNI_ARGS: KEY=VALUE pairs divided by semicolons. Keys other than those above belong to other plugins
// and are skipped.
func ParseArgs(s string) (Args, error) {
	var args Args
	var namespace, name string
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return Args{}, fmt.Errorf("CNI_ARGS: %q is not of the form KEY=VALUE", pair)
		}
		switch key {
		case "IP":
			for text := range strings.SplitSeq(value, ",") {
				ip, err := parseIP(strings.TrimSpace(text))
				if err != nil {
					return Args{}, fmt.Errorf("CNI_ARGS: IP: %w", err)
				}
				args.IPs = append(args.IPs, ip)
			}
		case "K8S_POD_NAMESPACE":
			namespace = value
		case "K8S_POD_NAME":
			name = value
		}
	}
	if namespace != "" && name != "" {
		args.Pod = namespace + "/" + name
	}
	return args, nil
}
