//go:build linux

package linux

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of include/uapi/linux/ethtool.h. They are the old way to ask for checksum offload: one number instead of the
// names of all features of the device. A VXLAN device has tx-checksum-ip-generic and no other such feature.
const (
	ethtoolGetTxChecksum = 0x16 // ETHTOOL_GTXCSUM
	ethtoolSetTxChecksum = 0x17 // ETHTOOL_STXCSUM
)

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ request, value uint32 }

// ethtoolRequest is struct ifreq with a pointer in its union.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// ethtool makes one request to the link by a socket of its network namespace.
func ethtool(fd int, link string, v *ethtoolValue) error {
	if len(link) >= unix.IFNAMSIZ {
		return unix.ENODEV
	}
	request := ethtoolRequest{data: unsafe.Pointer(v)}
	copy(request.name[:], link)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(v)
	if errno != 0 {
		return errno
	}
	return nil
}

func txChecksum(fd int, link string) (on bool, err error) {
	v := ethtoolValue{request: ethtoolGetTxChecksum}
	if err := ethtool(fd, link, &v); err != nil {
		return false, fmt.Errorf("read checksum offload: %w", err)
	}
	return v.value != 0, nil
}

// setTxChecksum asks the kernel for what it does not have yet.
func setTxChecksum(fd int, link string, on bool) error {
	if have, err := txChecksum(fd, link); err != nil || have == on {
		return err
	}
	v := ethtoolValue{request: ethtoolSetTxChecksum}
	if on {
		v.value = 1
	}
	if err := ethtool(fd, link, &v); err != nil {
		return fmt.Errorf("set checksum offload %t: %w", on, err)
	}
	return nil
}
