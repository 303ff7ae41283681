//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/plugins/record"
	"github.com/twill-cni/twill/policy/gate"
)

// gated is a node whose pods have policies, with a machine outside that they can reach, and that can reach them.
type gated struct {
	*node
	outside netns
	tables  *nft.Handle
	config  gate.Config
}

func newGated(t testing.TB) *gated {
	t.Helper()
	g := &gated{node: newNode(t, subnet4, subnet6)}
	for _, s := range []string{"10.5.1.0/24", "fd00:5:1::/64"} {
		g.config.NodePods = append(g.config.NodePods, netip.MustParsePrefix(s))
	}
	g.conf["policy"] = map[string]any{"networks": g.config.NodePods}
	if err := os.Mkdir(g.runDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	g.do(func() error { // what goes from pod to pod passes the table, too
		return errors.Join(os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte("1"), 0))
	})
	g.outside = g.node.outside()
	g.outside.do(func() error {
		return errors.Join(netlink.RouteAdd(&netlink.Route{Gw: node4.Addr().AsSlice()}), netlink.RouteAdd(&netlink.Route{Gw: node6.Addr().AsSlice()}))
	})
	g.do(func() (err error) { g.tables, err = nft.Open(slog.New(slog.DiscardHandler)); return err })
	t.Cleanup(func() { g.tables.Close() })
	return g
}

func (g *gated) runDir() string { return g.dir + "/run" }

// open does what the daemon does for a pod without policies.
func (g *gated) open(addrs ...netip.Addr) error {
	table := gate.Closed(g.config)
	if _, err := g.tables.EnsureTable(g.t.Context(), table); err != nil {
		return err
	}
	elems := gate.LocalKeys(addrs...)
	for set, all := range elems {
		for i := range all {
			if len(all[i].Key) == 1 { // not self
				all[i].Value = []kernel.Datum{{Verdict: &kernel.Verdict{Kind: kernel.Goto, Chain: gate.ChainOpen}}}
			}
		}
		elems[set] = all
	}
	return g.tables.InsertElements(g.t.Context(), table, elems)
}

// opened returns how many elements open addresses.
func (g *gated) opened() int {
	g.t.Helper()
	n := 0
	for _, v := range gate.Versions() {
		for _, set := range []string{v.Egress, v.Ingress, v.Self} {
			elems, err := g.tables.ListElements(gate.Family, gate.TableName, set)
			if err != nil {
				g.t.Fatal(err)
			}
			n += len(elems)
		}
	}
	return n
}

// refused returns how many packets were refused because their pod is not known.
func (g *gated) refused() (n uint64) {
	g.t.Helper()
	counts, err := g.tables.Counters(g.t.Context(), gate.Family, gate.TableName, gate.ChainRefuseUnknown)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, c := range counts {
		n += c.Packets
	}
	return n
}

// serve is a daemon that looks at the asking pod's record.
func (g *gated) serve(answer func(ctx context.Context, addrs []netip.Addr, tell func(gate.State))) {
	g.t.Helper()
	ctx, cancel := context.WithCancel(g.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		err := gate.Serve(ctx, gate.SocketPath(g.runDir()), func(ctx context.Context, r gate.Request, tell func(gate.State)) {
			seen, err := record.Look(g.runDir())
			if err != nil {
				g.t.Error(err)
			}
			for _, s := range seen {
				if s.ContainerID == r.ContainerID && s.IfName == r.IfName && s.Adding {
					var addrs []netip.Addr
					for _, p := range s.Addresses {
						addrs = append(addrs, p.Addr())
					}
					answer(ctx, addrs, tell)
				}
			}
			<-ctx.Done()
		}, slog.New(slog.DiscardHandler))
		if err != nil {
			g.t.Error(err)
		}
	})
	g.t.Cleanup(func() { cancel(); done.Wait() })
	eventually(g.t, "the daemon listens", func() bool {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: gate.SocketPath(g.runDir()), Net: "unixpacket"})
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// sink counts the datagrams that arrive in a namespace, and answers them.
func (n netns) sink(port int) *atomic.Int64 {
	n.t.Helper()
	count := &atomic.Int64{}
	for _, family := range []string{"udp4", "udp6"} {
		var c net.PacketConn
		n.do(func() (err error) { c, err = net.ListenPacket(family, fmt.Sprint(":", port)); return err })
		n.t.Cleanup(func() { c.Close() })
		go func() {
			for buf := make([]byte, 100); ; {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				count.Add(1)
				_, _ = c.WriteTo([]byte("x"), from)
			}
		}()
	}
	return count
}

// stream sends datagrams from ports that begin at the given one, one to each destination every 100 µs, until the test ends. It counts those that found a route.
func (n netns) stream(port int, to ...netip.AddrPort) *atomic.Int64 {
	n.t.Helper()
	count := &atomic.Int64{}
	ctx, cancel := context.WithCancel(n.t.Context())
	var done sync.WaitGroup
	for i, at := range to {
		family := "udp4"
		if at.Addr().Is6() {
			family = "udp6"
		}
		var c *net.UDPConn
		n.do(func() error {
			any, err := net.ListenPacket(family, fmt.Sprint(":", port+i))
			if err == nil {
				c = any.(*net.UDPConn)
			}
			return err
		})
		done.Go(func() {
			defer c.Close()
			tick := time.NewTicker(100 * time.Microsecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				if _, err := c.WriteToUDPAddrPort([]byte("x"), at); err == nil {
					count.Add(1)
				}
				<-tick.C
			}
		})
	}
	n.t.Cleanup(func() { cancel(); done.Wait() })
	return count
}

func ends(port uint16, addrs ...netip.Addr) (all []netip.AddrPort) {
	for _, a := range addrs {
		all = append(all, netip.AddrPortFrom(a, port))
	}
	return all
}
