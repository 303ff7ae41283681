//go:build linux

package podnet

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// sysctl is a setting of the network namespace that the thread is in.
type sysctl struct {
	path     string // below /proc/sys
	value    string
	optional bool // a kernel without it is fine
}

// writeSysctls writes the settings that differ. It uses plain system calls: os.WriteFile would register each file with the
// runtime's poller.
func writeSysctls(settings []sysctl) error {
	var errs []error
	for _, s := range settings {
		err := writeSysctl(string(HostSysctls)+"/"+s.path, s.value)
		if err != nil && !(s.optional && errors.Is(err, os.ErrNotExist)) {
			errs = append(errs, fmt.Errorf("set sysctl %s to %s: %w", s.path, s.value, err))
		}
	}
	return errors.Join(errs...)
}

func writeSysctl(path, value string) error {
	// A container's /proc/sys may be read-only: then it is enough that the value is right already.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	readOnly := errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES)
	if readOnly {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var buf [64]byte
	if n, err := unix.Pread(fd, buf[:], 0); err == nil && n == len(value)+1 && string(buf[:len(value)]) == value {
		return nil
	}
	if readOnly {
		return unix.EROFS
	}
	_, err = unix.Pwrite(fd, []byte(value), 0)
	return err
}

// Sysctls is the directory where the kernel shows its settings: of the network namespace that the thread is in, as far as they are those of one.
type Sysctls string

// HostSysctls is the place where a program on the host finds them. A container, whose /proc/sys is read-only, has them at another place.
const HostSysctls Sysctls = "/proc/sys"

func (s Sysctls) localnet(bridge string) string {
	return string(s) + "/net/ipv4/conf/" + bridge + "/route_localnet"
}

// AllowLocalnet lets connections from a loopback address of the host, rewritten to a pod's address, leave by the bridge. It opens
// the host's loopback addresses to what comes in by the bridge (CVE-2020-8558), so the packet filter must drop that
// before this is called.
func (s Sysctls) AllowLocalnet(bridge string) error {
	file := s.localnet(bridge)
	if err := writeSysctl(file, "1"); err != nil {
		return fmt.Errorf("set sysctl %s to 1: %w", file, err)
	}
	return nil
}

// Localnet reports whether AllowLocalnet has been called for a bridge; it has not for one that does not exist.
func (s Sysctls) Localnet(bridge string) (bool, error) {
	data, err := os.ReadFile(s.localnet(bridge))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read sysctl: %w", err)
	}
	return len(data) > 0 && data[0] == '1', nil
}
