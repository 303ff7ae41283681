package kubetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// ProxyOptions say what a kube-proxy is like. The zero value of each field but Node stands for its default.
type ProxyOptions struct {
	Node      string // name of its Node, which should exist: kube-proxy waits for it, half a minute
	Namespace string // file of the network namespace in which it lives; default: the caller's
	Mode      string // default nftables
	Config    string // more keys of KubeProxyConfiguration, as YAML; they win. See kube-proxy's configuration API, v1alpha1
	NoWait    bool   // do not wait for the first rules: for a benchmark, since who waits asks for metrics all the time
}

// KubeProxy is a kube-proxy that runs. Its methods may be called concurrently, except Kill, Restart and Close.
type KubeProxy struct {
	cluster *Cluster
	options ProxyOptions
	dir     string
	metrics netip.AddrPort
	process *process
}

// LaunchKubeProxy starts a kube-proxy as the user system:kube-proxy and waits until its rules are in the kernel for the first time. It
// serves /healthz on port 10256 of all addresses, /metrics on 127.0.0.1:10249, and leaves the limits of connection tracking alone,
// which are the machine's. When it fails, no process is left; rules may be.
func (c *Cluster) LaunchKubeProxy(ctx context.Context, options ProxyOptions) (*KubeProxy, error) {
	dir, err := os.MkdirTemp(c.dir, "kube-proxy-")
	if err != nil {
		return nil, fmt.Errorf("launch kube-proxy of %s: %w", options.Node, err)
	}
	p := &KubeProxy{cluster: c, options: options, dir: dir}
	err = p.configure()
	if err == nil {
		err = p.start(ctx)
	}
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("launch kube-proxy of %s: %w", options.Node, err)
	}
	return p, nil
}

// Kill ends kube-proxy at once and waits until its process is gone. Its rules stay in the kernel, as they do when it ends in good order.
func (p *KubeProxy) Kill() { p.process.kill() }

// Restart kills kube-proxy if it runs, starts it again, and waits until it has written its rules.
func (p *KubeProxy) Restart(ctx context.Context) error {
	p.Kill()
	if err := p.start(ctx); err != nil {
		return fmt.Errorf("restart kube-proxy of %s: %w", p.options.Node, err)
	}
	return nil
}

// PID returns the process ID, for measurements.
func (p *KubeProxy) PID() int { return p.process.cmd.Process.Pid }

// Log returns the end of what kube-proxy printed.
func (p *KubeProxy) Log() string { return tail(p.process.log) }

// Metrics returns what /metrics says.
func (p *KubeProxy) Metrics(ctx context.Context) (string, error) {
	text, err := p.ask(ctx, "/metrics")
	return string(text), err
}

// configure writes the configuration file.
func (p *KubeProxy) configure() error {
	kubeconfig, err := p.cluster.Kubeconfig("system:kube-proxy")
	if err != nil {
		return err
	}
	type fields = map[string]any
	config := fields{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"mode":               cmp.Or(p.options.Mode, "nftables"),
		"hostnameOverride":   p.options.Node,
		"clientConnection":   fields{"kubeconfig": kubeconfig},
		"healthzBindAddress": "0.0.0.0:10256",
		"metricsBindAddress": "127.0.0.1:10249",
		"oomScoreAdj":        0,
		"conntrack":          fields{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
	var more fields
	if err := yaml.Unmarshal([]byte(p.options.Config), &more); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	maps.Copy(config, more)
	text, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	if p.metrics, err = local(config["metricsBindAddress"]); err != nil {
		return fmt.Errorf("read metricsBindAddress: %w", err)
	}
	return os.WriteFile(filepath.Join(p.dir, "config.yaml"), text, 0o600)
}

// local returns where to reach a listener from its own namespace: one that listens on all addresses is on loopback, too.
func local(listen any) (netip.AddrPort, error) {
	text, ok := listen.(string)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%v is no address", listen)
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil || !at.Addr().IsUnspecified() {
		return at, err
	}
	loopback := netip.IPv6Loopback()
	if at.Addr().Is4() {
		loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(loopback, at.Port()), nil
}

func (p *KubeProxy) start(ctx context.Context) error {
	families, err := p.families()
	if err != nil {
		return err
	}
	p.process, err = program{path: filepath.Join(p.cluster.options.Programs, "kube-proxy"), namespace: p.options.Namespace, dir: p.dir,
		args: []string{"--config=" + filepath.Join(p.dir, "config.yaml")}}.start()
	if err != nil {
		return err
	}
	if p.options.NoWait {
		return nil
	}
	return p.process.await(ctx, p.cluster.options.Timeout, func(ctx context.Context) error { return p.synced(ctx, families) })
}

// families returns those that kube-proxy serves, by the names in its metrics.
func (p *KubeProxy) families() ([]string, error) {
	families := []string{"IPv4"}
	err := inside(p.options.Namespace, func() error {
		disabled, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && strings.TrimSpace(string(disabled)) == "0" {
			families = append(families, "IPv6")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find out whether %s has IPv6: %w", p.options.Node, err)
	}
	return families, nil
}

// synced returns nil when the rules of all families have been written. /healthz cannot say so: it is content, and lists the families, before
// the first of them is (Proxier.SyncLoop in pkg/proxy). The metric has a value for a family after its first success.
func (p *KubeProxy) synced(ctx context.Context, families []string) error {
	text, err := p.Metrics(ctx)
	if err != nil {
		return err
	}
	for _, family := range families {
		if !strings.Contains(text, fmt.Sprintf("\nkubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=%q} ", family)) {
			return fmt.Errorf("the rules of %s are not written", family)
		}
	}
	return nil
}

// ask sends a request to the port of the metrics, from kube-proxy's own namespace.
func (p *KubeProxy) ask(ctx context.Context, path string) ([]byte, error) {
	t := transport(p.options.Namespace)
	t.DisableKeepAlives = true
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.metrics.String()+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask kube-proxy for %s: %w", path, err)
	}
	answer, err := (&http.Client{Transport: t}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask kube-proxy: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	if err != nil {
		return nil, fmt.Errorf("ask kube-proxy for %s: %w", path, err)
	}
	return text, nil
}
