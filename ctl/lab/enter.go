//go:build linux

package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// resolvConf is where programs look for name servers (resolv.conf(5)).
const resolvConf = "/etc/resolv.conf"

// Enter puts the calling thread, whose goroutine is to be locked to it for good, into the network namespace of a member; see Member. In a pod that was told of
// name servers, /etc/resolv.conf has them, as in a container: the thread gets mounts of its own for that.
func (l *Lab) Enter(member string) error {
	ns, err := l.Member(member)
	if err != nil {
		return err
	}
	if err := ns.Enter(); err != nil {
		return err
	}
	for _, p := range l.Pods() {
		if p.Name == member && p.record.Result != nil {
			return p.mountResolvConf()
		}
	}
	return nil
}

func (p *Pod) mountResolvConf() error {
	text := resolverConfig(p.record.Result.DNS)
	if text == nil {
		return nil
	}
	file := p.resolvConf()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("give pod %s mounts of its own: %w", p.Name, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep the mounts of pod %s to itself: %w", p.Name, err)
	}
	if err := unix.Mount(file, resolvConf, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the pod's name servers on %s: %w", resolvConf, err)
	}
	return nil
}

// resolvConf is the file that is mounted.
func (p *Pod) resolvConf() string { return filepath.Join(p.Node.dir(), "resolv.conf", p.Name) }

// resolverConfig writes what the plugins said as resolv.conf(5) has it; nil: they said of no name server.
func resolverConfig(dns types.DNS) []byte {
	if len(dns.Nameservers) == 0 {
		return nil
	}
	var b bytes.Buffer
	for _, server := range dns.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.Search, " "))
	}
	if len(dns.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.Options, " "))
	}
	return b.Bytes()
}
