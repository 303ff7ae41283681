//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// putPeers stores the leases of peers from the first to the last but one, many in a transaction.
func (c *cluster) putPeers(first, last int) {
	c.t.Helper()
	const most = 128 // etcd's limit of operations in a transaction
	var ops []clientv3.Op
	for n := first; n < last; n++ {
		key := fmt.Sprintf("/coreos.com/network/subnets/10.%d.%d.0-24", 128+n>>8, n&0xff)
		value := fmt.Sprintf(`{"PublicIP":"172.%d.%d.%d","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:%02x:%02x:%02x"}}`,
			16+n>>16, n>>8&0xff, n&0xff, n>>16, n>>8&0xff, n&0xff)
		if ops = append(ops, clientv3.OpPut(key, value)); len(ops) == most || n == last-1 {
			_, err := c.client.Txn(context.Background()).Then(ops...).Commit()
			must(c.t, err)
			ops = nil
		}
	}
}

// status returns a value of /proc/<pid>/status in KiB.
func (n *testNode) status(key string) int {
	n.c.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	must(n.c.t, err)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			v, err := strconv.Atoi(strings.Fields(rest)[0])
			must(n.c.t, err)
			return v
		}
	}
	n.c.t.Fatalf("no %s in /proc/<pid>/status", key)
	return 0
}

// cpu returns the processor time that the daemon's threads have used.
func (n *testNode) cpu() time.Duration {
	n.c.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", n.cmd.Process.Pid))
	must(n.c.t, err)
	var total time.Duration
	for _, f := range files {
		data, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		must(n.c.t, err)
		ns, err := strconv.Atoi(strings.Fields(string(data))[0])
		must(n.c.t, err)
		total += time.Duration(ns)
	}
	return total
}

// BenchmarkColdStart measures from exec to a ready node that reaches all peers, and what the daemon holds then. A run takes half a minute, most of it to
// measure the idle daemon: use -benchtime=1x.
func BenchmarkColdStart(b *testing.B) {
	for _, peers := range []int{1000, 5000, 20_000} {
		b.Run(strconv.Itoa(peers), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				c := newCluster(b, `{"Network":"10.128.0.0/9","SubnetMin":"10.254.0.0","Backend":{"Type":"vxlan"}}`)
				c.putPeers(0, peers)
				a := c.addNode()
				b.StartTimer()
				a.start()
				a.eventuallyReady()
				b.StopTimer()
				b.ReportMetric(float64(a.status("VmRSS"))/1024, "MiB-RSS")
				b.ReportMetric(float64(a.status("VmHWM"))/1024, "MiB-peak")
				b.ReportMetric(a.cpu().Seconds(), "cpu-s")
				time.Sleep(5 * time.Second) // for the garbage of the start
				before, begin := a.cpu(), time.Now()
				time.Sleep(20 * time.Second)
				b.ReportMetric(100*(a.cpu()-before).Seconds()/time.Since(begin).Seconds(), "%idle-cpu")
				b.StartTimer()
			}
		})
	}
}
