package kubetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// SiteOptions say what a site is like. The zero value of each field stands for its default.
type SiteOptions struct {
	Machines int                  // they are called node-1, node-2 and so on; default 2
	Cluster  Options              // Namespace and Addr are the site's to say; Controllers are default ones when there are none
	IPv6     bool                 // is the first family: of kube-apiserver, Services and Nodes; default IPv4
	Images   []Image              // beside StandardImages
	Archives []string             // of more images
	Prepare  func(*Machine) error // is called for each machine before its kubelet is started: for a CNI configuration, for example
	Kubelet  string               // as in MachineOptions
}

// siteTimeout is for each process of a site to be ready: ten large programs start at once.
const siteTimeout = 3 * time.Minute

// Site is a cluster as it is elsewhere: an underlay, a control plane on it with a host of its own, and machines with kubelets. It has no network
// for Pods: its Nodes are NotReady until somebody gives them one.
type Site struct {
	Underlay *Underlay
	Control  *Host
	Cluster  *Cluster
	Machines []*Machine
}

// LaunchSite starts a site and waits until all kubelets are healthy and have registered their Nodes. When it fails, nothing is left.
func LaunchSite(ctx context.Context, options SiteOptions) (*Site, error) {
	s := &Site{}
	if err := s.launch(ctx, options); err != nil {
		return nil, errors.Join(fmt.Errorf("launch a site: %w", err), s.Close())
	}
	return s, nil
}

func (s *Site) launch(ctx context.Context, o SiteOptions) error {
	o.Cluster.Timeout = cmp.Or(o.Cluster.Timeout, siteTimeout)
	var err error
	if s.Underlay, err = NewUnderlay(); err != nil {
		return err
	}
	if s.Control, err = s.Underlay.Host(); err != nil {
		return err
	}
	// The two take their time independently.
	var wg sync.WaitGroup
	errs := make([]error, 2)
	wg.Go(func() { errs[0] = s.launchCluster(ctx, o.Cluster, o.IPv6) })
	wg.Go(func() { errs[1] = s.launchMachines(ctx, o) })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	errs = make([]error, len(s.Machines))
	for i, m := range s.Machines {
		wg.Go(func() {
			if o.Prepare != nil {
				errs[i] = o.Prepare(m)
			}
			if errs[i] == nil {
				errs[i] = m.Join(ctx, s.Cluster)
			}
			if errs[i] == nil {
				errs[i] = s.registered(ctx, m)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Site) launchCluster(ctx context.Context, o Options, ipv6 bool) error {
	o.Namespace = s.Control.Namespace
	o.Addr = s.Control.Addrs[0]
	if ipv6 {
		o.Addr = s.Control.Addrs[1]
	}
	if o.Controllers == nil {
		o.Controllers = &Controllers{}
	}
	var err error
	s.Cluster, err = Launch(ctx, o)
	return err
}

func (s *Site) launchMachines(ctx context.Context, o SiteOptions) error {
	images, err := StandardImages(o.Cluster.Programs)
	if err != nil {
		return err
	}
	images = append(images, o.Images...)
	// Once, before all machines ask for them.
	if o.Cluster.Programs, err = programs(o.Cluster.Programs, machinePrograms); err != nil {
		return err
	}
	if _, err := imageStore(ctx, o.Cluster.Programs, images); err != nil {
		return fmt.Errorf("make the images: %w", err)
	}
	s.Machines = make([]*Machine, cmp.Or(o.Machines, 2))
	errs := make([]error, len(s.Machines))
	var wg sync.WaitGroup
	for i := range s.Machines {
		wg.Go(func() {
			s.Machines[i], errs[i] = LaunchMachine(ctx, MachineOptions{Name: fmt.Sprintf("node-%d", i+1), Underlay: s.Underlay,
				Images: images, Archives: o.Archives, IPv6: o.IPv6, Kubelet: o.Kubelet, Programs: o.Cluster.Programs, Timeout: o.Cluster.Timeout})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Site) registered(ctx context.Context, m *Machine) error {
	return s.Cluster.Await(ctx, "kubelet to register "+m.Name(), func(ctx context.Context) error {
		_, err := s.Cluster.Do(ctx, Request{Path: "/api/v1/nodes/" + m.Name()})
		return err
	})
}

// RoutePods gives the control plane routes to the Pods of all Nodes, as it has where it runs on a Node: kube-apiserver is a proxy for Pods and
// Services to who asks it for that. A Node that gets another network later needs another call.
func (s *Site) RoutePods(ctx context.Context) error {
	for _, m := range s.Machines {
		networks, err := s.Cluster.PodCIDRs(ctx, m.Name())
		if err != nil {
			return fmt.Errorf("route Pods: %w", err)
		}
		for _, network := range networks {
			through := m.Addrs()[0]
			if network.Addr().Is6() {
				through = m.Addrs()[1]
			}
			if err := s.Control.Route(network, through); err != nil {
				return fmt.Errorf("route Pods: %w", err)
			}
		}
	}
	return nil
}

// Close ends everything and removes all that it was.
func (s *Site) Close() error {
	errs := make([]error, len(s.Machines))
	var wg sync.WaitGroup
	for i, m := range s.Machines {
		if m != nil {
			wg.Go(func() { errs[i] = m.Close() })
		}
	}
	wg.Wait()
	if s.Cluster != nil {
		s.Cluster.Close()
	}
	if s.Underlay != nil {
		s.Underlay.Close()
	}
	return errors.Join(errs...)
}
