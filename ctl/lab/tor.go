package lab

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/twill-cni/twill/ctl/lab/process"
	"github.com/twill-cni/twill/ctl/lab/router"
	"github.com/twill-cni/twill/kernel"
)

// Router is the BGP speaker of the router between the subnets (Routing.ToR), in a process of its own. Its routes outlive Stop and
// Kill, as those of a switch do.
type Router struct{ service service }

// Router returns the lab's top-of-rack router, which runs where Routing.ToR is set.
func (l *Lab) Router() *Router { return &Router{service{lab: l, name: "router"}} }

// AS returns the number of the router's autonomous system.
func (r *Router) AS() uint32 { return routerAS }

// Start starts the speaker and waits until nodes can connect. When it runs already, nothing happens.
func (r *Router) Start(ctx context.Context) error {
	if err := os.MkdirAll(r.service.file(""), 0o755); err != nil {
		return fmt.Errorf("start the router: %w", err)
	}
	config := r.service.file("config.json")
	if err := save(config, r.service.lab.current().routerConfig()); err != nil {
		return fmt.Errorf("start the router: %w", err)
	}
	return r.service.start(ctx, "--config", config)
}

// routerConfig is what the router should be.
func (o Options) routerConfig() router.Config {
	config := router.Config{AS: routerAS, RouterID: gatewayV4.Addr(), NodesAS: nodesAS, IPv4: o.Family.V4(), IPv6: o.Family.V6()}
	for _, s := range o.subnets() {
		for _, p := range o.families(s.v4, s.v6) {
			config.Subnets = append(config.Subnets, router.Subnet{Link: s.bridge, Prefix: p.Masked()})
		}
	}
	return config
}

// Running reports whether the speaker's process lives.
func (r *Router) Running() bool { return r.service.running() }

// Stop ends the speaker in good order, as before an upgrade. When it never ran, nothing happens.
func (r *Router) Stop(ctx context.Context) error {
	return r.tell("stop", func(id process.ID) error { return id.Stop(ctx, patience) })
}

// Kill ends the speaker at once, as a crash would. When it never ran, nothing happens.
func (r *Router) Kill(ctx context.Context) error {
	return r.tell("kill", func(id process.ID) error { return id.Kill(ctx) })
}

// Remove stops the speaker and removes the routes that it learned.
func (r *Router) Remove(ctx context.Context) error {
	if err := r.Stop(ctx); err != nil {
		return err
	}
	h, err := handle(r.service.lab.Underlay())
	if err != nil {
		return fmt.Errorf("remove the router's routes: %w", err)
	}
	defer h.Close()
	ours := &netlink.Route{Protocol: kernel.RouteProtocol}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := h.RouteListFiltered(family, ours, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return fmt.Errorf("list the router's routes: %w", err)
		}
		for _, route := range routes {
			if err := h.RouteDel(&route); err != nil {
				return fmt.Errorf("remove the router's route to %v: %w", route.Dst, err)
			}
		}
	}
	return nil
}

func (r *Router) tell(what string, f func(process.ID) error) error {
	if err := r.service.tell(what, f); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// LogFile returns the file that holds what the speaker has printed.
func (r *Router) LogFile() string { return r.service.file("log") }
