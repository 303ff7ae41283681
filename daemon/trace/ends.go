package trace

import (
	"fmt"
	"strconv"

	"github.com/twill-cni/twill/kernel/path"
)

// start is the pod's side of its node: what packets from it meet first.
func (j *judge) start(v *path.View) {
	j.pod(v, j.From)
	j.veth(v)
	j.bridge(v)
}

// arrive is the same in the other order.
func (j *judge) arrive(v *path.View) {
	j.bridge(v)
	j.delivery(v)
	j.veth(v)
	j.pod(v, j.To)
}

func (j *judge) pod(v *path.View, of End) {
	in := v.Pod
	if in.Error != "" {
		j.add(Pod, NotLooked, in.Error, "", "")
		return
	}
	holds := words(linkText(in.Link), addressText(in.Link), routeText(in.Route), neighbourText(in.Route.Neighbor))
	seen := in.Link
	seen.Carrier = seen.Carrier || v.Host.Found && !v.Host.Up // the other end is the one to blame
	reason, mend := linkFault(seen)
	enter := "in the pod's network namespace: "
	switch {
	case reason != "":
		mend = enter + mend
	case !in.Link.Has(of.Address):
		reason, mend = fmt.Sprintf("%s of the pod does not have the address %s", in.Link.Name, of.Address), "delete the pod, so that it is attached anew"
	case in.Route.Refused != "":
		reason, mend = fmt.Sprintf("the pod has no way to %s: %s", in.Route.To, in.Route.Refused), enter+"ip route add default via the address of "+v.Bridge.Name+", or delete the pod"
	case in.Route.Gateway.IsValid() && v.Bridge.Found && !v.Bridge.Has(in.Route.Gateway) && len(v.Bridge.Addresses) > 0:
		reason, mend = fmt.Sprintf("the pod's gateway %s is no address of %s", in.Route.Gateway, v.Bridge.Name), "delete the pod, so that it is attached anew"
	case in.Route.Gateway.IsValid() && v.Bridge.Found && v.Bridge.Up && wrongMAC(in.Route.Neighbor, v.Bridge.MAC):
		reason, mend = fmt.Sprintf("the pod takes %s for the MAC of its gateway, which has %s", in.Route.Neighbor.MAC, v.Bridge.MAC), enter+fmt.Sprintf("ip neigh del %s dev %s", in.Route.Gateway, in.Link.Name)
	}
	j.check(Pod, holds, reason, mend)
}

func (j *judge) veth(v *path.View) {
	holds := words(linkText(v.Host), "port of "+orNone(v.Host.Master))
	seen := v.Host
	seen.Carrier = seen.Carrier || v.Pod.Error == "" && v.Pod.Link.Found && !v.Pod.Link.Up // likewise
	reason, mend := linkFault(seen)
	switch {
	case !v.Host.Found:
		reason, mend = "the pod's link "+v.Host.Name+" is not there", "delete the pod, so that it is attached anew"
	case reason == "" && v.Host.Master != v.Bridge.Name:
		reason = fmt.Sprintf("%s is no port of %s", v.Host.Name, v.Bridge.Name)
		mend = fmt.Sprintf("ip link set %s master %s", v.Host.Name, v.Bridge.Name)
	}
	if reason == "" && v.Pod.Error == "" && v.Host.MTU < v.Pod.Link.MTU {
		j.mtuFault(v.Host, v.Pod.Link.MTU)
		return
	}
	j.check(Veth, holds, reason, mend)
}

func (j *judge) bridge(v *path.View) {
	seen := v.Bridge
	seen.Carrier = true // without a port that is up it has none
	reason, mend := linkFault(seen)
	gateway := v.Pod.Route.Gateway
	switch {
	case !v.Bridge.Found:
		reason, mend = "the bridge "+v.Bridge.Name+" is not there", "delete the node's pods: the first that is attached anew makes it"
	case reason == "" && len(v.Bridge.Addresses) == 0 && gateway.IsValid():
		reason, mend = fmt.Sprintf("%s has no address: the pods' gateway %s is missing", v.Bridge.Name, gateway), fmt.Sprintf("ip addr add %s/<bits of the node's subnet> dev %s", gateway, v.Bridge.Name)
	}
	if reason == "" && v.Pod.Error == "" && v.Bridge.MTU < v.Pod.Link.MTU {
		j.mtuFault(v.Bridge, v.Pod.Link.MTU)
		return
	}
	j.check(Bridge, words(linkText(v.Bridge), addressText(v.Bridge)), reason, mend)
}

func (j *judge) mtuFault(l path.Link, want int) {
	j.add(MTU, Failed, linkText(l), fmt.Sprintf("%s has the MTU %d, and the pod sends packets of up to %d bytes", l.Name, l.MTU, want), fmt.Sprintf("ip link set %s mtu %d", l.Name, want))
}

// delivery is the neighbour that the pod is for its node.
func (j *judge) delivery(v *path.View) {
	for _, r := range v.In {
		if r.Refused != "" || r.Device != v.Bridge.Name {
			continue
		}
		n := r.Neighbor
		reason, mend := "", fmt.Sprintf("ip neigh del %s dev %s", n.Address, v.Bridge.Name)
		switch {
		case n.State == "failed" || n.State == "noarp":
			reason = fmt.Sprintf("%s does not answer on %s", n.Address, v.Bridge.Name)
		case v.Pod.Error == "" && v.Pod.Link.Found && wrongMAC(n, v.Pod.Link.MAC):
			reason = fmt.Sprintf("the node takes %s for the MAC of %s, which has %s", n.MAC, n.Address, v.Pod.Link.MAC)
		}
		j.check(Neighbour, neighbourText(n), reason, mend)
		return
	}
}

// forwarding is whether the node forwards, and what others' chains do to what it forwards.
func (j *judge) forwarding(v *path.View) {
	if !v.Forwarding {
		value := "1"
		if len(v.Sysctl) > 12 && v.Sysctl[len(v.Sysctl)-12:] == "disable_ipv6" {
			value = "0"
		}
		j.add(Forwarding, Failed, v.Sysctl, "the node does not forward packets: "+v.Sysctl+" forbids it", "sysctl -w "+v.Sysctl+"="+value)
	} else {
		j.add(Forwarding, OK, "on", "", "")
	}
	for _, c := range v.Chains {
		holds := fmt.Sprintf("chain %s %s %s: %d rules that drop", c.Family, c.Table, c.Name, c.Rules)
		reason := "rules that are not Twill's may drop the packet"
		if c.Drops {
			holds, reason = words(holds, "policy drop"), "a chain that is not Twill's drops what it does not know"
		}
		j.add(Filter, Suspicious, holds, reason, fmt.Sprintf("nft list chain %s %s %s, and let it accept the pods' networks", c.Family, c.Table, c.Name))
	}
}

func linkFault(l path.Link) (reason, mend string) {
	switch {
	case !l.Found:
		return fmt.Sprintf("there is no link %s", l.Name), "make it"
	case !l.Up:
		return l.Name + " is down", fmt.Sprintf("ip link set %s up", l.Name)
	case !l.Carrier:
		return l.Name + " has no carrier: its other end is down", "set the other end up, or look at the cable"
	}
	return "", ""
}

func linkText(l path.Link) string {
	switch {
	case !l.Found:
		return l.Name + " missing"
	case !l.Up:
		return l.Name + " down"
	case !l.Carrier:
		return l.Name + " up without carrier, mtu " + strconv.Itoa(l.MTU)
	}
	return l.Name + " up, mtu " + strconv.Itoa(l.MTU)
}

func addressText(l path.Link) string {
	if len(l.Addresses) == 0 {
		return ""
	}
	return l.Addresses[0].String()
}

func neighbourText(n path.Neighbor) string {
	switch {
	case !n.Address.IsValid():
		return ""
	case !n.Found:
		return fmt.Sprintf("%s not resolved yet", n.Address)
	case n.MAC == "":
		return fmt.Sprintf("%s %s", n.Address, n.State)
	}
	return fmt.Sprintf("%s is at %s %s", n.Address, n.MAC, n.State)
}

func wrongMAC(n path.Neighbor, want string) bool { return n.MAC != "" && want != "" && n.MAC != want }

func orNone(s string) string {
	if s == "" {
		return "no bridge"
	}
	return s
}
