package kubetest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
)

// Controllers say what kube-controller-manager and kube-scheduler are like. With them a cluster does what it does elsewhere: Nodes get pod
// networks, Deployments get Pods, Pods get a node and a service account's token. The zero value of each field stands for its default.
type Controllers struct {
	PodCIDRs             []netip.Prefix // of all nodes; at most one a family; default 10.244.0.0/16 and fd00:244::/56
	NodeMask4, NodeMask6 int            // length of the prefix that a node gets out of them; default 24 and 64
	NoPodCIDRs           bool           // nodes get none: a test gives them
	Args                 []string       // more flags for kube-controller-manager; they win
}

var (
	defaultPodsV4 = netip.MustParsePrefix("10.244.0.0/16")
	defaultPodsV6 = netip.MustParsePrefix("fd00:244::/56")
)

// Where the controllers serve /healthz, on loopback of their own namespace.
const (
	controllersPort = 10257
	schedulerPort   = 10259
)

func (o *Controllers) complete(server netip.Addr) (*Controllers, error) {
	filled := *o
	filled.NodeMask4, filled.NodeMask6 = cmp.Or(o.NodeMask4, 24), cmp.Or(o.NodeMask6, 64)
	if len(o.PodCIDRs) == 0 {
		filled.PodCIDRs = []netip.Prefix{defaultPodsV4, defaultPodsV6}
		if server.Is6() {
			filled.PodCIDRs = []netip.Prefix{defaultPodsV6, defaultPodsV4}
		}
	}
	if len(filled.PodCIDRs) > 2 || len(filled.PodCIDRs) == 2 && filled.PodCIDRs[0].Addr().Is4() == filled.PodCIDRs[1].Addr().Is4() {
		return nil, fmt.Errorf("the pods' networks %v are more than one a family", filled.PodCIDRs)
	}
	return &filled, nil
}

// KillControllers ends kube-controller-manager and kube-scheduler at once and waits until their processes are gone. StartControllers starts
// them again.
func (c *Cluster) KillControllers() {
	c.controllers.kill()
	c.scheduler.kill()
}

// StartControllers starts kube-controller-manager and kube-scheduler after KillControllers.
func (c *Cluster) StartControllers(ctx context.Context) error {
	if c.options.Controllers == nil {
		return errors.New("start controllers: the cluster was launched without")
	}
	c.KillControllers()
	if err := c.startControllers(ctx); err != nil {
		return fmt.Errorf("start controllers: %w", err)
	}
	return nil
}

// ControllersLog returns the end of what kube-controller-manager and kube-scheduler printed.
func (c *Cluster) ControllersLog() string {
	var logs []string
	for _, p := range []*process{c.controllers, c.scheduler} {
		if p != nil {
			logs = append(logs, tail(p.log))
		}
	}
	return strings.Join(logs, "\n")
}

// startControllers starts both and waits until they work: Pods can be made from then on.
func (c *Cluster) startControllers(ctx context.Context) error {
	var err error
	if c.controllers, err = c.control("kube-controller-manager", c.controllerFlags()).start(); err != nil {
		return err
	}
	if c.scheduler, err = c.control("kube-scheduler", c.schedulerFlags()).start(); err != nil {
		return err
	}
	err = c.controllers.await(ctx, c.options.Timeout, func(ctx context.Context) error {
		if err := c.healthy(ctx, controllersPort); err != nil {
			return err
		}
		// Without it, a Pod is refused.
		_, err := c.Do(ctx, Request{Path: "/api/v1/namespaces/default/serviceaccounts/default"})
		return err
	})
	if err != nil {
		return err
	}
	return c.scheduler.await(ctx, c.options.Timeout, func(ctx context.Context) error { return c.healthy(ctx, schedulerPort) })
}

func (c *Cluster) control(name string, flags []string) program {
	return program{path: filepath.Join(c.options.Programs, name), namespace: c.options.Namespace, dir: c.dir, args: flags}
}

func (c *Cluster) controllerFlags() []string {
	o := c.options.Controllers
	flags := []string{
		// The administrator's rights, and not an account for each controller, whose tokens would take seconds to make.
		"--kubeconfig=" + c.Admin(),
		"--leader-elect=false",
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", controllersPort),
		"--kube-api-qps=200", "--kube-api-burst=400",
		"--service-account-private-key-file=" + filepath.Join(c.dir, "tokens.key"),
		"--root-ca-file=" + filepath.Join(c.dir, "ca.crt"),
		"--configure-cloud-routes=false",
	}
	if !o.NoPodCIDRs {
		flags = append(flags, "--allocate-node-cidrs=true", "--cluster-cidr="+list(o.PodCIDRs), "--service-cluster-ip-range="+list(c.options.ServiceCIDRs))
		for _, p := range o.PodCIDRs {
			if p.Addr().Is4() {
				flags = append(flags, fmt.Sprintf("--node-cidr-mask-size-ipv4=%d", o.NodeMask4))
			} else {
				flags = append(flags, fmt.Sprintf("--node-cidr-mask-size-ipv6=%d", o.NodeMask6))
			}
		}
	}
	return append(flags, o.Args...)
}

func (c *Cluster) schedulerFlags() []string {
	return []string{"--kubeconfig=" + c.Admin(), "--leader-elect=false", "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", schedulerPort),
		"--kube-api-qps=200", "--kube-api-burst=400"}
}

// healthy returns nil when the process on a port of the control plane's namespace says that it works.
func (c *Cluster) healthy(ctx context.Context, port int) error {
	t := transport(c.options.Namespace)
	t.DisableKeepAlives = true
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // its certificate is one that it made itself
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/healthz", port), nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: t}).Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", request.URL, answer.Status)
	}
	return nil
}

func list(prefixes []netip.Prefix) string {
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ",")
}
