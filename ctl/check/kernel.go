package check

import "fmt"

var kernelRules = []rule{
	{"kernel features", "what Twill's links and tables are made of, by dry runs", []Part{Features}, features},
	{"br_netfilter", "whether packets between pods of one node pass netfilter", nil, bridgeNetfilter},
}

func features(f *Facts) []Finding {
	var all []Finding
	for _, l := range f.Lacks {
		mend := "take a kernel with " + l.Option
		if l.Module != "" {
			mend = fmt.Sprintf("modprobe %[1]s && echo %[1]s >/etc/modules-load.d/%[1]s.conf", l.Module)
		}
		all = append(all, fail(fmt.Sprintf("the kernel lacks %s (%v)", l.Name, l.Err), "twilld does not start to serve", mend))
	}
	return all
}

// bridgeNetfilter looks for the module. Its settings are those of twilld, which makes them when it starts.
func bridgeNetfilter(f *Facts) []Finding {
	const mend = "modprobe br_netfilter && echo br_netfilter >/etc/modules-load.d/br_netfilter.conf"
	var all []Finding
	for _, family := range []struct {
		wanted bool
		entry  string
	}{{f.IPv4, "net/bridge/bridge-nf-call-iptables"}, {f.IPv6, "net/bridge/bridge-nf-call-ip6tables"}} {
		value, there := f.Sysctls[family.entry]
		switch {
		case !family.wanted || !f.Policy && !f.Proxy:
		case !there && f.Policy:
			return []Finding{fail("the module br_netfilter is not loaded", "policies do not hold between pods of one node: twilld does not become ready", mend)}
		case !there:
			return []Finding{warn("the module br_netfilter is not loaded", "Services between pods of one node are masqueraded: those pods see their node's address", mend)}
		case value != "1" && f.Policy && f.Serves:
			all = append(all, fail(dotted(family.entry)+" is "+value, "policies do not hold between pods of one node", setting(family.entry, "1")))
		}
	}
	return all
}
