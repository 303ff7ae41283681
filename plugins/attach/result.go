package attach

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/netconf"
)

// Result is what ADD tells the runtime: the "Success" object of the CNI specification, in any of its versions from 0.4.0 to 1.1.0.
type Result struct {
	CNIVersion string        `json:"cniVersion"`
	Interfaces []Interface   `json:"interfaces,omitempty"`
	IPs        []IP          `json:"ips,omitempty"`
	Routes     []ResultRoute `json:"routes,omitempty"`
	DNS        netconf.DNS   `json:"dns,omitzero"`
}

// Interface is a link that the attachment uses.
type Interface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac,omitempty"`
	MTU     int    `json:"mtu,omitempty"`     // bytes; since version 1.1.0
	Sandbox string `json:"sandbox,omitempty"` // path of the network namespace; empty for the host
}

// IP is an address of one of the interfaces.
type IP struct {
	Version   string       `json:"version,omitempty"` // "4" or "6"; until version 0.4.0
	Interface *int         `json:"interface,omitempty"`
	Address   netip.Prefix `json:"address"`
	Gateway   netip.Addr   `json:"gateway,omitzero"`
}

// ResultRoute is a route of the pod.
type ResultRoute struct {
	Dst      netip.Prefix `json:"dst"`
	GW       netip.Addr   `json:"gw,omitzero"`
	MTU      int          `json:"mtu,omitempty"` // this and what follows: since version 1.1.0
	AdvMSS   int          `json:"advmss,omitempty"`
	Priority int          `json:"priority,omitempty"`
	Table    *int         `json:"table,omitempty"`
	Scope    *int         `json:"scope,omitempty"`
}

const podInterface = 2 // index of the pod's link in a result of ours

// result tells what the ADD made.
func (a *add) result(bridge kernel.PodBridgeState, pair kernel.PodPair, pod kernel.PodConfig, lease Lease) Result {
	req := a.req
	r := Result{CNIVersion: req.Config.CNIVersion, DNS: req.Config.PodDNS(req.Args.Pod)}
	if r.DNS.IsEmpty() {
		r.DNS = lease.DNS
	}
	r.Interfaces = []Interface{
		{Name: req.Config.Bridge, MAC: bridge.MAC.String(), MTU: bridge.MTU},
		{Name: pair.HostLink, MAC: pair.HostMAC.String(), MTU: pair.MTU},
		{Name: pod.IfName, MAC: pod.MAC.String(), MTU: pair.MTU, Sandbox: req.Netns},
	}
	at := podInterface
	for _, a := range lease.Addresses {
		r.IPs = append(r.IPs, IP{Interface: &at, Address: a.Prefix, Gateway: a.Gateway})
	}
	for _, route := range pod.Routes {
		out := ResultRoute{Dst: route.Dst, GW: route.Gateway, MTU: route.MTU, AdvMSS: route.AdvMSS, Priority: route.Priority, Scope: route.Scope}
		if route.Table != 0 {
			out.Table = &route.Table
		}
		r.Routes = append(r.Routes, out)
	}
	return r.forVersion()
}

// forVersion leaves out what the result's version does not know, and adds what only an old one has.
func (r Result) forVersion() Result {
	if r.CNIVersion == "1.1.0" {
		return r
	}
	for i := range r.Interfaces {
		r.Interfaces[i].MTU = 0
	}
	for i := range r.Routes {
		r.Routes[i] = ResultRoute{Dst: r.Routes[i].Dst, GW: r.Routes[i].GW}
	}
	if strings.HasPrefix(r.CNIVersion, "0.") {
		for i := range r.IPs {
			r.IPs[i].Version = "4"
			if r.IPs[i].Address.Addr().Is6() {
				r.IPs[i].Version = "6"
			}
		}
	}
	return r
}

// parseResult reads a prevResult.
func parseResult(data []byte) (Result, error) {
	var r Result
	if err := json.Unmarshal(data, &r); err != nil {
		return Result{}, fmt.Errorf("prevResult: %w: %w", netconf.ErrSyntax, err)
	}
	return r, nil
}
