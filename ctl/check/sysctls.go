package check

import (
	"fmt"
	"strconv"
	"strings"
)

var sysctlRules = []rule{
	{"forwarding", "whether the kernel forwards packets", nil, forwarding},
	{"rp_filter", "whether packets are dropped that come in by another link than replies leave by", []Part{Links}, reversePath},
	{"connection tracking", "how many connections are tracked, and may be", nil, tracked},
	{"neighbour tables", "whether they hold a cluster", nil, neighbours},
	{"inotify", "whether programs can watch files", nil, watches},
}

// dotted is the name of an entry for sysctl(8).
func dotted(entry string) string {
	// sysctl(8) takes slashes, too, and then leaves the dots in a link's name alone.
	if strings.Contains(entry, ".") {
		return entry
	}
	return strings.ReplaceAll(entry, "/", ".")
}

func setting(entry, value string) string {
	return fmt.Sprintf("sysctl -w %[1]s=%[2]s && echo '%[1]s = %[2]s' >>/etc/sysctl.d/90-twill.conf", dotted(entry), value)
}

// number returns an entry's value; false when there is none.
func (f *Facts) number(entry string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimSpace(f.Sysctls[entry]))
	return n, err == nil
}

func forwarding(f *Facts) []Finding {
	var all []Finding
	for _, family := range []struct {
		wanted      bool
		name, entry string
	}{{f.IPv4, "IPv4", "net/ipv4/ip_forward"}, {f.IPv6, "IPv6", "net/ipv6/conf/all/forwarding"}} {
		value, there := f.number(family.entry)
		switch {
		case !family.wanted || value != 0:
		case !there:
			all = append(all, fail("the kernel has no "+dotted(family.entry), "there is no "+family.name+" on this host", "start the host with a kernel that has "+family.name+", and without ipv6.disable=1"))
		case f.Serves:
			all = append(all, fail(dotted(family.entry)+" is 0", "pods reach no other node by "+family.name, setting(family.entry, "1")))
		default:
			all = append(all, warn(dotted(family.entry)+" is 0", "pods reach no other node by "+family.name+"; twilld switches it on when it starts", setting(family.entry, "1")))
		}
	}
	return all
}

// reversePath finds strict links. The kernel takes the larger of all's value and the link's (IN_DEV_MAXCONF): 1 is strict, 2 is loose.
func reversePath(f *Facts) []Finding {
	var all []Finding
	for _, l := range f.Links {
		if !l.Overlay() && l.Name != f.Uplink || !f.IPv4 {
			continue
		}
		entry := "net/ipv4/conf/" + l.Name + "/rp_filter"
		own, _ := f.number(entry)
		if common, _ := f.number("net/ipv4/conf/all/rp_filter"); max(own, common) == 1 {
			all = append(all, warn("rp_filter is strict on "+l.Name, "packets are dropped that come in by another link than replies leave by: with DirectRouting or overlay: cross-subnet, several uplinks, or routes that are not the same both ways", setting(entry, "2")))
		}
	}
	return all
}

const leastTracked = 65536

func tracked(f *Facts) []Finding {
	const entry = "net/netfilter/nf_conntrack_max"
	most, there := f.number(entry)
	used, _ := f.number("net/netfilter/nf_conntrack_count")
	switch {
	case !there || most == 0:
		return nil // the module is not loaded yet, or there is no limit
	case used >= most/5*4:
		return []Finding{fail(fmt.Sprintf("%d of %d connections are tracked", used, most), "beyond that, packets of new connections are dropped", setting(entry, strconv.Itoa(2*most)))}
	case most < leastTracked:
		return []Finding{warn(fmt.Sprintf("%s is %d", dotted(entry), most), "nodes with many connections drop packets of new ones", setting(entry, strconv.Itoa(4*leastTracked)))}
	}
	return nil
}

// neighbours compares the tables' limits, of which the kernel's default is 1024, with the cluster's nodes, which are neighbours on the uplink. Permanent neighbours,
// as those of the overlay, do not count since Linux 5.0.
func neighbours(f *Facts) []Finding {
	var all []Finding
	for _, family := range []struct {
		wanted bool
		entry  string
	}{{f.IPv4, "net/ipv4/neigh/default/gc_thresh3"}, {f.IPv6, "net/ipv6/neigh/default/gc_thresh3"}} {
		want := max(1024, 2*f.Nodes)
		if most, there := f.number(family.entry); family.wanted && there && most < want {
			all = append(all, warn(fmt.Sprintf("%s is %d", dotted(family.entry), most), fmt.Sprintf("the kernel forgets neighbours when there are more (nodes: %d, and pods)", f.Nodes), setting(family.entry, strconv.Itoa(2*want))))
		}
	}
	return all
}

func watches(f *Facts) []Finding {
	var all []Finding
	for _, limit := range []struct {
		entry string
		least int
	}{{"fs/inotify/max_user_instances", 128}, {"fs/inotify/max_user_watches", 8192}} {
		entry, least := limit.entry, limit.least
		if most, there := f.number(entry); there && most < least {
			all = append(all, warn(fmt.Sprintf("%s is %d", dotted(entry), most), "twilld, the kubelet and container runtimes cannot watch files", setting(entry, strconv.Itoa(4*least))))
		}
	}
	return all
}
