package check

import (
	"fmt"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

var foreignRules = []rule{
	{"foreign rules", "chains of others that drop what pods send", []Part{Chains}, dropping},
	{"refusing rules", "rules of others that drop or reject packets on their way through", []Part{Chains}, refusing},
	{"iptables-legacy", "tables that nftables does not show", []Part{Legacy}, legacy},
	{"rules of other networks", "chains of Calico, kube-router, Antrea, Cilium, Weave Net", []Part{Chains}, strangeChains},
	{"kube-proxy", "its rules, beside Twill's service proxy", []Part{Chains}, kubeProxy},
}

// dropping finds base chains whose policy is to drop. An accept in a table of Twill's does not help against it: each base chain has its own say.
func dropping(f *Facts) []Finding {
	var all []Finding
	for _, c := range f.Chains {
		if !c.Drops || strings.HasPrefix(c.Table, kernel.TablePrefix) || c.Hook != "forward" && c.Hook != "input" || !f.concerns(c.Family) {
			continue
		}
		what, mend := fmt.Sprintf("the chain %s of table %s %s drops what its %d rules do not accept", c.Name, c.Family, c.Table, c.Rules), c.mend()
		breaks := "pods do not reach other nodes, nor the outside, unless its rules accept their packets"
		if c.Hook == "input" {
			all = append(all, warn(what, "the node does not hear "+f.heard()+", unless its rules accept that", mend))
			continue
		}
		if c.Rules == 0 {
			all = append(all, fail(what, "pods do not reach other nodes, nor the outside", mend))
			continue
		}
		all = append(all, warn(what, breaks, mend))
	}
	return all
}

// refusing finds rules that drop or reject in chains that all packets through the host come by. What they refuse is not known: many a firewall has some. Chains whose policy
// is to drop are dropping's business, and what these chains jump to is not followed.
func refusing(f *Facts) []Finding {
	var all []Finding
	for _, c := range f.Chains {
		if c.Refusing == 0 || c.Drops || strings.HasPrefix(c.Table, kernel.TablePrefix) || c.Hook != "forward" && c.Hook != "prerouting" || !f.concerns(c.Family) {
			continue
		}
		all = append(all, warn(fmt.Sprintf("%d of the %d rules of chain %s of table %s %s drop or reject", c.Refusing, c.Rules, c.Name, c.Family, c.Table),
			"pods do not reach what these rules are for, whatever Twill's policies allow",
			fmt.Sprintf("nft list chain %s %s %s shows them: see that they are not for packets of pods", c.Family, c.Table, c.Name)))
	}
	return all
}

// concerns reports whether pods' packets come through tables of a family.
func (f *Facts) concerns(family string) bool {
	return family == "inet" || family == "ip" && f.IPv4 || family == "ip6" && f.IPv6
}

// heard are those whose packets are for the node itself.
func (f *Facts) heard() string {
	if f.Page.IsValid() {
		return fmt.Sprintf("other nodes (%s), its own pods, nor who reads its page (tcp %d)", f.ports(), f.Page.Port())
	}
	return fmt.Sprintf("other nodes (%s) nor its own pods", f.ports())
}

// ports are those by which nodes reach each other.
func (f *Facts) ports() string {
	var all []string
	if f.Overlay {
		all = append(all, fmt.Sprintf("udp %d", f.VXLANPort))
	}
	if f.BGP {
		all = append(all, fmt.Sprintf("tcp %d", f.BGPPort))
	}
	if f.Page.IsValid() {
		all = append(all, fmt.Sprintf("udp %d", f.GaugePort))
	}
	return strings.Join(all, ", ")
}

// mend is the command that has the chain's owner let pods pass.
func (c Chain) mend() string {
	forward := c.Hook == "forward"
	switch program := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[c.Family]; {
	case c.Table == "firewalld":
		return "firewall-cmd --permanent --zone=trusted --add-interface=cni0 --add-interface=flannel.1 && firewall-cmd --reload"
	case program != "" && c.Table == "filter" && forward && c.Name == "FORWARD":
		return program + " -P FORWARD ACCEPT"
	case program != "" && c.Table == "filter" && c.Name == "INPUT":
		return program + " -P INPUT ACCEPT, or accept these ports and what comes in by cni0"
	case forward:
		return fmt.Sprintf("nft add rule %[1]s %[2]s %[3]s iifname cni0 accept; nft add rule %[1]s %[2]s %[3]s oifname cni0 accept", c.Family, c.Table, c.Name)
	}
	return fmt.Sprintf("nft add rule %s %s %s iifname cni0 accept, and the same for these ports", c.Family, c.Table, c.Name)
}

func legacy(f *Facts) []Finding {
	if len(f.Legacy) == 0 {
		return nil
	}
	return []Finding{warn("iptables-legacy has the tables "+strings.Join(f.Legacy, ", ")+", whose rules cannot be read from here", "when their chain FORWARD drops, pods do not reach other nodes",
		"iptables-legacy -S FORWARD, and where it says -P FORWARD DROP: iptables-legacy -P FORWARD ACCEPT")}
}

// strangeNames are the beginnings of names of chains.
var strangeNames = []struct{ prefix, of, mend string }{
	{"cali-", "Calico", "iptables-save | grep -v cali- | iptables-restore"},
	{"KUBE-ROUTER", "kube-router", "kube-router --cleanup-config"},
	{"KUBE-NWPLCY", "kube-router", "kube-router --cleanup-config"},
	{"KUBE-POD-FW", "kube-router", "kube-router --cleanup-config"},
	{"ANTREA-", "Antrea", "iptables-save | grep -v ANTREA- | iptables-restore"},
	{"CILIUM_", "Cilium", "cilium-dbg post-uninstall-cleanup"},
	{"OLD_CILIUM_", "Cilium", "cilium-dbg post-uninstall-cleanup"},
	{"WEAVE", "Weave Net", "weave reset"},
}

func strangeChains(f *Facts) []Finding {
	var order []string
	found, mends := map[string][]string{}, map[string]string{}
	for _, c := range f.Chains {
		for _, s := range strangeNames {
			if strings.HasPrefix(c.Name, s.prefix) {
				if found[s.of] == nil {
					order = append(order, s.of)
				}
				found[s.of], mends[s.of] = append(found[s.of], c.Name), s.mend
				break
			}
		}
	}
	var all []Finding
	for _, of := range order {
		all = append(all, warn(fmt.Sprintf("%s left chains: %s", of, some(found[of])), "its policies and its masquerading go on, with what it knew when it ended", mends[of]))
	}
	return all
}

// kubeProxy finds its rules in iptables and in nftables; the one with IPVS has a link.
func kubeProxy(f *Facts) []Finding {
	if !f.Proxy {
		return nil
	}
	const breaks = "both translate addresses of Services; when kube-proxy does not run any more, to endpoints that are gone"
	var all []Finding
	told := map[string]bool{}
	for _, c := range f.Chains {
		where := c.Family + " " + c.Table
		switch {
		case told[where]:
		case c.Table == "kube-proxy":
			all = append(all, fail("kube-proxy has the table "+where, breaks, "kubectl -n kube-system delete daemonset kube-proxy; nft delete table "+where))
			told[where] = true
		case c.Name == "KUBE-SERVICES" && c.Table == "nat":
			all = append(all, fail("kube-proxy has its chains in the table "+where, breaks, "kubectl -n kube-system delete daemonset kube-proxy; kube-proxy --cleanup"))
			told[where] = true
		}
	}
	return all
}
