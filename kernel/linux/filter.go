//go:build linux

package linux

import (
	"encoding/binary"
	"fmt"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxFiltered is how many links a filter can tell apart: a conditional jump reaches 255 instructions.
const maxFiltered = 64

// notificationFilter returns a classic BPF program that the kernel runs on every notification before it is queued
// (do_one_broadcast, sk_filter). It only saves work: what passes is judged again by Monitor.handle. It drops
//   - neighbours and FDB entries of other links than those of the given indexes,
//   - routes outside the main table, and in it those that bear another protocol, are no default routes, did not replace or join a route
//     and do not leave by one of the links,
//   - both when they were caused by the socket with the given port.
//
// With underlay, the main table's routes are told whatever their protocol is.
func notificationFilter(own uint32, links []int32, underlay bool) ([]bpf.RawInstruction, error) {
	if len(links) > maxFiltered {
		return bpf.Assemble(accept())
	}
	neighbor := append(dropOwn(own), load(20, 4)) // ndm_ifindex
	neighbor = append(append(neighbor, acceptLinks(links)...), drop()...)
	route := routeFilter(own, links, underlay)

	const typesAfter = 4 // instructions between the first comparison and the neighbours' part
	program := []bpf.Instruction{
		load(4, 2), // nlmsg_type
		jumpIfEqual(swap16(unix.RTM_NEWROUTE), typesAfter+len(neighbor)),
		jumpIfEqual(swap16(unix.RTM_DELROUTE), typesAfter-1+len(neighbor)),
		jumpIfEqual(swap16(unix.RTM_NEWNEIGH), 2),
		jumpIfEqual(swap16(unix.RTM_DELNEIGH), 1),
		accept()[0],
	}
	program = append(append(program, neighbor...), route...)
	return bpf.Assemble(program)
}

func routeFilter(own uint32, links []int32, underlay bool) []bpf.Instruction {
	program := []bpf.Instruction{
		load(20, 1), // rtm_table
		jumpIfEqual(unix.RT_TABLE_MAIN, 1),
		drop()[0],
	}
	program = append(program, dropOwn(own)...)
	if underlay {
		return append(program, accept()...)
	}
	program = append(program,
		load(17, 1), // rtm_dst_len: a default route, by which the uplink may be found
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 1},
		accept()[0],
		load(21, 1), // rtm_protocol
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: kernel.RouteProtocol, SkipTrue: 1},
		accept()[0],
		load(6, 2), // nlmsg_flags
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: swap16(unix.NLM_F_REPLACE), SkipTrue: 1},
		accept()[0],
		bpf.LoadConstant{Dst: bpf.RegA, Val: unix.NLMSG_HDRLEN + unix.SizeofRtMsg},
		bpf.LoadConstant{Dst: bpf.RegX, Val: unix.RTA_OIF},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr}, // offset of the attribute, or 0
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 4},
		load(16, 1), // rtm_family: an IPv6 route without a link of its own has several next hops, of which some may be ours
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_INET6, SkipTrue: 1},
		accept()[0],
		drop()[0],
		bpf.TAX{},
		bpf.LoadIndirect{Off: unix.SizeofRtAttr, Size: 4},
	)
	return append(append(program, acceptLinks(links)...), drop()...)
}

func accept() []bpf.Instruction { return []bpf.Instruction{bpf.RetConstant{Val: 1 << 30}} }
func drop() []bpf.Instruction   { return []bpf.Instruction{bpf.RetConstant{Val: 0}} }

// dropOwn drops what the socket with the port caused (nlmsg_pid).
func dropOwn(own uint32) []bpf.Instruction {
	return append([]bpf.Instruction{
		load(12, 4),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: swap32(own), SkipTrue: 1},
	}, drop()...)
}

// acceptLinks accepts when the register holds the index of one of the links.
func acceptLinks(links []int32) []bpf.Instruction {
	var program []bpf.Instruction
	for _, index := range links {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: swap32(uint32(index)), SkipTrue: 1}, accept()[0])
	}
	return program
}

func load(offset, size int) bpf.Instruction { return bpf.LoadAbsolute{Off: uint32(offset), Size: size} }

func jumpIfEqual(value uint32, skip int) bpf.Instruction {
	return bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: uint8(skip)}
}

// BPF loads in network byte order; netlink is in the host's.
func swap32(v uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v))
}

func swap16(v uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
}

func attachFilter(fd int, program []bpf.RawInstruction) error {
	code := make([]unix.SockFilter, len(program))
	for i, ins := range program {
		code[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
	if err != nil {
		return fmt.Errorf("attach the filter of notifications: %w", err)
	}
	return nil
}
