package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// usage is what the kernel counts of a process (proc_pid_stat(5)), in clock ticks of 10 ms.
type usage struct {
	own            int // in user and system mode
	children       int // the same of children that it waited for
	childrenFaults int
}

func usageOf(t *testing.T, pid int) usage {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	number := func(field int) int { // as the manual counts
		n, err := strconv.Atoi(fields[field-3])
		must(t, err)
		return n
	}
	return usage{own: number(14) + number(15), children: number(16) + number(17), childrenFaults: number(11) + number(13)}
}

// A node that has nothing to do does nothing, and never runs another program: a process that waited for a child has its page faults.
func TestIdle(t *testing.T) {
	l := up(t, lab.Options{Family: lab.DualStack, PodsPerNode: 1})
	for i := range 100 {
		put(t, l, fmt.Sprintf("%s10.244.%d.0-24&fd00:244:0:%x::-64", subnetsKey, 150+i, 0xf000+i), fmt.Sprintf(
			`{"PublicIP":"172.30.9.%d","PublicIPv6":"fd00:30::9:%x","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:0a:%02x"},`+
				`"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:0b:%02x"}}`, i+1, i+1, i, i))
	}
	for _, n := range l.Nodes() {
		within(t, recovery, func() error {
			if have := metric(t, n, "twill_peers"); have < 100 {
				return fmt.Errorf("%s has %v peers", n.Name, have)
			}
			return nil
		})
	}
	sh(t, l.Nodes()[0].Netns(), "ip link del flannel.1; nft delete table inet twill-masquerade")
	within(t, recovery, func() error {
		_, err := trySh(t.Context(), l.Nodes()[0].Netns(), "ip link show flannel.1; nft list table inet twill-masquerade")
		return err
	})
	const quiet = 3 * time.Second
	before := map[string]usage{}
	for _, n := range l.Nodes() {
		before[n.Name] = usageOf(t, n.DaemonPID())
	}
	holds(t, quiet, func() error { return nil })
	for _, n := range l.Nodes() {
		now := usageOf(t, n.DaemonPID())
		// One tick may be the kernel's rounding, another the end of what was before; 1% of a core would be 3.
		if spent := now.own - before[n.Name].own; spent > 2 {
			t.Errorf("%s: %d ms of processor time in %v of doing nothing", n.Name, spent*10, quiet)
		}
		if now.children > 0 || now.childrenFaults > 0 {
			t.Errorf("%s: the daemon has run other programs: %+v", n.Name, now)
		}
	}
}
