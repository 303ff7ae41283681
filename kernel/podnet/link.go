//go:build linux

package podnet

import (
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// link is what the kernel says of a network device.
type link struct {
	index    int
	name     string
	kind     string // "bridge", "veth", "ifb", ...
	alias    string
	mac      kernel.MAC
	mtu      int
	master   int
	peer     int // IFLA_LINK: of a veth, the index of its other end in that end's namespace
	up       bool
	hairpin  bool
	podOwner kernel.PodOwner // from the alias; zero when the link is no pod's
}

func parseLink(body []byte) link {
	var l link
	if len(body) < unix.SizeofIfInfomsg {
		return l
	}
	l.index = int(int32(binary.NativeEndian.Uint32(body[4:])))
	l.up = binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0
	attrs(body[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = cstring(v)
		case unix.IFLA_IFALIAS:
			l.alias = cstring(v)
		case unix.IFLA_ADDRESS:
			if len(v) == len(l.mac) {
				l.mac = kernel.MAC(v)
			}
		case unix.IFLA_MTU:
			l.mtu = number(v)
		case unix.IFLA_MASTER:
			l.master = number(v)
		case unix.IFLA_LINK:
			l.peer = number(v)
		case unix.IFLA_LINKINFO:
			l.parseInfo(v)
		}
	})
	l.podOwner = parseAlias(l.alias)
	return l
}

func (l *link) parseInfo(info []byte) {
	attrs(info, func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			l.kind = cstring(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			attrs(v, func(typ uint16, v []byte) {
				if typ == unix.IFLA_BRPORT_MODE && len(v) == 1 {
					l.hairpin = v[0] == 1
				}
			})
		}
	})
}

// parseAlias returns the owner that PodOwner.Alias names. Neither a container id nor an interface name holds a slash.
func parseAlias(alias string) kernel.PodOwner {
	rest, ok := strings.CutPrefix(alias, kernel.PodLinkAliasPrefix)
	if !ok {
		return kernel.PodOwner{}
	}
	id, ifName, _ := strings.Cut(rest, "/")
	return kernel.PodOwner{ContainerID: id, IfName: ifName}
}

// findLink returns the link of that name; ok is false when there is none.
func (s *socket) findLink(name string) (l link, ok bool, err error) {
	var b batch
	b.add("find link "+name, unix.RTM_GETLINK, 0, ifinfo(0, 0, 0))
	b.str(unix.IFLA_IFNAME, name)
	err = s.run(&b, func(_ uint16, body []byte) { l, ok = parseLink(body), true })
	if errors.Is(err, unix.ENODEV) {
		return link{}, false, nil
	}
	return l, ok, err
}

// links returns all links. A dump that was disturbed is repeated a few times.
func (s *socket) links() ([]link, error) {
	var all []link
	for try := 1; ; try++ {
		all = all[:0]
		var b batch
		b.add("list links", unix.RTM_GETLINK, unix.NLM_F_DUMP, ifinfo(0, 0, 0))
		err := s.run(&b, func(_ uint16, body []byte) { all = append(all, parseLink(body)) })
		if err == nil || !errors.Is(err, kernel.ErrStale) || try == dumpTries {
			return all, err
		}
	}
}

// dumpTries bounds how often a dump is repeated: on a node that starts 250 pods at a time, links come and go all the while.
const dumpTries = 10

// deleteLink removes a link; one that is not there is no error. The kernel waits for two RCU grace periods, about
// 20 ms, before it answers.
func (s *socket) deleteLink(index int, name string) error {
	var b batch
	b.add("remove link "+name, unix.RTM_DELLINK, 0, ifinfo(index, 0, 0))
	b.allow(unix.ENODEV)
	return s.run(&b, nil)
}
