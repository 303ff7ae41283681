package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// The rivals. Both proxies read the same API server; fromEtcd is twilld on the same Services kept in etcd.
const (
	kubeProxy = "kube-proxy"
	twill     = "twilld"
	fromEtcd  = "twilld, from etcd"
)

// proxyWorld is a control plane, and as many nodes as are asked for.
type proxyWorld struct {
	bench
	kube   *kubetest.Cluster
	api    *registry // Services in Kubernetes
	leases *cluster
	plain  *registry // Services in etcd
	nodes  int
}

// withProxies prepares the sandbox and runs measure with an API server that knows no Services.
func withProxies(b bench, measure func(context.Context, *proxyWorld) error) (err error) {
	ctx := context.Background()
	if err := settleProxies(ctx); err != nil {
		return err
	}
	w := &proxyWorld{bench: b, nodes: 1}
	if w.leases, err = startClusterAt(ctx, proxyEtcd, proxyEtcdStart); err != nil {
		return err
	}
	defer w.leases.close()
	w.plain = inEtcd(w.leases.client)
	addr := netip.MustParseAddr(controlPlane)
	w.kube, err = kubetest.Launch(ctx, kubetest.Options{Addr: addr, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, Timeout: limit})
	if err != nil {
		return err
	}
	defer w.kube.Close()
	if w.api, err = inKubernetes(w.kube); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.api.client.Close()) }()
	return measure(ctx, w)
}

// proxied is a node of its own with the service proxy that runs there.
type proxied struct {
	name    string
	node    *proxyNode
	pid     int
	started time.Time
	kill    func() error
	failed  func(error) error // adds what the program said
}

// start makes a node, new as after its first boot, and starts a service proxy on it.
func (w *proxyWorld) start(ctx context.Context, name string) (*proxied, error) {
	w.nodes++
	node, err := newProxyNode(ctx, w.nodes)
	if err != nil {
		return nil, err
	}
	addr := netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", w.nodes))
	err = w.kube.AddNode(ctx, kubetest.Node{Name: node.name, Addrs: []netip.Addr{addr}})
	if err != nil {
		return nil, errors.Join(err, node.close())
	}
	r := &proxied{name: name, node: node, started: time.Now()}
	if name == kubeProxy {
		err = w.startKubeProxy(ctx, r)
	} else {
		err = w.startTwilld(r)
	}
	if err != nil {
		return nil, errors.Join(err, node.close())
	}
	return r, nil
}

// startKubeProxy starts it with its defaults; it knows the pods' network, as twilld does.
func (w *proxyWorld) startKubeProxy(ctx context.Context, r *proxied) error {
	p, err := w.kube.LaunchKubeProxy(ctx, kubetest.ProxyOptions{Node: r.node.name, Namespace: r.node.node.Path(), NoWait: true,
		Config: "clusterCIDR: " + podRange})
	if err != nil {
		return err
	}
	r.pid = p.PID()
	r.kill = func() error { p.Kill(); return nil }
	r.failed = func(err error) error { return fmt.Errorf("kube-proxy: %w; its last words: %s", err, p.Log()) }
	return nil
}

func (w *proxyWorld) startTwilld(r *proxied) error {
	command := w.twilld()
	command.args = slices.DeleteFunc(command.args, func(arg string) bool {
		return strings.HasPrefix(arg, "--etcd-endpoints=") || strings.HasPrefix(arg, "--node-name=")
	})
	command.args = append(command.args, "--etcd-endpoints="+proxyEtcd, "--node-name="+r.node.name, "--proxy=nftables")
	if r.name == twill {
		command.args = append(command.args, "--kubeconfig="+w.kube.Admin())
	}
	var d *daemon
	err := r.node.node.Do(func() (err error) {
		d, err = command.start()
		return err
	})
	if err != nil {
		return err
	}
	r.pid, r.kill, r.failed = d.cmd.Process.Pid, d.stop, d.failed
	return nil
}

// stop ends the proxy and removes its node.
func (r *proxied) stop() error { return errors.Join(r.kill(), r.node.close()) }

// spread is on how many Services, evenly spread, it is tried whether all are served.
const spread = 50

// serves waits until the first n Services answer, and returns when they did.
func (r *proxied) serves(n int) (at time.Time, err error) {
	any := func(call) bool { return true }
	err = r.node.inClient(func() error {
		tries := min(n, spread)
		for i := tries; i > 0; i-- { // the last one first: most write it last
			if at, err = r.node.until(common(i*n/tries-1).at(), any, 5*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return at, r.failed(err)
	}
	return at, nil
}

// metric returns the sum of the values that the proxy's own metrics have under that name, for IPv4 where they tell families apart.
func (r *proxied) metric(ctx context.Context, name string) (float64, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: r.node.node.Dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10249/metrics", nil)
	if err != nil {
		return 0, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", r.name, err)
	}
	defer answer.Body.Close() // it was read only
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", r.name, err)
	}
	sum := 0.0
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' || strings.Contains(rest, `ip_family="IPv6"`) {
			continue
		}
		fields := strings.Fields(rest)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("metrics of %s: %s: %w", r.name, name, err)
		}
		sum += v
	}
	return sum, nil
}

// rest waits until the proxy uses no more processor time, and returns what it has used.
func (r *proxied) rest() (time.Duration, error) {
	used, err := restedProcess(r.pid)
	if err != nil {
		return 0, r.failed(err)
	}
	return used, nil
}
