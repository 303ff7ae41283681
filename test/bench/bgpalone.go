package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/twill-cni/twill/ctl/lab"
)

// aloneFlag makes this program nothing but the library that speaks BGP in twilld: one session, no filters, no routes in the kernel, no log. What it
// takes to know all prefixes is the least that any program can take which embeds the library.
const aloneFlag = "gobgp"

// alone is such a process, seen from outside. It tells when it knows no prefix, and when it knows all.
type alone struct {
	cmd   *lab.Cmd
	n     int
	known int // 0, n, or -1 when it has not said
	said  chan int
}

func startAlone(ctx context.Context, on *lab.Node, neighbour netip.Addr, n int) (*alone, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a := &alone{cmd: on.Command(ctx, self, "-"+aloneFlag, fmt.Sprintf("%s %s %d", on.Addrs()[0], neighbour, n)), n: n, said: make(chan int)}
	a.cmd.Stderr = os.Stderr
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the library alone: %w", err)
	}
	go func() {
		defer close(a.said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var known int
			if _, err := fmt.Sscan(lines.Text(), &known); err != nil {
				return
			}
			select {
			case a.said <- known:
			case <-ctx.Done():
				return
			}
		}
	}()
	return a, nil
}

func (a *alone) count() int    { return a.known }
func (a *alone) messages() int { return 0 }
func (a *alone) drain() error  { return nil }

func (a *alone) until(what string, done func() bool) (time.Time, error) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for !done() {
		select {
		case known, ok := <-a.said:
			if !ok {
				return time.Time{}, errors.New("the library alone has ended")
			}
			a.known = known
		case <-limit.C:
			return time.Time{}, fmt.Errorf("wait for %s: the library alone has %d after %s", what, a.known, patience)
		}
	}
	return time.Now(), nil
}

// runAlone is the process. args are its address, the neighbour's, and how many prefixes the neighbour has.
func runAlone(args string, out io.Writer) error {
	var self, neighbour string
	var n int
	if _, err := fmt.Sscan(args, &self, &neighbour, &n); err != nil {
		return fmt.Errorf("%q: %w", args, err)
	}
	ctx := context.Background()
	level := new(slog.LevelVar)
	level.Set(slog.LevelError)
	s := server.NewBgpServer(server.LoggerOption(slog.New(slog.DiscardHandler), level))
	go s.Serve()
	if err := s.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: nodesAS, RouterId: self, ListenPort: -1, UseMultiplePaths: true}}); err != nil {
		return err
	}
	known := 0
	changed := make(chan int, 1)
	changed <- known
	err := s.WatchEvent(ctx, server.WatchEventMessageCallbacks{OnBestPath: func(paths []*apiutil.Path, _ time.Time) {
		for _, p := range paths {
			if p.Withdrawal {
				known--
			} else {
				known++
			}
		}
		if known == 0 || known == n {
			changed <- known
		}
	}}, server.WatchBestPath(false))
	if err != nil {
		return err
	}
	err = s.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf:   &api.PeerConf{NeighborAddress: neighbour, PeerAsn: otherAS},
		Timers: &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1, IdleHoldTimeAfterReset: 1}},
		AfiSafis: []*api.AfiSafi{{Config: &api.AfiSafiConfig{
			Family: &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}, Enabled: true,
		}}},
	}})
	if err != nil {
		return err
	}
	for known := range changed {
		if _, err := fmt.Fprintln(out, known); err != nil {
			return err
		}
	}
	return nil
}
