package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/ipam/filestore"
)

// runIPAM measures one allocation and its release while 10, 1,000 and 60,000 leases stand, in a /16 on tmpfs.
func runIPAM(b bench) error {
	if err := settle(); err != nil {
		return err
	}
	ctx := context.Background()
	cfg, err := ipam.ParseConfig([]byte(`{"ipam":{"type":"twill-ipam","dataDir":"/run/twill/ipam","ranges":[[{"subnet":"10.99.0.0/16"}]]}}`))
	if err != nil {
		return err
	}
	netns, err := makePods(1)
	if err != nil {
		return err
	}
	store, err := filestore.Open(cfg, "bench")
	if err != nil {
		return err
	}
	request := func(i int) ipam.Request {
		return ipam.Request{Owner: ipam.Owner{ContainerID: fmt.Sprintf("pod%d", i), IfName: "eth0"}, Netns: netns[0]}
	}
	rows := [][]string{{"leases", "allocate p50", "p99", "release p50", "p99", "beside 10 leases"}}
	held := 0
	var first time.Duration
	for _, n := range []int{10, 1000, b.scale(60000)} {
		for ; held < n; held++ {
			if _, err := store.Allocate(ctx, request(held)); err != nil {
				return err
			}
		}
		var allocate, release samples
		for i := range 1000 {
			r := request(1_000_000 + i)
			start := time.Now()
			if _, err := store.Allocate(ctx, r); err != nil {
				return err
			}
			allocate = append(allocate, time.Since(start))
			start = time.Now()
			if _, err := store.Release(ctx, r.Owner); err != nil {
				return err
			}
			release = append(release, time.Since(start))
		}
		if first == 0 {
			first = allocate.quantile(.5)
		}
		rows = append(rows, []string{fmt.Sprint(n), us(allocate.quantile(.5)), us(allocate.quantile(.99)),
			us(release.quantile(.5)), us(release.quantile(.99)), ratio(allocate.quantile(.5), first)})
	}
	table(rows...)
	return os.RemoveAll("/run/twill")
}

// us prints a duration in microseconds.
func us(d time.Duration) string { return fmt.Sprintf("%.0f us", float64(d)/float64(time.Microsecond)) }
