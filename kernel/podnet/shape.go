//go:build linux

package podnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// shaperAliasPrefix starts the alias of an ifb device. It must not start like PodLinkAliasPrefix, whose links belong on
// the bridge.
const shaperAliasPrefix = "twill-shaper "

// Numbers of linux/pkt_sched.h, linux/pkt_cls.h and linux/tc_act/tc_mirred.h that x/sys/unix lacks.
const (
	tcaTBFParms  = 1
	tcaTBFRate64 = 4
	tcaTBFBurst  = 6

	tcaU32Sel      = 5
	tcaU32Act      = 7
	tcU32Terminal  = 1
	tcaActKind     = 1
	tcaActOptions  = 2
	tcaMirredParms = 2
	tcaEgressRedir = 1
	tcActStolen    = 4

	handleRoot    = 0xffffffff
	handleIngress = 0xfffffff1
	handleTBF     = 1 << 16
	qdiscIngress  = 0xffff << 16
)

// Shape limits the pod's traffic. What goes to the pod waits in a token bucket (tbf) on the host link; what comes from it is
// redirected to an ifb device of its own and waits in a token bucket there. It must run before the host link is set up:
// changing the queueing discipline of a link that is up waits for RCU grace periods.
func (h *Handle) Shape(hostLink string, owner kernel.PodOwner, s kernel.PodShape) error {
	host, ok, err := h.host.findLink(hostLink)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("shape link %s: it does not exist", hostLink)
	}
	if s.Ingress.Bits > 0 {
		var b batch
		if err := b.addTBF(host.index, hostLink, s.Ingress, s.MTU); err != nil {
			return err
		}
		if err := h.host.run(&b, nil); err != nil {
			return err
		}
	}
	if s.Egress.Bits == 0 {
		return nil
	}
	ifb, err := h.createIFB(s, owner)
	if err != nil {
		return err
	}
	var b batch
	if err := b.addTBF(ifb.index, s.Device, s.Egress, s.MTU); err != nil {
		return err
	}
	b.add("set link "+s.Device+" up", unix.RTM_SETLINK, 0, ifinfo(ifb.index, unix.IFF_UP, unix.IFF_UP))
	b.add("add ingress qdisc to "+hostLink, unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		tcmsg(host.index, qdiscIngress, handleIngress, 0))
	b.str(unix.TCA_KIND, "ingress")
	b.addRedirect(host.index, hostLink, ifb.index)
	return h.host.run(&b, nil)
}

func (h *Handle) createIFB(s kernel.PodShape, owner kernel.PodOwner) (link, error) {
	if _, err := h.Unshape(s.Device, owner); err != nil { // a leftover of an ADD that was killed
		return link{}, err
	}
	var b batch
	b.add("create ifb "+s.Device, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, 0, 0))
	b.str(unix.IFLA_IFNAME, s.Device)
	b.u32(unix.IFLA_MTU, uint32(s.MTU))
	b.open(unix.IFLA_LINKINFO)
	b.str(unix.IFLA_INFO_KIND, "ifb")
	b.close()
	if err := h.host.run(&b, nil); err != nil {
		return link{}, err
	}
	var made link
	b = batch{}
	b.add("set owner of link "+s.Device, unix.RTM_NEWLINK, 0, ifinfo(0, 0, 0))
	b.str(unix.IFLA_IFNAME, s.Device)
	b.str(unix.IFLA_IFALIAS, shaperAliasPrefix+owner.String())
	b.add("find link "+s.Device, unix.RTM_GETLINK, 0, ifinfo(0, 0, 0))
	b.str(unix.IFLA_IFNAME, s.Device)
	err := h.host.run(&b, func(_ uint16, body []byte) { made = parseLink(body) })
	return made, err
}

// Unshape removes an attachment's ifb device and says whether it was there. What is on the host link goes with that. A
// device that is somebody else's is left alone: the error wraps kernel.ErrForeignLink.
func (h *Handle) Unshape(device string, owner kernel.PodOwner) (bool, error) {
	have, ok, err := h.host.findLink(device)
	if err != nil || !ok {
		return false, err
	}
	if have.kind != "ifb" || have.alias != "" && have.alias != shaperAliasPrefix+owner.String() {
		return false, fmt.Errorf("link %s (%s %q): %w", device, have.kind, have.alias, kernel.ErrForeignLink)
	}
	return true, h.host.deleteLink(have.index, device)
}

// Shapers returns the names and owners of the ifb devices of all pods.
func (h *Handle) Shapers() (map[string]kernel.PodOwner, error) {
	all, err := h.host.links()
	if err != nil {
		return nil, err
	}
	shapers := map[string]kernel.PodOwner{}
	for _, l := range all {
		if rest, ok := strings.CutPrefix(l.alias, shaperAliasPrefix); ok && l.kind == "ifb" {
			id, ifName, _ := strings.Cut(rest, "/")
			shapers[l.name] = kernel.PodOwner{ContainerID: id, IfName: ifName}
		}
	}
	return shapers, nil
}

// tcmsg is a struct tcmsg.
func tcmsg(index int, handle, parent, info uint32) []byte {
	b := make([]byte, 20)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], handle)
	binary.NativeEndian.PutUint32(b[12:], parent)
	binary.NativeEndian.PutUint32(b[16:], info)
	return b
}

// addTBF puts a token bucket at the root of a link.
func (b *batch) addTBF(index int, name string, r kernel.Rate, mtu int) error {
	tick, err := psched()
	if err != nil {
		return err
	}
	bucket := bucketOf(r, mtu)
	b.add("add token bucket to "+name, unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, tcmsg(index, handleTBF, handleRoot, 0))
	b.str(unix.TCA_KIND, "tbf")
	b.open(unix.TCA_OPTIONS)
	b.attr(tcaTBFParms, tbfParms(bucket, tick))
	if bucket.rate > 1<<32-1 {
		b.attr(tcaTBFRate64, binary.NativeEndian.AppendUint64(nil, bucket.rate))
	}
	b.u32(tcaTBFBurst, uint32(bucket.burst))
	b.close()
	return nil
}

// tbfParms is a struct tc_tbf_qopt: rate and peak rate (struct tc_ratespec), limit, buffer, mtu.
func tbfParms(k bucket, ticksPerMicrosecond float64) []byte {
	p := make([]byte, 36)
	p[1] = 1                                                             // linklayer Ethernet
	binary.NativeEndian.PutUint16(p[4:], 0xffff)                         // cell_align -1: no rate table is sent
	binary.NativeEndian.PutUint32(p[8:], uint32(min(k.rate, 1<<32-1)))   // bytes per second
	binary.NativeEndian.PutUint32(p[24:], uint32(min(k.limit, 1<<32-1))) // bytes that may wait
	micros := float64(k.burst) / float64(k.rate) * 1e6
	binary.NativeEndian.PutUint32(p[28:], uint32(min(micros*ticksPerMicrosecond, 1<<32-1)))
	return p
}

// addRedirect sends everything that comes in by a link to another one's queue: a u32 filter that matches any packet, with
// the action mirred. (cls_matchall would be shorter, but u32 is everywhere.)
func (b *batch) addRedirect(index int, name string, to int) {
	const prio = 1
	info := uint32(prio)<<16 | uint32(htons(unix.ETH_P_ALL))
	b.add("redirect what "+name+" receives", unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL, tcmsg(index, 0, qdiscIngress, info))
	b.str(unix.TCA_KIND, "u32")
	b.open(unix.TCA_OPTIONS)
	sel := make([]byte, 16+16) // struct tc_u32_sel with one tc_u32_key: mask 0, value 0
	sel[0], sel[2] = tcU32Terminal, 1
	b.attr(tcaU32Sel, sel)
	b.open(tcaU32Act)
	b.open(1) // the first action
	b.str(tcaActKind, "mirred")
	b.open(tcaActOptions)
	mirred := make([]byte, 28) // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
	binary.NativeEndian.PutUint32(mirred[8:], tcActStolen)
	binary.NativeEndian.PutUint32(mirred[20:], tcaEgressRedir)
	binary.NativeEndian.PutUint32(mirred[24:], uint32(to))
	b.attr(tcaMirredParms, mirred)
	b.close()
	b.close()
	b.close()
	b.close()
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

// psched reads how many ticks of the packet scheduler's clock a microsecond has.
func psched() (float64, error) {
	data, err := os.ReadFile("/proc/net/psched")
	if err != nil {
		return 0, fmt.Errorf("read packet scheduler clock: %w", err)
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, errors.New("read packet scheduler clock: /proc/net/psched is too short")
	}
	nsPerMicro, err1 := strconv.ParseUint(fields[0], 16, 32)
	nsPerTick, err2 := strconv.ParseUint(fields[1], 16, 32)
	if err := errors.Join(err1, err2); err != nil || nsPerTick == 0 {
		return 0, fmt.Errorf("read packet scheduler clock: %q: %w", data, err)
	}
	return float64(nsPerMicro) / float64(nsPerTick), nil
}
