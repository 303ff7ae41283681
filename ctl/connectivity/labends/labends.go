package labends

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/ctl/probe"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/store/etcd"
	"github.com/twill-cni/twill/store/manifest"
)

// together is how many pods are made, or removed, at one time.
const together = 8

// underlay is the name of the place outside from which node ports are asked.
const underlay = "underlay"

// Options say what is tested.
type Options struct {
	Nodes   []string         // their names; none: all
	Outside []netip.AddrPort // default: the underlay's addresses
	Keep    bool             // Close leaves everything as it is
}

// Cluster is a lab with the test's pods in it. It is a connectivity.Cluster.
type Cluster struct {
	lab     *lab.Lab
	store   *etcd.Store
	options Options
	nodes   []*lab.Node
	places  map[string]netns.Namespace // of pods and nodes, by name
	servers []*probe.Server
	unlock  func()
}

// Open makes the test's pods and Services. The caller closes the Cluster; an error leaves nothing behind. The store stays the caller's.
func Open(ctx context.Context, l *lab.Lab, s *etcd.Store, options Options) (*Cluster, *connectivity.Topology, error) {
	c := &Cluster{lab: l, store: s, options: options, places: map[string]netns.Namespace{}}
	var err error
	if c.nodes, err = chosen(l, options.Nodes); err != nil {
		return nil, nil, err
	}
	if c.unlock, err = lock(l); err != nil {
		return nil, nil, err
	}
	t := &connectivity.Topology{Parts: map[connectivity.Part]string{}}
	if err := c.open(ctx, t); err != nil {
		c.options.Keep = false
		return nil, nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return c, t, nil
}

// open makes all, and leaves it to Close when it fails in between.
func (c *Cluster) open(ctx context.Context, t *connectivity.Topology) error {
	if err := c.clear(ctx); err != nil {
		return fmt.Errorf("remove what an earlier test left: %w", err)
	}
	if err := c.parts(ctx, t); err != nil {
		return err
	}
	if err := c.pods(ctx, t); err != nil {
		return err
	}
	return c.services(ctx, t)
}

func chosen(l *lab.Lab, names []string) ([]*lab.Node, error) {
	if len(names) == 0 {
		return l.Nodes(), nil
	}
	var nodes []*lab.Node
	for _, name := range names {
		n, err := l.Node(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}

// lock keeps a second test out of the lab: the two would remove each other's pods. The lock ends with the process.
func lock(l *lab.Lab) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(l.Dir(), "connectivity.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock lab %s: %w", l.Name(), err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another connectivity test is under way in lab %s: wait for its end", l.Name())
		}
		return nil, fmt.Errorf("lock lab %s: %w", l.Name(), err)
	}
	return func() { f.Close() }, nil
}

// parts asks the daemons what is on. A part that is off on one of the nodes is not run: the test would fail there.
func (c *Cluster) parts(ctx context.Context, t *connectivity.Topology) error {
	var noProxy, noPolicy []string
	for _, n := range c.nodes {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		status, err := api.NewClient(n.RunDir()).Status(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("ask %s what is on: %w", n.Name, err)
		}
		if status.Services == nil {
			noProxy = append(noProxy, n.Name)
		}
		if status.Policies == nil {
			noPolicy = append(noPolicy, n.Name)
		}
		node := connectivity.Node{Name: n.Name, Addresses: n.Addrs(), Asks: true}
		t.Nodes, c.places[n.Name] = append(t.Nodes, node), n.Netns()
	}
	t.LeaveOut(connectivity.PartServices, "--proxy=off", noProxy)
	t.LeaveOut(connectivity.PartPolicies, "--policy=off", noPolicy)
	t.Beyond, c.places[underlay] = []string{underlay}, c.lab.Underlay()
	if t.Outside = c.options.Outside; t.Outside == nil {
		v4, v6 := c.lab.UnderlayGateway()
		for _, a := range []netip.Addr{v4, v6} {
			if a.IsValid() {
				t.Outside = append(t.Outside, netip.AddrPortFrom(a, 0))
			}
		}
	}
	return nil
}

// pods makes a pod of each role on each node.
func (c *Cluster) pods(ctx context.Context, t *connectivity.Topology) error {
	roles := []connectivity.Role{connectivity.Client, connectivity.Server}
	t.Pods = make([]connectivity.Pod, len(c.nodes)*len(roles))
	made := make([]*lab.Pod, len(t.Pods))
	g, adding := errgroup.WithContext(ctx)
	g.SetLimit(together)
	for i := range t.Pods {
		n, role := c.nodes[i/len(roles)], roles[i%len(roles)]
		g.Go(func() (err error) {
			name := n.Name + "-" + string(role)
			options := lab.PodOptions{Name: name, Namespace: connectivity.Namespace, Labels: connectivity.Labels(name, role)}
			if made[i], err = n.AddPod(adding, options); err != nil {
				return err
			}
			t.Pods[i], err = podOf(made[i], role)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var noNames []string
	for i, p := range made {
		c.places[p.Name] = p.Netns()
		var at []netip.AddrPort
		for _, a := range p.Addrs() {
			at = append(at, netip.AddrPortFrom(a, connectivity.Port), netip.AddrPortFrom(a, connectivity.ClosedPort))
		}
		s, err := probe.Serve(ctx, p.Netns(), p.Name, at...)
		if err != nil {
			return fmt.Errorf("serve in pod %s: %w", p.Name, err)
		}
		c.servers = append(c.servers, s)
		if t.Pods[i].NameServers == nil && !slices.Contains(noNames, p.Node.Name) {
			noNames = append(noNames, p.Node.Name)
		}
	}
	t.LeaveOut(connectivity.PartDNS, "--dns=off", noNames)
	return nil
}

// podOf returns what the test knows of a pod, but for its Service.
func podOf(p *lab.Pod, role connectivity.Role) (connectivity.Pod, error) {
	out := connectivity.Pod{Name: p.Name, Node: p.Node.Name, Role: role, Addresses: p.Addrs()}
	err := p.Do(func() error {
		link, err := net.InterfaceByName(p.IfName())
		if err == nil {
			out.MTU = link.MTU
		}
		return err
	})
	if err != nil {
		return out, fmt.Errorf("read the MTU of pod %s: %w", p.Name, err)
	}
	told := p.Result().DNS
	if len(told.Search) == 0 {
		return out, nil // of no cluster's name server
	}
	out.ServiceName = p.Name + "." + told.Search[0]
	for _, text := range told.Nameservers {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return out, fmt.Errorf("pod %s was told of the name server %q: %w", p.Name, text, err)
		}
		out.NameServers = append(out.NameServers, a)
	}
	return out, nil
}

// services makes the pods' Services, where there is a use for them.
func (c *Cluster) services(ctx context.Context, t *connectivity.Topology) error {
	if t.Parts[connectivity.PartServices] != "" && t.Parts[connectivity.PartDNS] != "" {
		return nil
	}
	documents, err := connectivity.Services(t.Pods)
	if err != nil {
		return err
	}
	for i, d := range documents {
		_, svc, err := c.store.Apply(ctx, d)
		if err != nil {
			return err
		}
		if err := t.Pods[i].Serve(svc); err != nil {
			return err
		}
	}
	return nil
}

// Ask asks from inside the pod or node of that name.
func (c *Cluster) Ask(ctx context.Context, from string, q connectivity.Question, patience time.Duration) (probe.Answer, error) {
	place, ok := c.places[from]
	if !ok {
		return probe.Answer{}, fmt.Errorf("ask from %s: %w", from, lab.ErrNotFound)
	}
	return q.Ask(ctx, place, patience), nil
}

// Enforce stores the policies.
func (c *Cluster) Enforce(ctx context.Context) error {
	documents, err := connectivity.Policies()
	if err != nil {
		return err
	}
	for _, d := range documents {
		if _, _, err := c.store.Apply(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// Command is `twillctl trace`, or with policies `twillctl policy test`.
func (c *Cluster) Command(one connectivity.Case) string {
	if one.Kind == connectivity.NodeToPod || one.From == underlay {
		return "twillctl status --lab " + c.lab.Name() // the way from there is not traced
	}
	what := "trace"
	if one.Kind == connectivity.Denied {
		what = "policy test"
	}
	return fmt.Sprintf("twillctl %s %s %s --lab %s", what, connectivity.Namespace+"/"+one.From, one.Target(), c.lab.Name())
}

// Close removes all that the test has made, unless it is to be kept, also with an error.
func (c *Cluster) Close(ctx context.Context) error {
	defer c.unlock()
	for _, s := range c.servers {
		s.Close()
	}
	if c.options.Keep {
		return nil
	}
	return c.clear(ctx)
}

// clear removes the test's objects and pods, of this test or of one that was killed.
func (c *Cluster) clear(ctx context.Context) error {
	var failed []error
	documents, err := connectivity.Policies()
	if err != nil {
		return err
	}
	var pods []*lab.Pod
	var served []connectivity.Pod
	for _, p := range c.lab.Pods() {
		if p.Namespace() == connectivity.Namespace {
			pods, served = append(pods, p), append(served, connectivity.Pod{Name: p.Name})
		}
	}
	services, err := connectivity.Services(served)
	if err != nil {
		return err
	}
	for _, d := range slices.Concat(documents, services) {
		if err := c.remove(ctx, d); err != nil {
			failed = append(failed, err)
		}
	}
	errs := make([]error, len(pods))
	var g errgroup.Group
	g.SetLimit(together)
	for i, p := range pods {
		g.Go(func() error {
			errs[i] = p.Delete(ctx)
			return nil
		})
	}
	_ = g.Wait() // of functions that return nil
	return errors.Join(slices.Concat(failed, errs)...)
}

func (c *Cluster) remove(ctx context.Context, d manifest.Document) error {
	err := c.store.Delete(ctx, d.Kind, d.Name)
	if errors.Is(err, etcd.ErrNotFound) {
		return nil
	}
	return err
}
