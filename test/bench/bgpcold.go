package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// deadAddress is within the underlay, and nobody has it.
var deadAddress = netip.MustParseAddr("172.30.9.9")

func runBGPCold(b bench) error { return b.withBGPLab(lab.Options{}, b.firstPrefix) }

// firstPrefix measures from the start of a process that never ran before to its prefix in the kernel of a neighbour, which waits to be connected
// to and forgets at once what a session that ended has brought. The BIRD beside it has the same two peers and Debian's defaults, so that it waits for 5 s before it connects for the first time.
func (b bench) firstPrefix(ctx context.Context, l *lab.Lab) error {
	on, address, err := machine(ctx, l, "neighbor")
	if err != nil {
		return err
	}
	_, err = startBIRD(ctx, on, fmt.Sprintf(`router id %[1]s;
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp { local %[1]s as %[2]d; neighbor range 172.30.0.0/16 as %[3]d; graceful restart off; ipv4 { import all; export none; }; }
`, address, otherAS, nodesAS))
	if err != nil {
		return err
	}
	seen, err := monitorRoutes(on.Netns(), byBIRD, podNetwork)
	if err != nil {
		return err
	}
	defer seen.close()
	neighbor, dead := fmt.Sprintf("{name: neighbor, address: %s, as: %d}", address, otherAS), fmt.Sprintf("{name: dead, address: %s, as: %d}", deadAddress, otherAS)
	starts := []struct {
		name  string
		start func(name string) (end func() error, begun time.Time, err error)
		took  samples
	}{
		{"twilld", func(name string) (func() error, time.Time, error) {
			return coldTwilld(ctx, l, name, "mesh: off\npeers:\n- "+neighbor+"\n")
		}, nil},
		{"twilld, another peer being dead", func(name string) (func() error, time.Time, error) {
			return coldTwilld(ctx, l, name, "mesh: off\npeers:\n- "+dead+"\n- "+neighbor+"\n")
		}, nil},
		{"BIRD, another peer being dead", func(name string) (func() error, time.Time, error) { return coldBIRD(ctx, l, name, address) }, nil},
	}
	for turn := range 3 {
		for i := range starts {
			if turn > 0 && i == len(starts)-1 {
				continue // BIRD's time is a setting
			}
			end, begun, err := starts[i].start(fmt.Sprintf("cold%d-%d", turn, i))
			if err != nil {
				return err
			}
			there, err := seen.until("the first prefix of "+starts[i].name, func() bool { return len(seen.routes) > 0 })
			if err != nil {
				return err
			}
			starts[i].took = append(starts[i].took, there.Sub(begun))
			if err := end(); err != nil {
				return err
			}
			if _, err := seen.until("the prefix's end", func() bool { return len(seen.routes) == 0 }); err != nil {
				return err
			}
		}
	}
	rows := [][]string{{"cold start", "first prefix in the neighbour's kernel after p50", "max"}}
	for _, s := range starts {
		rows = append(rows, []string{s.name, ms(s.took.quantile(.5)), ms(s.took.quantile(1))})
	}
	table(rows...)
	return nil
}

// coldTwilld starts a daemon that never ran before. end removes its node.
func coldTwilld(ctx context.Context, l *lab.Lab, name, conf string) (end func() error, begun time.Time, err error) {
	file := filepath.Join(l.Dir(), name+".yaml")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, begun, err
	}
	n, err := unborn(ctx, l, name, "--bgp-config="+file)
	if err != nil {
		return nil, begun, err
	}
	begun = time.Now()
	err = n.StartDaemon()
	end = func() error {
		if err := n.StopDaemon(ctx); err != nil {
			return err
		}
		return n.Delete(ctx)
	}
	return end, begun, err
}

// coldBIRD starts a BIRD with one prefix. end stops it.
func coldBIRD(ctx context.Context, l *lab.Lab, name string, neighbor netip.Addr) (end func() error, begun time.Time, err error) {
	on, address, err := machine(ctx, l, name)
	if err != nil {
		return nil, begun, err
	}
	begun = time.Now()
	b, err := startBIRD(ctx, on, fmt.Sprintf(`router id %[1]s;
protocol static { ipv4; route 10.244.255.0/24 blackhole; }
template bgp peer { local %[1]s as %[2]d; ipv4 { import none; export all; }; }
protocol bgp from peer { neighbor %[3]s as %[5]d; }
protocol bgp from peer { neighbor %[4]s as %[5]d; }
`, address, nodesAS, neighbor, deadAddress, otherAS))
	if err != nil {
		return nil, begun, err
	}
	end = func() error {
		_, err := b.do("down")
		_ = b.cmd.Wait() // it ends by itself
		return err
	}
	return end, begun, err
}
