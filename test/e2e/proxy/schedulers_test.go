package proxy

import (
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// scheduled gives the first Service of a manifest a scheduler and, if not empty, weights.
func scheduled(manifest, scheduler, weights string) string {
	notes := "twill-cni.github.io/scheduler: " + scheduler
	if weights != "" {
		notes += ", twill-cni.github.io/weights: '" + weights + "'"
	}
	return strings.Replace(manifest, "namespace: $ns}", "namespace: $ns, annotations: {"+notes+"}}", 1)
}

// connect opens a connection from a machine, at a port if that is not 0, and says who is at the other end.
func (r *rig) connect(from string, port int, to string) (*net.TCPConn, string, error) {
	m := r.machines[from]
	var conn net.Conn
	err := m.ns.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: hesitant, LocalAddr: &net.TCPAddr{Port: port}}).Dial("tcp", to)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	name, _, err := greeted(conn, hesitant)
	return conn.(*net.TCPConn), name, err
}

// chosen opens connections one after the other, ends each, and returns who was at the other ends.
func (r *rig) chosen(t *testing.T, from, to string, ports ...int) []string {
	t.Helper()
	var names []string
	for _, port := range ports {
		conn, name, err := r.connect(from, port, to)
		must(t, err)
		_ = conn.SetLinger(0) // the port can be used again
		_ = conn.Close()
		names = append(names, name)
	}
	return names
}

func tallied(names []string) map[string]int {
	out := map[string]int{}
	for _, name := range names {
		out[name]++
	}
	return out
}

// vipsOf are the addresses of the Service "web", with port 80.
func vipsOf(v variables) []string { return []string{v["vip4"] + ":80", "[" + v["vip6"] + "]:80"} }

// schedulersChoose has connections find their endpoints as the schedulers say that decide on each one.
func schedulersChoose(t *testing.T, r *rig, v variables) {
	any24 := make([]int, 24) // from any port
	var ports []int
	for i := range 60 {
		ports = append(ports, 5000+i)
	}
	use := func(scheduler, weights, endpoints string) {
		t.Helper()
		r.apply(t, v, scheduled(inside(), scheduler, weights)+backed(endpoints))
	}
	for _, c := range []struct {
		scheduler, weights string
		want               map[string]int // of 24
	}{
		{"rr", "", map[string]int{"a": 6, "b": 6, "c": 6, "d": 6}},
		{"wrr", "node2=3", map[string]int{"a": 3, "b": 3, "c": 9, "d": 9}},
	} {
		use(c.scheduler, c.weights, "a b c d")
		for _, to := range vipsOf(v) {
			if got := tallied(r.chosen(t, "node1", to, any24...)); !maps.Equal(got, c.want) {
				t.Errorf("%s by %s: %v, want %v", c.scheduler, to, got, c.want)
			}
		}
	}
	for _, scheduler := range []string{"sh", "dh"} {
		use(scheduler, "", "a b c d")
		for _, to := range vipsOf(v) {
			all := map[string]bool{}
			for _, from := range []string{"a", "b", "c", "d", "node1", "node2"} {
				got := tallied(r.chosen(t, from, to, any24...))
				if len(got) != 1 {
					t.Errorf("%s from %s to %s: %v, want one endpoint", scheduler, from, to, got)
				}
				for name := range got {
					all[name] = true
				}
			}
			if one := len(all) == 1; one != (scheduler == "dh") {
				t.Errorf("%s to %s: clients have %v", scheduler, to, slices.Sorted(maps.Keys(all)))
			}
		}
	}
	use("mh", "", "a b c d")
	before := map[string][]string{}
	for _, to := range vipsOf(v) {
		before[to] = r.chosen(t, "node1", to, ports...)
		if len(tallied(before[to])) != 4 {
			t.Errorf("mh by %s: %v, want all endpoints", to, tallied(before[to]))
		}
	}
	use("mh", "", "a b c")
	for to, names := range before {
		moved := 0
		for i, name := range r.chosen(t, "node1", to, ports...) {
			if name != names[i] && names[i] != "d" {
				moved++
			}
		}
		t.Logf("mh by %s: of %d connections to endpoints that stay, %d moved", to, len(names)-tallied(names)["d"], moved)
		if moved > len(names)/10 {
			t.Errorf("mh by %s: %d of %d connections moved with an endpoint that was not theirs", to, moved, len(names))
		}
	}
}

// schedulersSteer has one of three endpoints lose its connections. Those that come then find it, until all have as many.
func schedulersSteer(t *testing.T, r *rig, v variables) {
	const (
		many  = 240
		most  = 3 * many              // until it has to be made up for; by chance it hardly ever is
		pause = 12 * time.Millisecond // between two connections: all take several intervals
		even  = 20                    // as a difference; what one endpoint loses is four times that
	)
	var group sync.WaitGroup
	for i, scheduler := range []string{"lc", "sed", "nq"} {
		own := r.vars(t, 60+i)
		own["ns"] = v["ns"]
		rename := strings.NewReplacer("name: web", "name: "+scheduler)
		r.apply(t, own, rename.Replace(scheduled(inside(), scheduler, "")+backed("b c d")))
		group.Go(func() {
			to, open := vipsOf(own)[i%2], map[string][]*net.TCPConn{}
			defer func() {
				for _, all := range open {
					for _, c := range all {
						_ = c.Close()
					}
				}
			}()
			difference := func() int {
				counts := []int{len(open["b"]), len(open["c"]), len(open["d"])}
				return slices.Max(counts) - slices.Min(counts)
			}
			tick := time.NewTicker(pause)
			defer tick.Stop()
			fill := func(n int, enough func() bool) (opened int) {
				for ; opened < n && !enough(); opened++ {
					<-tick.C
					conn, name, err := r.connect("a", 0, to)
					if err != nil {
						t.Errorf("%s: %v", scheduler, err)
						return opened
					}
					open[name] = append(open[name], conn)
				}
				return opened
			}
			fill(many, func() bool { return false })
			for _, c := range open["d"] {
				_ = c.Close()
			}
			lost := len(open["d"])
			delete(open, "d")
			took := fill(most, func() bool { return difference() <= even })
			t.Logf("%s: %d connections made up for %d that were lost", scheduler, took, lost)
			if d := difference(); d > even {
				t.Errorf("%s: a difference of %d after %d connections, want at most %d", scheduler, d, took, even)
			}
		})
	}
	group.Wait()
}
