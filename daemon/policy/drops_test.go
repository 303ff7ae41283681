package policy

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/policy/gate"
)

func packet(prefix, src, dst string, port uint16) Packet {
	return Packet{Prefix: prefix, Protocol: 6, Src: daemontest.Addrs(src)[0], Dst: daemontest.Addrs(dst)[0], Port: port}
}

func TestDescribe(t *testing.T) {
	r := begun(t, kerneltest.NewTables())
	for _, tt := range []struct {
		name string
		p    Packet
		want string
	}{
		{"ingress", packet(gate.LogIngress, "10.1.2.3", "10.1.1.2", 81), "ingress of shop/web 10.1.1.2, peer shop/stranger 10.1.2.3, TCP 81, [shop/web]"},
		{"unknown source", packet(gate.LogUnknown, "10.1.1.9", "10.1.2.2", 80), "unknown of  10.1.1.9, peer shop/client 10.1.2.2, TCP 80, []"},
		{"unknown destination", packet(gate.LogUnknown, "10.1.2.2", "10.1.1.9", 80), "unknown of  10.1.1.9, peer shop/client 10.1.2.2, TCP 80, []"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := r.describe(tt.p)
			have := fmt.Sprintf("%s of %s %s, peer %s %s, %s %d, %v", d.Direction, d.Pod, d.PodAddress, d.Peer, d.PeerAddress, d.Protocol, d.Port, d.Policies)
			if have != tt.want || d.Reason == "" {
				t.Errorf("have %s (%s)\nwant %s", have, d.Reason, tt.want)
			}
		})
	}
}

// What is logged is one line a minute for each kind, with the number of the others.
func TestLogIsLimited(t *testing.T) {
	log, now := &daemontest.Log{}, time.Unix(1_000_000, 0)
	d := newDrops(func(p Packet) api.Drop {
		return api.Drop{Direction: "ingress", PodAddress: p.Dst, PeerAddress: p.Src, Protocol: "TCP", Port: p.Port}
	}, NewMetrics(prometheus.NewRegistry()), slog.New(slog.NewTextHandler(log, nil)))
	d.now = func() time.Time { return now }
	for range 5 {
		d.add(packet("", "10.0.0.1", "10.0.0.2", 80))
	}
	d.add(packet("", "10.0.0.1", "10.0.0.2", 81))
	if n := strings.Count(log.String(), "refused"); n != 2 {
		t.Errorf("%d lines: %s", n, log)
	}
	now = now.Add(logEvery)
	d.sweep()
	if n := strings.Count(log.String(), "suppressed=3"); n != 1 || len(d.kinds) != 1 {
		t.Errorf("%d lines tell of what was suppressed, %d kinds: %s", n, len(d.kinds), log)
	}
	now = now.Add(logEvery)
	d.sweep()
	if len(d.kinds) != 0 {
		t.Errorf("%d kinds are kept for nothing", len(d.kinds))
	}
	for i := range logKinds + 10 {
		d.add(packet("", "10.0.0.1", "10.0.0.2", uint16(i)))
	}
	if len(d.kinds) != logKinds || d.more != 10 {
		t.Errorf("%d kinds and %d more", len(d.kinds), d.more)
	}
	last := d.Last()
	if len(last) != dropsKept || last[dropsKept-1].Port != logKinds+9 || last[0].Port != logKinds+10-dropsKept {
		t.Errorf("%d drops from %d to %d", len(last), last[0].Port, last[len(last)-1].Port)
	}
}

// A listener that fails is started again.
func TestListenAgain(t *testing.T) {
	tries := make(chan int, 2)
	n := 0
	listen := func(ctx context.Context, each func(Packet), lost func(int)) error {
		n++
		tries <- n
		if n == 1 {
			return fmt.Errorf("group 84 has another reader")
		}
		lost(3)
		each(packet(gate.LogIngress, "10.1.2.3", "10.1.1.2", 81))
		<-ctx.Done()
		return ctx.Err()
	}
	r := begun(t, kerneltest.NewTables(), func(o *Options) { o.Drops = listen })
	r.until("the drop", func() bool { return len(r.drops.Last()) == 1 })
	if r.figure("twill_policy_log_messages_lost_total") != 3 || !strings.Contains(r.log.String(), "another reader") {
		t.Error(r.log)
	}
}

type counters map[string]uint64

func (c counters) Counters(_ context.Context, _ kernel.TableFamily, _ string, chains ...string) (out []nft.RuleCount, err error) {
	for _, chain := range chains {
		out = append(out, nft.RuleCount{Chain: chain, Packets: c[chain]})
	}
	return out, nil
}

func TestCountDrops(t *testing.T) {
	registry, c := prometheus.NewRegistry(), counters{gate.ChainRefuseEgress: 5}
	read := CountDrops(registry, c)
	r := &rig{t: t, registry: registry}
	if n := r.figure("twill_policy_drops_total"); n != 5 {
		t.Errorf("%v drops", n)
	}
	c[gate.ChainRefuseEgress] = 2 // the chain was written anew
	if n := r.figure("twill_policy_drops_total"); n != 7 {
		t.Errorf("%v drops", n)
	}
	for _, n := range []uint64{4, 0} { // before and after the next one
		c[gate.ChainRefuseEgress] = n
		read(t.Context())
	}
	c[gate.ChainRefuseEgress] = 6 // more than there were, before anybody asks
	if n := r.figure("twill_policy_drops_total"); n != 15 {
		t.Errorf("%v drops", n)
	}
}
