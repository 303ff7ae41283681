package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/test/kubetest"
)

// corefile is what kubeadm has CoreDNS do for the names of a cluster. The other zones and plugins of kubeadm's say nothing about them.
const corefile = `cluster.local:%[1]d in-addr.arpa:%[1]d {
	bind %[2]s
	errors
	kubernetes cluster.local in-addr.arpa {
		kubeconfig %[3]s
		pods insecure
		ttl 30
	}
	cache 30 {
		disable success cluster.local
		disable denial cluster.local
	}
	loadbalance
}
`

const corePort = 5300

// namer is a name server that pods of the node ask.
type namer struct {
	name  string
	at    netip.AddrPort
	pid   int
	add   func(madeUp) error // where it looks for Services
	fail  func(error) error  // adds what the program said
	took  map[string]samples // by kind of question, one at a time
	load  []namerLoad
	fresh samples // from a Service that is written to its first answer
}

// namerLoad is what questions cost when many ask at once.
type namerLoad struct {
	each   samples
	second float64 // questions answered in a second
	cpu    time.Duration
}

// dnsKinds are the questions of a C library that looks a Service up: with the search list of another namespace, what it asks first is not there.
var dnsKinds = []struct {
	name, ask string // of a Service's name
	qtype     uint16
	want      int
}{
	{"A", "%s.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess},
	{"SRV", "_http._tcp.%s.default.svc.cluster.local.", dns.TypeSRV, dns.RcodeSuccess},
	{"a name that is not there", "%s.default.shop.svc.cluster.local.", dns.TypeA, dns.RcodeNameError},
}

// runDNS asks twilld and CoreDNS in turns, from one pod, over the same link. They run on one node; CoreDNS has its Services from an API server there.
func runDNS(b bench) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	if err := settle(); err != nil {
		return err
	}
	services := b.scale(10_000)
	l, err := lab.New(lab.Options{Name: "dns", Nodes: 1, BinDir: b.bin, Proxy: "nftables", DaemonArgs: []string{"--dns=on"}})
	if err != nil {
		return err
	}
	if err := l.Up(ctx); err != nil {
		return err
	}
	node := l.Nodes()[0]
	pod, err := node.AddPod(ctx, lab.PodOptions{})
	if err != nil {
		return err
	}
	ours, err := twilldNames(ctx, l, pod, services)
	if err != nil {
		return err
	}
	cluster, err := kubetest.Launch(ctx, kubetest.Options{Addr: netip.MustParseAddr("127.0.0.1"), Namespace: node.Netns().Path(), Timeout: limit})
	if err != nil {
		return err
	}
	defer cluster.Close()
	theirs, stop, err := coreNames(ctx, cluster, pod, services)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	namers := []*namer{theirs, ours}
	for _, n := range namers {
		if err := n.settled(ctx, pod, services); err != nil {
			return n.fail(err)
		}
	}
	for range 3 { // in turns
		for _, n := range namers {
			if err := b.askAround(ctx, n, pod, services); err != nil {
				return n.fail(err)
			}
		}
	}
	if err := b.newNames(ctx, namers, pod); err != nil {
		return err
	}
	return printNames(namers, services)
}

// twilldNames is the lab's own daemon, with Services in the lab's etcd.
func twilldNames(ctx context.Context, l *lab.Lab, pod *lab.Pod, services int) (*namer, error) {
	client, err := l.Etcd().Client()
	if err != nil {
		return nil, err
	}
	r := inEtcd(client)
	n := &namer{name: "twilld", at: netip.AddrPortFrom(pod.Gateways()[0], 53), pid: pod.Node.DaemonPID(), took: map[string]samples{}}
	n.add = func(m madeUp) error { return r.add(ctx, m) }
	n.fail = func(err error) error {
		log, logErr := pod.Node.DaemonLog()
		return fmt.Errorf("twilld: %w; its last words: %s", errors.Join(err, logErr), log[max(0, len(log)-2000):])
	}
	return n, r.grow(ctx, services)
}

// coreNames starts CoreDNS on the node.
func coreNames(ctx context.Context, cluster *kubetest.Cluster, pod *lab.Pod, services int) (n *namer, stop func() error, err error) {
	r, err := inKubernetes(cluster)
	if err != nil {
		return nil, nil, err
	}
	if err := r.grow(ctx, services); err != nil {
		return nil, nil, err
	}
	at := netip.AddrPortFrom(pod.Gateways()[0], corePort)
	conf := "/run/Corefile"
	if err := os.WriteFile(conf, fmt.Appendf(nil, corefile, corePort, at.Addr(), cluster.Admin()), 0o600); err != nil {
		return nil, nil, err
	}
	command := daemonCommand{"CoreDNS", []string{filepath.Join(cmp.Or(os.Getenv("TWILL_KUBE"), ".cache/kube"), "coredns"), "-conf", conf}}
	var d *daemon
	err = pod.Node.Do(func() (err error) {
		d, err = command.start()
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	n = &namer{name: "CoreDNS", at: at, pid: d.cmd.Process.Pid, took: map[string]samples{}, fail: d.failed}
	n.add = func(m madeUp) error { return r.add(ctx, m) }
	return n, func() error { return errors.Join(d.cmd.Process.Kill(), r.client.Close()) }, nil
}

// settled waits until the last Service has a name, and for rest.
func (n *namer) settled(ctx context.Context, pod *lab.Pod, services int) error {
	err := eventually(ctx, n.name+" to know all Services", func() (bool, error) {
		c, err := n.dial(pod)
		if err != nil {
			return false, err
		}
		defer c.Close() // it was for questions only
		return c.ask(0, services-1) == nil, nil
	})
	if err != nil {
		return err
	}
	_, err = restedProcess(n.pid)
	return err
}

// asker is a pod's socket towards a name server.
type asker struct{ *dns.Conn }

func (n *namer) dial(pod *lab.Pod) (asker, error) {
	var conn net.Conn
	err := pod.Do(func() (err error) {
		conn, err = net.Dial("udp", n.at.String())
		return err
	})
	return asker{&dns.Conn{Conn: conn}}, err
}

// ask wants the right answer to a question of a kind about a Service.
func (a asker) ask(kind, service int) error {
	k := dnsKinds[kind]
	client := dns.Client{Timeout: 5 * time.Second}
	name := fmt.Sprintf(k.ask, common(service).name())
	resp, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, k.qtype), a.Conn)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", name, err)
	}
	if resp.Rcode != k.want || k.want == dns.RcodeSuccess && len(resp.Answer) != 1 {
		return fmt.Errorf("ask for %s: %s with %d records", name, dns.RcodeToString[resp.Rcode], len(resp.Answer))
	}
	return nil
}

// askAround asks one question at a time, and then many at once.
func (b bench) askAround(ctx context.Context, n *namer, pod *lab.Pod, services int) error {
	c, err := n.dial(pod)
	if err != nil {
		return err
	}
	defer c.Close() // it was for questions only
	for kind, k := range dnsKinds {
		for i := range b.scale(10_000) {
			start := time.Now()
			if err := c.ask(kind, i*7919%services); err != nil {
				return err
			}
			n.took[k.name] = append(n.took[k.name], time.Since(start))
		}
	}
	l, err := b.askAtOnce(ctx, n, pod, services)
	n.load = append(n.load, l)
	return err
}

// askers is how many ask at once: those of a node with many pods, which all start.
const askers = 64

func (b bench) askAtOnce(ctx context.Context, n *namer, pod *lab.Pod, services int) (l namerLoad, err error) {
	before, err := restedProcess(n.pid)
	if err != nil {
		return l, err
	}
	each, times := make([]samples, askers), b.scale(1000)
	g, _ := errgroup.WithContext(ctx)
	start := time.Now()
	for who := range askers {
		g.Go(func() error {
			c, err := n.dial(pod)
			if err != nil {
				return err
			}
			defer c.Close() // it was for questions only
			for i := range times {
				start := time.Now()
				if err := c.ask(i%len(dnsKinds), (who*times+i)*7919%services); err != nil {
					return err
				}
				each[who] = append(each[who], time.Since(start))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return l, err
	}
	total := askers * times
	l.second = float64(total) / time.Since(start).Seconds()
	after, err := restedProcess(n.pid)
	l.each, l.cpu = slices.Concat(each...), (after-before)/time.Duration(total)
	return l, err
}

// newNames writes Services, and waits for the name of each.
func (b bench) newNames(ctx context.Context, namers []*namer, pod *lab.Pod) error {
	for i := range max(b.scale(50), 3) {
		for _, n := range namers {
			m := common(uncommon + i)
			c, err := n.dial(pod)
			if err != nil {
				return err
			}
			start := time.Now()
			if err := n.add(m); err != nil {
				return n.fail(err)
			}
			for c.ask(0, m.number) != nil {
				if time.Since(start) > limit {
					return n.fail(fmt.Errorf("%s has no name after %v", m.name(), limit))
				}
				time.Sleep(200 * time.Microsecond) // each question costs both
			}
			n.fresh = append(n.fresh, time.Since(start))
			_ = c.Close() // it was for questions only
		}
	}
	return nil
}

func printNames(namers []*namer, services int) error {
	rows := [][]string{{fmt.Sprintf("%d Services", services), "p50", "p99", "p99.9"}}
	row := func(name string, of func(*namer) samples) {
		var all []samples
		for _, n := range namers {
			s := of(n)
			all = append(all, s)
			rows = append(rows, []string{n.name + ", " + name, ms(s.quantile(.5)), ms(s.quantile(.99)), ms(s.quantile(.999))})
		}
		rows = append(rows, []string{"  twilld / CoreDNS", ratio(all[1].quantile(.5), all[0].quantile(.5)), ratio(all[1].quantile(.99), all[0].quantile(.99)),
			ratio(all[1].quantile(.999), all[0].quantile(.999))})
	}
	for _, k := range dnsKinds {
		row(k.name+", one at a time", func(n *namer) samples { return n.took[k.name] })
	}
	row(fmt.Sprintf("%d at a time", askers), func(n *namer) samples { return n.busiest().each })
	row("a new Service", func(n *namer) samples { return n.fresh })
	table(rows...)
	fmt.Println()
	rows = [][]string{{"", "answers a second", "CPU an answer", "memory at rest"}}
	for _, n := range namers {
		u, err := processUsage(n.pid)
		if err != nil {
			return n.fail(err)
		}
		l := n.busiest()
		rows = append(rows, []string{n.name, fmt.Sprintf("%.0f", l.second), fmt.Sprintf("%.1f µs", float64(l.cpu)/float64(time.Microsecond)), mib(u.rss)})
	}
	table(rows...)
	fmt.Println("twilld is the whole daemon, with the service proxy of all these Services")
	return nil
}

// busiest is the turn with the median rate.
func (n *namer) busiest() namerLoad {
	return slices.SortedFunc(slices.Values(n.load), func(a, b namerLoad) int { return cmp.Compare(a.second, b.second) })[len(n.load)/2]
}
