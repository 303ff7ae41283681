//go:build linux

package path

import (
	"os"
	"strconv"
	"strings"
)

// number reads a sysctl, below /proc/sys, of the calling thread's namespace; what is not there is 0.
func number(key string) int {
	text, err := os.ReadFile("/proc/sys/" + key)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// forwarding says whether packets are forwarded from the bridge and from where they come in, and which sysctl forbids it.
func (l *looker) forwarding(v *View) (bool, string) {
	links := []Link{v.Bridge, v.Uplink}
	if v.Overlay != nil {
		links[1] = v.Overlay.Link
	}
	if l.v6 {
		if number("net/ipv6/conf/all/forwarding") == 0 {
			return false, "net.ipv6.conf.all.forwarding"
		}
		for _, link := range links {
			if link.Found && number("net/ipv6/conf/"+link.Name+"/disable_ipv6") != 0 {
				return false, "net.ipv6.conf." + dotted(link.Name) + ".disable_ipv6"
			}
		}
		return true, ""
	}
	if number("net/ipv4/ip_forward") == 0 {
		return false, "net.ipv4.ip_forward"
	}
	for _, link := range links {
		if link.Found && number("net/ipv4/conf/"+link.Name+"/forwarding") == 0 {
			return false, "net.ipv4.conf." + dotted(link.Name) + ".forwarding"
		}
	}
	return true, ""
}

// dotted writes a link's name as sysctl(8) wants it.
func dotted(name string) string { return strings.ReplaceAll(name, ".", "/") }

// The names of the VXLAN devices: flannel.<VNI> and flannel-v6.<VNI>.
func flannelDevice(name string) bool {
	return strings.HasPrefix(name, "flannel.") || strings.HasPrefix(name, "flannel-v6.")
}

func v6Device(name string) bool { return strings.HasPrefix(name, "flannel-v6.") }
