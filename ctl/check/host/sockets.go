//go:build linux

package host

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/twill-cni/twill/ctl/check"
)

// netDir shows the network namespace of the thread that opens a file there; /proc/net shows that of the process' first thread.
const netDir = "/proc/thread-self/net"

// listening is TCP_LISTEN of the kernel's include/net/tcp_states.h.
const listening = "0A"

func lookAtSockets(f *check.Facts) error {
	inodes := map[string][]int{} // of sockets, whose places in f.Sockets
	for _, file := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, err := os.ReadFile(path.Join(netDir, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // IPv6 is off
		}
		if err != nil {
			return err
		}
		all, err := parseSockets(string(text), strings.TrimSuffix(file, "6"))
		if err != nil {
			return fmt.Errorf("%s/%s: %w", netDir, file, err)
		}
		for _, s := range all {
			inodes[s.inode] = append(inodes[s.inode], len(f.Sockets))
			f.Sockets = append(f.Sockets, s.Socket)
		}
	}
	return nameSockets(f, inodes)
}

// socket is one with the number by which a process' open files name it.
type socket struct {
	check.Socket
	inode string
}

// parseSockets reads the sockets of a file of /proc/net; of TCP those that listen (Documentation/networking/proc_net_tcp.rst).
func parseSockets(text, protocol string) ([]socket, error) {
	var all []socket
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[0] == "sl" || protocol == "tcp" && fields[3] != listening {
			continue
		}
		address, err := parseAddress(fields[1])
		if err != nil {
			return nil, err
		}
		all = append(all, socket{check.Socket{Protocol: protocol, Address: address}, fields[9]})
	}
	return all, nil
}

// parseAddress reads "0100007F:1F90": words of four bytes as the machine has them, and a port.
func parseAddress(text string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(text, ":")
	bytes, err := hex.DecodeString(host)
	number, portErr := strconv.ParseUint(port, 16, 16)
	if err := errors.Join(err, portErr); err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q: %w", text, err)
	}
	for word := 0; word+4 <= len(bytes); word += 4 {
		binary.NativeEndian.PutUint32(bytes[word:], binary.BigEndian.Uint32(bytes[word:]))
	}
	addr, ok := netip.AddrFromSlice(bytes)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("address %q: %d bytes", text, len(bytes))
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), nil
}

// nameSockets finds the programs. Processes that end meanwhile are passed over, and those that nobody may look into.
func nameSockets(f *check.Facts, inodes map[string][]int) error {
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return err
	}
	for _, file := range files {
		target, err := os.Readlink(file)
		if err != nil {
			continue
		}
		inode, isSocket := strings.CutPrefix(strings.TrimSuffix(target, "]"), "socket:[")
		if !isSocket || inodes[inode] == nil {
			continue
		}
		name, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(file)), "comm"))
		if err != nil {
			continue
		}
		for _, place := range inodes[inode] {
			f.Sockets[place].Program = strings.TrimSpace(string(name))
		}
	}
	return nil
}
