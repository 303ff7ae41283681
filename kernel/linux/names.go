//go:build linux

package linux

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// names translates between the names and the indexes of links for the length of one call: both may change hands
// between calls. It asks the kernel once for each name or index, by ioctl, which takes no lock that a busy host holds.
type names struct {
	fd        int // any socket of the network namespace
	byName    map[string]int32
	byIndex   map[int32]string
	lastName  string // nearly all entries are on one link
	lastIndex int32
}

func newNames(fd int) *names {
	return &names{fd: fd, byName: map[string]int32{}, byIndex: map[int32]string{}}
}

// index returns the index of the link. The error wraps unix.ENODEV when there is no such link.
func (n *names) index(name string) (int32, error) {
	if name == n.lastName && n.lastIndex != 0 {
		return n.lastIndex, nil
	}
	index, ok := n.byName[name]
	if !ok {
		var err error
		if index, err = n.lookupIndex(name); err != nil {
			return 0, err
		}
		n.byName[name] = index
	}
	if index == 0 {
		return 0, fmt.Errorf("link %q: %w", name, unix.ENODEV)
	}
	n.lastName, n.lastIndex = name, index
	return index, nil
}

// lookupIndex returns 0 when there is no link of that name.
func (n *names) lookupIndex(name string) (int32, error) {
	request, err := unix.NewIfreq(name)
	if err != nil || name == "" {
		return 0, fmt.Errorf("link name %q: want 1 to %d bytes: %w", name, unix.IFNAMSIZ-1, unix.EINVAL)
	}
	switch err := unix.IoctlIfreq(n.fd, unix.SIOCGIFINDEX, request); {
	case errors.Is(err, unix.ENODEV):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("find link %q: %w", name, err)
	}
	return int32(request.Uint32()), nil
}

// name returns the name of the link with the index, or "" when there is none.
func (n *names) name(index int32) string {
	if index == n.lastIndex && index != 0 {
		return n.lastName
	}
	name, ok := n.byIndex[index]
	if !ok {
		request, _ := unix.NewIfreq("")
		request.SetUint32(uint32(index))
		if unix.IoctlIfreq(n.fd, unix.SIOCGIFNAME, request) == nil {
			name = request.Name()
		}
		n.byIndex[index] = name
	}
	if name != "" {
		n.lastName, n.lastIndex = name, index
	}
	return name
}
