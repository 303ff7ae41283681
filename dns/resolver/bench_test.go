//go:build linux

package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/twill-cni/twill/store"
)

// BenchmarkServices asks a running Server by UDP for the names of 10,000 Services, one after the other, and tells the quantiles.
func BenchmarkServices(b *testing.B) {
	const services = 10000
	s, _ := newServer(b)
	s.options.Now = time.Now
	c := store.ServiceChanges{Services: map[store.ObjectName]*store.Service{}}
	name := func(i int) store.ObjectName {
		return store.ObjectName{Namespace: fmt.Sprintf("ns%d", i%100), Name: fmt.Sprintf("service-%d", i)}
	}
	for i := range services {
		c.Services[name(i)] = &store.Service{Name: name(i), ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)})}}
	}
	s.options.Zone.Apply(c)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	s.Move(Place{Addrs: []netip.Addr{ip("127.0.53.1")}})
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	conn, err := dns.Dial("udp", "127.0.53.1:53")
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close() // it was for questions only
	client := &dns.Client{Timeout: 10 * time.Second}
	eventually(b, "the server is ready", func() bool { return s.Ready() == nil })
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		n := name(i % services)
		start := time.Now()
		resp, _, err := client.ExchangeWithConn(query(n.Name+"."+n.Namespace+".svc.cluster.local.", dns.TypeA), conn)
		took = append(took, time.Since(start))
		if err != nil || len(resp.Answer) != 1 {
			b.Fatal(resp, err)
		}
	}
	slices.Sort(took)
	for quantile, unit := range map[int]string{50: "p50-µs", 99: "p99-µs"} {
		b.ReportMetric(float64(took[(len(took)-1)*quantile/100].Nanoseconds())/1000, unit)
	}
}
