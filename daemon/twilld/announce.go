//go:build linux

package main

import (
	"encoding/json"
	"fmt"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/daemon/deadend"
	"github.com/twill-cni/twill/daemon/hostfile"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
)

// offer takes the addresses of Services that this node may announce, instead of those before. It does not wait: of several lists that come
// at once, the last counts. It is called from one goroutine at a time.
func (r *routing) offer(routes []service.Route) {
	if r.cfg.Backend != bgp.BackendType {
		return
	}
	all := make([]bgp.ServiceAddress, 0, len(routes))
	for _, route := range routes {
		all = append(all, bgp.ServiceAddress{Prefix: route.Prefix, Kind: kindOf(route), Local: route.Local})
	}
	select {
	case <-r.offered: // an older one
	default:
	}
	r.offered <- all
}

func kindOf(route service.Route) bgp.ServiceKind {
	switch route.Kind {
	case service.ExternalIP:
		return bgp.ExternalIP
	case service.LoadBalancer:
		return bgp.LoadBalancerIP
	}
	return bgp.ClusterIP
}

// tables returns the table that ends the way of what no Service takes; it goes with the last plan. With another backend there is none.
func (r *routing) tables() []kernel.Table {
	b := r.backend.Load()
	if b == nil {
		return nil
	}
	return []kernel.Table{deadend.Table(b.Translated())}
}

// announce hands the addresses on, and keeps them for the next run.
func (r *routing) announce(all []bgp.ServiceAddress) {
	r.backend.Load().Announce(all)
	data, err := json.Marshal(all)
	if err == nil {
		err = r.host.Remember(hostfile.MemoryOfServices, data)
	}
	if err != nil {
		r.log.Warn("the next run will not know from its start which Services are announced", "err", err)
	}
}

// recallServices returns what an earlier run might announce. The next one goes on with it until the proxy knows the Services, or else a
// restart would withdraw their addresses from routers for a moment, or for as long as nobody says which Services there are. The tables of the
// proxy, which stay in the kernel meanwhile, serve them.
func (r *routing) recallServices() []bgp.ServiceAddress {
	if r.cfg.Proxy == "off" {
		return nil
	}
	var all []bgp.ServiceAddress
	data, err := r.host.Recall(hostfile.MemoryOfServices)
	if err == nil && len(data) > 0 {
		err = json.Unmarshal(data, &all)
	}
	if err == nil {
		err = checkServices(all)
	}
	if err != nil {
		r.log.Warn("which Services the last run announced is not known", "err", err)
		return nil
	}
	return all
}

func checkServices(all []bgp.ServiceAddress) error {
	for _, a := range all {
		if !a.Prefix.IsValid() || !a.Prefix.IsSingleIP() {
			return fmt.Errorf("%v is no host route", a.Prefix)
		}
	}
	return nil
}
